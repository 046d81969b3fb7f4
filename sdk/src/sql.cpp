#include <idem/detail/sql.hpp>
#include <idem/errors.hpp>

#include <array>
#include <charconv>
#include <initializer_list>
#include <utility>

namespace idem {

namespace {

constexpr std::array statuses{std::pair{claim_status::claimed, std::string_view{"claimed"}},
                              std::pair{claim_status::completed, std::string_view{"completed"}},
                              std::pair{claim_status::in_progress, std::string_view{"in_progress"}},
                              std::pair{claim_status::mismatch, std::string_view{"mismatch"}},
                              std::pair{claim_status::cancelled, std::string_view{"cancelled"}}};

} // namespace

std::string_view to_string(claim_status status) noexcept { return statuses[static_cast<std::size_t>(status)].second; }

namespace detail {

std::string interval_sql(std::optional<std::chrono::milliseconds> length) {
    return length ? "'" + std::to_string(length->count()) + " ms'" : "NULL";
}

std::string call_sql(std::string_view name, std::initializer_list<std::string_view> arguments) {
    std::string sql{name};
    char before = '(';
    for (const std::string_view argument : arguments) {
        (sql += before) += argument;
        before = ',';
    }
    return sql += ')';
}

// All arguments are given: the defaults of those left out would cost the server more to read than these.
std::string claim_sql(std::string_view key, std::string_view request, std::string_view scope,
                      const claim_options& options) {
    return "SELECT status, response, cacheable_until FROM " +
           call_sql("idem_claim", {key, request, scope, interval_sql(options.wait), interval_sql(options.ttl), "NULL"});
}

std::string complete_sql(std::string_view key, std::string_view response, std::string_view scope,
                         std::string_view token) {
    return call_sql("SELECT idem_complete", {key, response, scope, token});
}

std::string release_sql(std::string_view key, std::string_view scope, std::string_view token) {
    return call_sql("SELECT idem_release", {key, scope, token});
}

std::string_view no_zero_byte(std::string_view text) {
    if (text.find('\0') != std::string_view::npos)
        throw error{"text for the server cannot contain a zero byte", "22021"};
    return text;
}

claim_status parse_status(std::string_view text) {
    for (const auto& [status, name] : statuses)
        if (name == text) return status;
    throw error{"idem_claim answered '" + std::string{text} + "', unknown to this version of the SDK", "0A000"};
}

std::int64_t parse_number(std::string_view text) {
    std::int64_t number = 0;
    const char* const end = text.data() + text.size();
    if (const auto [rest, failure] = std::from_chars(text.data(), end, number); failure != std::errc{} || rest != end)
        throw error{"the server answered '" + std::string{text} + "', which is no number", "0A000"};
    return number;
}

std::vector<std::int64_t> parse_numbers(std::string_view array) {
    std::vector<std::int64_t> numbers;
    if (array.empty()) return numbers;
    if (!array.starts_with('{') || !array.ends_with('}'))
        throw error{"the server answered '" + std::string{array} + "', which is no array", "0A000"};
    array = array.substr(1, array.size() - 2);
    for (bool more = !array.empty(); more;) {
        const std::size_t comma = array.find(',');
        numbers.push_back(parse_number(array.substr(0, comma)));
        more = comma != std::string_view::npos;
        if (more) array.remove_prefix(comma + 1);
    }
    return numbers;
}

} // namespace detail
} // namespace idem
