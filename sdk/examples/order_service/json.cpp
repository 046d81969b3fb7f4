#include "json.hpp"

#include <rapidjson/document.h>
#include <rapidjson/reader.h>

#include <algorithm>

namespace shop {

namespace {

constexpr int deepest = 32;
constexpr std::size_t longest_number = 64, longest_exponent = 3;

// RapidJSON calls it for each value; false ends the parse.
struct checker : rapidjson::BaseReaderHandler<rapidjson::UTF8<>, checker> {
    // numeric has room for more digits, but not for 1e-99999
    bool RawNumber(const char* from, rapidjson::SizeType length, bool /*copy*/) {
        const std::string_view text{from, length};
        const std::size_t exponent = std::min(text.find_first_of("eE"), text.size());
        return length <= longest_number && std::ranges::count_if(text.substr(exponent), [](char c) {
                                               return c >= '0' && c <= '9';
                                           }) <= static_cast<std::ptrdiff_t>(longest_exponent);
    }
    // jsonb takes no \u0000, nor half of a surrogate pair, of which RapidJSON lets the second pass.
    bool String(const char* from, rapidjson::SizeType length, bool /*copy*/) {
        const std::string_view text{from, length};
        if (text.find('\0') != std::string_view::npos) return false;
        for (std::size_t at = 0; (at = text.find('\xED', at)) != std::string_view::npos; ++at)
            if (static_cast<unsigned char>(text[at + 1]) >= 0xA0) return false;
        return true;
    }
    bool Key(const char* from, rapidjson::SizeType length, bool copy) { return String(from, length, copy); }
    bool StartObject() { return ++depth <= deepest; }
    bool EndObject(rapidjson::SizeType) { return --depth >= 0; }
    bool StartArray() { return ++depth <= deepest; }
    bool EndArray(rapidjson::SizeType) { return --depth >= 0; }

    int depth = 0;
};

} // namespace

bool is_jsonb(const std::string& text) {
    constexpr unsigned flags = rapidjson::kParseValidateEncodingFlag | rapidjson::kParseNumbersAsStringsFlag;
    thread_local rapidjson::Reader reader; // keeps its memory
    if (text.find('\0') != std::string::npos) return false;
    rapidjson::StringStream stream{text.c_str()};
    checker each;
    return !reader.Parse<flags>(stream, each).IsError();
}

std::string string_member(const std::string& text, const char* name) {
    rapidjson::Document parsed;
    parsed.Parse(text.c_str());
    if (!parsed.IsObject()) return {};
    const auto found = parsed.FindMember(name);
    if (found == parsed.MemberEnd() || !found->value.IsString()) return {};
    return {found->value.GetString(), found->value.GetStringLength()};
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

std::string unquoted(std::string_view text) {
    if (text.size() < 2) return {};
    text = text.substr(1, text.size() - 2);
    std::string plain;
    for (std::size_t at = 0; at < text.size(); ++at)
        plain += text[at] == '\\' && at + 1 < text.size() ? text[++at] : text[at];
    return plain;
}

} // namespace shop
