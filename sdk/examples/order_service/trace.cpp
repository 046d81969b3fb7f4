#include "trace.hpp"

#include <algorithm>
#include <cstdint>
#include <random>

namespace shop {

namespace {

constexpr std::size_t length = 55; // of version 00

bool is_hex(std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}
bool is_zero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

bool is_valid(std::string_view text) {
    if (text.size() < length) return false;
    const std::string_view version = text.substr(0, 2), trace = text.substr(3, 32), parent = text.substr(36, 16);
    return text[2] == '-' && text[35] == '-' && text[52] == '-' && is_hex(version) && version != "ff" &&
           is_hex(trace) && !is_zero(trace) && is_hex(parent) && !is_zero(parent) && is_hex(text.substr(53, 2)) &&
           (text.size() == length || (version != "00" && text[length] == '-'));
}

void append_hex(std::string& to, std::uint64_t number) {
    for (int shift = 60; shift >= 0; shift -= 4) to += "0123456789abcdef"[(number >> shift) & 15];
}

} // namespace

void take_traceparent(std::string& into, std::string_view header) {
    if (is_valid(header)) { // a later version is told in ours, as that has it
        into = "00";
        into += header.substr(2, length - 2);
        return;
    }
    thread_local std::mt19937_64 random{std::random_device{}()};
    into = "00-";
    append_hex(into, random());
    append_hex(into, random() | 1); // never zero
    into += '-';
    append_hex(into, random() | 1);
    into += "-01";
}

} // namespace shop
