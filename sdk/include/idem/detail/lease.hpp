// The statements on leases that the SDK sends, and how it reads what comes back. Not for users.
#pragma once

#include <idem/detail/messages.hpp>
#include <idem/detail/sql.hpp>
#include <idem/lease.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace idem::detail {

// Texts are SQL literals, already quoted, or NULL. The columns of a lease are status, response, cacheable_until,
// attempt, token, and the checkpoint's step, state.
std::string claim_lease_sql(std::string_view key, std::string_view request, std::string_view scope,
                            std::chrono::milliseconds length, const claim_options&);
std::string renew_sql(std::string_view key, std::int64_t token, std::chrono::milliseconds length,
                      std::string_view scope);
std::string checkpoint_sql(std::string_view key, std::int64_t token, std::string_view step, std::string_view state,
                           std::string_view scope);

// `text(column)`: the field's text, or nothing for NULL.
template <typename Text>
lease read_lease(Text&& text, std::string_view key, std::string_view scope) {
    std::optional<progress> checkpoint;
    if (auto step = text(5)) checkpoint = {*std::move(step), text(6).value_or("null")};
    const auto attempt = text(3), token = text(4);
    return {{parse_status(*text(0)), text(1), text(2)},
            key,
            scope,
            token ? std::optional{parse_number(*token)} : std::nullopt,
            attempt ? static_cast<int>(parse_number(*attempt)) : 0,
            std::move(checkpoint)};
}

} // namespace idem::detail
