// The statements that the SDK sends, and how it reads what comes back. Not for users.
#pragma once

#include <idem/claim.hpp>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace idem::detail {

// Key, request, response and scope are SQL literals, already quoted; the token is that of a lease. A claim's columns
// are status, response, cacheable_until.
std::string claim_sql(std::string_view key, std::string_view request, std::string_view scope, const claim_options&);
std::string complete_sql(std::string_view key, std::string_view response, std::string_view scope,
                         std::string_view token = "NULL");
std::string release_sql(std::string_view key, std::string_view scope, std::string_view token = "NULL");

// A function or a prepared statement with its arguments, and one of them: SQL, as above.
std::string call_sql(std::string_view name, std::initializer_list<std::string_view> arguments);
std::string interval_sql(std::optional<std::chrono::milliseconds>);

// libpq and libpqxx end a string at its first zero byte; two keys must never become one. Throws error 22021.
std::string_view no_zero_byte(std::string_view);

// They throw error 0A000 for anything else.
claim_status parse_status(std::string_view);
std::int64_t parse_number(std::string_view);
std::vector<std::int64_t> parse_numbers(std::string_view array); // bigint[]; of NULL: none

} // namespace idem::detail
