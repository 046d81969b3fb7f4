#include <idem/compensate.hpp>

#include <idem/detail/compensate.hpp>
#include <idem/detail/sql.hpp>
#include <idem/errors.hpp>

#include "wire.hpp"

#include <array>
#include <utility>

namespace idem {

namespace {

constexpr std::array<std::string_view, 5> statuses{"compensated", "already", "tombstoned", "refused", "in_progress"};

} // namespace

void compensate_with(transaction& tx, std::string_view key, std::string_view handler, std::string_view args,
                     const compensate_options& options) {
    const auto quote = [&tx](std::string_view text) { return detail::quote(tx.connection(), text); };
    tx.exec(detail::compensate_with_sql(quote(key), quote(handler), quote(args), options, quote(options.scope)));
}

void compensate_with(PGconn* connection, std::string_view key, std::string_view handler, std::string_view args,
                     const compensate_options& options) {
    transaction tx{connection, detail::forever};
    compensate_with(tx, key, handler, args, options);
}

void confirm(transaction& tx, std::string_view key, std::string_view scope) {
    tx.exec(detail::confirm_sql(detail::quote(tx.connection(), key), detail::quote(tx.connection(), scope)));
}

void confirm(PGconn* connection, std::string_view key, std::string_view scope) {
    transaction tx{connection, detail::forever};
    confirm(tx, key, scope);
}

std::string_view to_string(cancel_status status) noexcept { return statuses[static_cast<std::size_t>(status)]; }

cancellation::cancellation(cancel_status status, std::optional<std::string> response, std::optional<refused_step> step)
    : status_{status},
      response_{std::move(response)},
      step_{std::move(step)} {}

const std::string& cancellation::response() const {
    if (!response_)
        throw error{"a cancellation that is " + std::string{to_string(status_)} + " has no response", "55000"};
    return *response_;
}

cancellation cancel(transaction& tx, std::string_view key, const cancel_options& options) {
    const auto quote = [&tx](std::string_view text) { return detail::quote(tx.connection(), text); };
    const result row = tx.exec(detail::cancel_sql(quote(key), options.reason ? quote(*options.reason) : "NULL",
                                                  quote(options.scope), options));
    return detail::read_cancellation([&row](int column) { return detail::text_or_null(row, 0, column); });
}

cancellation cancel(PGconn* connection, std::string_view key, const cancel_options& options) {
    transaction tx{connection, detail::forever};
    return cancel(tx, key, options);
}

namespace detail {

std::string compensate_with_sql(std::string_view key, std::string_view handler, std::string_view args,
                                const compensate_options& options, std::string_view scope, std::string_view token) {
    return call_sql("SELECT idem_compensate_with", {key, handler, args, scope, interval_sql(options.deadline), token});
}

std::string confirm_sql(std::string_view key, std::string_view scope) {
    return call_sql("SELECT idem_confirm", {key, scope});
}

std::string cancel_sql(std::string_view key, std::string_view reason, std::string_view scope,
                       const cancel_options& options) {
    return "SELECT status, response, response->>'machine', response->>'from', response->>'to' FROM " +
           call_sql("idem_cancel", {key, reason, scope, interval_sql(options.wait)});
}

cancel_status parse_cancel_status(std::string_view text) {
    for (std::size_t i = 0; i < statuses.size(); ++i)
        if (statuses[i] == text) return static_cast<cancel_status>(i);
    throw error{"idem_cancel answered '" + std::string{text} + "', unknown to this version of the SDK", "0A000"};
}

} // namespace detail
} // namespace idem
