#include "json.hpp"

#include <nlohmann/json.hpp>

#include <cmath>

namespace shop {

namespace {

constexpr int deepest = 32;
constexpr std::size_t longest_number = 64;

// For nlohmann's parser, which calls it for each value: false ends it.
struct checker {
    using number_integer_t = nlohmann::json::number_integer_t;
    using number_unsigned_t = nlohmann::json::number_unsigned_t;
    using number_float_t = nlohmann::json::number_float_t;
    using string_t = nlohmann::json::string_t;
    using binary_t = nlohmann::json::binary_t;

    int depth = 0;

    bool null() { return true; }
    bool boolean(bool) { return true; }
    bool number_integer(number_integer_t) { return true; }
    bool number_unsigned(number_unsigned_t) { return true; }
    // numeric has room for more, but not for 1e-99999
    bool number_float(number_float_t value, const string_t& text) {
        return text.size() <= longest_number && (std::isnormal(value) || text.find_first_of("eE") == string_t::npos);
    }
    bool string(const string_t& text) { return text.find('\0') == string_t::npos; }
    bool binary(binary_t&) { return false; }
    bool start_object(std::size_t) { return ++depth <= deepest; }
    bool key(const string_t& text) { return string(text); }
    bool end_object() { return --depth >= 0; }
    bool start_array(std::size_t) { return ++depth <= deepest; }
    bool end_array() { return --depth >= 0; }
    bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) { return false; }
};

} // namespace

bool is_jsonb(std::string_view text) {
    checker each;
    return !text.starts_with("\xEF\xBB\xBF") && // which nlohmann would skip
           nlohmann::json::sax_parse(text.begin(), text.end(), &each);
}

void append_quoted(std::string& to, std::string_view text) {
    to += '"';
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            (to += '\\') += c;
        } else if (static_cast<unsigned char>(c) < ' ') {
            constexpr std::string_view digits = "0123456789abcdef";
            to += "\\u00";
            to += digits[static_cast<std::size_t>(c) >> 4];
            to += digits[static_cast<std::size_t>(c) & 15];
        } else {
            to += c;
        }
    }
    to += '"';
}

std::size_t end_of_value(std::string_view text, std::size_t from) {
    int depth = 0;
    for (std::size_t at = from; at < text.size(); ++at) {
        switch (text[at]) {
        case '"':
            for (++at; at < text.size() && text[at] != '"'; ++at)
                if (text[at] == '\\') ++at;
            if (depth == 0) return at + 1;
            break;
        case '{':
        case '[': ++depth; break;
        case '}':
        case ']':
            if (depth == 0) return at; // after a number, in what is around it
            if (--depth == 0) return at + 1;
            break;
        case ',':
            if (depth == 0) return at;
            break;
        default: break;
        }
    }
    return text.size();
}

std::string_view member(std::string_view object, std::string_view name) {
    std::string_view found;
    for_members(object, [&](std::string_view each, std::string_view value) {
        if (each == name) found = value;
    });
    return found;
}

std::string unquoted(std::string_view text) {
    if (text.find('\\') == std::string_view::npos)
        return std::string{text.size() >= 2 ? text.substr(1, text.size() - 2) : ""};
    return nlohmann::json::parse(text).get<std::string>();
}

} // namespace shop
