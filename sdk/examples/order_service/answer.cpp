#include "answer.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace shop {

namespace {

constexpr std::string_view line_end = "\r\n";

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

// `name` is in lower case.
bool is(std::string_view text, std::string_view name) {
    return text.size() == name.size() &&
           std::equal(text.begin(), text.end(), name.begin(), [](char a, char b) { return lower(a) == b; });
}

struct field {
    std::string_view name, value, line; // the line with its end
};

// Calls `with` for each of the head's lines.
template <typename With>
void for_each_field(std::string_view head, With&& with) {
    while (!head.empty()) {
        const auto end = head.find(line_end) + line_end.size();
        const std::string_view line = head.substr(0, end);
        head.remove_prefix(end);
        const auto colon = line.find(':');
        if (colon == std::string_view::npos) throw bad_answer{"not a header: " + std::string{line}};
        std::string_view value = line.substr(colon + 1, line.size() - colon - 1 - line_end.size());
        while (value.starts_with(' ')) value.remove_prefix(1);
        with(field{line.substr(0, colon), value, line});
    }
}

template <typename Number>
Number number(std::string_view text) {
    Number n{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc{} || end != text.data() + text.size())
        throw bad_answer{"not a number: " + std::string{text}};
    return n;
}

} // namespace

std::string_view answer::header(std::string_view name) const noexcept {
    std::string_view found;
    for_each_field(head, [&](const field& each) {
        if (std::ranges::equal(each.name, name, {}, lower, lower)) found = each.value;
    });
    return found;
}

std::string answer::essence() const {
    static constexpr std::array<std::string_view, 5> of_the_exchange{"date", "traceparent", "idempotency-replayed",
                                                                     "connection", "keep-alive"};
    std::string same = std::to_string(status);
    same.reserve(head.size() + body.size() + 8);
    same += line_end;
    for_each_field(head, [&](const field& each) {
        if (std::ranges::none_of(of_the_exchange, [&](std::string_view name) { return is(each.name, name); }))
            same += each.line;
    });
    return same += body;
}

std::optional<answer> answer::parse(std::string_view all) {
    const auto end = all.find("\r\n\r\n");
    if (end == std::string_view::npos) return {};
    const auto first = all.find(line_end); // HTTP/1.1 200 OK
    if (!all.starts_with("HTTP/1.1 ") || first < 12) throw bad_answer{"not HTTP: " + std::string{all.substr(0, 40)}};
    answer a;
    a.status = number<int>(all.substr(9, 3));
    a.head = all.substr(first + 2, end - first);
    std::optional<std::size_t> length;
    for_each_field(a.head, [&](const field& each) {
        if (is(each.name, "content-length")) length = number<std::size_t>(each.value);
        if (is(each.name, "retry-after")) a.retry_after = number<int>(each.value);
        if (is(each.name, "idempotency-replayed")) a.replayed = is(each.value, "true");
        if (is(each.name, "connection")) a.closes = is(each.value, "close");
    });
    if (!length) throw bad_answer{"no Content-Length"};
    const auto body = end + 4;
    if (all.size() - body < *length) return {};
    a.body = all.substr(body, *length);
    a.size_ = body + *length;
    return a;
}

} // namespace shop
