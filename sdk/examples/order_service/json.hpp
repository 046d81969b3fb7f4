// What the service must know of JSON: bodies pass through it as text.
#pragma once

#include <string>
#include <string_view>

namespace shop {

// Would the server take the text as jsonb? Then it can go into a statement with others. Stricter than the server where
// that costs no honest client anything: no endless numbers, no deep nesting.
bool is_jsonb(const std::string& text);

// Appends it as a JSON string; it must be UTF-8.
void append_quoted(std::string& to, std::string_view text);

// Of an object that is_jsonb, a member that is a string; empty if there is none.
std::string string_member(const std::string& text, const char* name);

// What a JSON string says that the server printed, and that has nothing but printable ASCII.
std::string unquoted(std::string_view text);

// Calls `each(name, value)` for the members of an object that the server printed, whose names have no escapes.
template <typename Each>
void for_members(std::string_view object, Each&& each);

// Past the value that begins there.
std::size_t end_of_value(std::string_view text, std::size_t from);

template <typename Each>
void for_members(std::string_view object, Each&& each) {
    // {"name": value, "name": value}
    for (std::size_t at = 1; at < object.size() && object[at] == '"';) {
        const std::size_t name_end = end_of_value(object, at), value = name_end + 2;
        const std::size_t end = end_of_value(object, value);
        each(object.substr(at + 1, name_end - at - 2), object.substr(value, end - value));
        at = end + 2;
    }
}

} // namespace shop
