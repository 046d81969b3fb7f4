// What the service must know of JSON: bodies pass through it as text.
#pragma once

#include <string>
#include <string_view>

namespace shop {

// Would the server take the text as jsonb? Then it can go into a statement with others. Stricter than the server where
// that costs no honest client anything: no number beyond a double, no deep nesting.
bool is_jsonb(std::string_view text);

// Appends it as a JSON string; it must be UTF-8.
void append_quoted(std::string& to, std::string_view text);

// The text of a member of an object, as the server prints jsonb; empty if there is none. A string comes with its
// quotes.
std::string_view member(std::string_view object, std::string_view name);

// What a JSON string says.
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
