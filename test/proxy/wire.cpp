#include "wire.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <stdexcept>

namespace idem::test::wire {

namespace {

std::uint32_t number_at(std::string_view bytes, std::size_t at) {
    std::uint32_t n = 0;
    for (std::size_t i = 0; i < 4; ++i) n = n << 8 | static_cast<unsigned char>(bytes[at + i]);
    return n;
}

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

std::string_view trim_end(std::string_view s) {
    while (!s.empty() && is_space(s.back())) s.remove_suffix(1);
    return s;
}

// Take the zero-terminated string at the front of `bytes`.
std::string_view take_string(std::string_view& bytes) {
    const auto end = std::min(bytes.find('\0'), bytes.size());
    const auto taken = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    return taken;
}

std::string_view body(std::string_view message) { return message.substr(5); }

} // namespace

std::size_t message_length(std::string_view bytes, bool typed) {
    const std::size_t letter = typed ? 1 : 0;
    if (bytes.size() < letter + 4) return 0;
    const std::size_t length = number_at(bytes, letter);
    if (length < 4 || (!typed && length < 8) || length > 0x3fffffff)
        throw std::runtime_error("not the PostgreSQL protocol");
    return bytes.size() < letter + length ? 0 : letter + length;
}

std::uint32_t startup_code(std::string_view packet) { return number_at(packet, 4); }

bool ends_in_commit(std::string_view sql) {
    // A literal or a comment cannot be the end: what follows the last semicolon must be the bare command.
    sql = trim_end(sql);
    while (!sql.empty() && sql.back() == ';') sql = trim_end(sql.substr(0, sql.size() - 1));
    if (const auto semicolon = sql.rfind(';'); semicolon != sql.npos) sql.remove_prefix(semicolon + 1);
    while (!sql.empty() && is_space(sql.front())) sql.remove_prefix(1);

    constexpr std::array<std::string_view, 6> commands{
        "commit", "end", "commit work", "commit transaction", "end work", "end transaction"};
    return std::any_of(commands.begin(), commands.end(), [&](std::string_view command) {
        return std::equal(sql.begin(), sql.end(), command.begin(), command.end(),
                          [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; });
    });
}

std::string_view query_text(std::string_view message) {
    auto rest = body(message);
    return take_string(rest);
}

parsed parse_message(std::string_view message) {
    auto rest = body(message);
    const auto name = take_string(rest);
    return {name, take_string(rest)};
}

std::string_view bound_statement(std::string_view message) {
    auto rest = body(message);
    take_string(rest); // the portal
    return take_string(rest);
}

bool is_commit_complete(std::string_view message) { return message[0] == 'C' && query_text(message) == "COMMIT"; }

} // namespace idem::test::wire
