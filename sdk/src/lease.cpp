#include <idem/lease.hpp>

#include <idem/compensate.hpp>
#include <idem/detail/compensate.hpp>
#include <idem/detail/lease.hpp>
#include <idem/errors.hpp>

#include "wire.hpp"

#include <utility>

namespace idem {

namespace {

// Quotes for the transaction's connection.
auto quoting(transaction& tx) {
    return [&tx](std::string_view text) { return detail::quote(tx.connection(), text); };
}

} // namespace

lease::lease(claim_result answer, std::string_view key, std::string_view scope, std::optional<std::int64_t> token,
             int attempt, std::optional<progress> checkpoint)
    : claim_result{std::move(answer)},
      key_{key},
      scope_{scope},
      token_{token},
      attempt_{attempt},
      checkpoint_{std::move(checkpoint)} {}

std::int64_t lease::token() const {
    if (!token_) throw error{"a lease that is " + std::string{to_string(status())} + " has no token", "55000"};
    return *token_;
}

lease claim_lease(transaction& tx, std::string_view key, std::optional<std::string_view> request,
                  std::chrono::milliseconds length, const claim_options& options) {
    const auto quote = quoting(tx);
    const result row = tx.exec(
        detail::claim_lease_sql(quote(key), request ? quote(*request) : "NULL", quote(options.scope), length, options));
    return detail::read_lease([&row](int column) { return detail::text_or_null(row, 0, column); }, key, options.scope);
}

lease claim_lease(PGconn* connection, std::string_view key, std::optional<std::string_view> request,
                  std::chrono::milliseconds length, const claim_options& options) {
    transaction tx{connection, detail::forever};
    return claim_lease(tx, key, request, length, options);
}

void renew(transaction& tx, const lease& held, std::chrono::milliseconds length) {
    const auto quote = quoting(tx);
    tx.exec(detail::renew_sql(quote(held.key()), held.token(), length, quote(held.scope())));
}

void renew(PGconn* connection, const lease& held, std::chrono::milliseconds length) {
    transaction tx{connection, detail::forever};
    renew(tx, held, length);
}

void checkpoint(transaction& tx, const lease& held, std::string_view step, std::string_view state) {
    const auto quote = quoting(tx);
    tx.exec(detail::checkpoint_sql(quote(held.key()), held.token(), quote(step), quote(state), quote(held.scope())));
}

void checkpoint(PGconn* connection, const lease& held, std::string_view step, std::string_view state) {
    transaction tx{connection, detail::forever};
    checkpoint(tx, held, step, state);
}

void compensate_with(transaction& tx, const lease& held, std::string_view handler, std::string_view args,
                     std::optional<std::chrono::milliseconds> deadline) {
    const auto quote = quoting(tx);
    tx.exec(detail::compensate_with_sql(quote(held.key()), quote(handler), quote(args), {.deadline = deadline},
                                        quote(held.scope()), std::to_string(held.token())));
}

void compensate_with(PGconn* connection, const lease& held, std::string_view handler, std::string_view args,
                     std::optional<std::chrono::milliseconds> deadline) {
    transaction tx{connection, detail::forever};
    compensate_with(tx, held, handler, args, deadline);
}

std::string complete(transaction& tx, const lease& held, std::string_view response) {
    const auto quote = quoting(tx);
    const result row = tx.exec(
        detail::complete_sql(quote(held.key()), quote(response), quote(held.scope()), std::to_string(held.token())));
    return std::string{row.text(0, 0)};
}

std::string complete(PGconn* connection, const lease& held, std::string_view response) {
    transaction tx{connection, detail::forever};
    return complete(tx, held, response);
}

void release(transaction& tx, const lease& held) {
    const auto quote = quoting(tx);
    tx.exec(detail::release_sql(quote(held.key()), quote(held.scope()), std::to_string(held.token())));
}

void release(PGconn* connection, const lease& held) {
    transaction tx{connection, detail::forever};
    release(tx, held);
}

namespace detail {

std::string claim_lease_sql(std::string_view key, std::string_view request, std::string_view scope,
                            std::chrono::milliseconds length, const claim_options& options) {
    return "SELECT status, response, cacheable_until, attempt, token, checkpoint->>'step', checkpoint->'state' FROM " +
           call_sql("idem_claim",
                    {key, request, scope, interval_sql(options.wait), interval_sql(options.ttl), interval_sql(length)});
}

std::string renew_sql(std::string_view key, std::int64_t token, std::chrono::milliseconds length,
                      std::string_view scope) {
    return call_sql("SELECT idem_renew", {key, std::to_string(token), interval_sql(length), scope});
}

std::string checkpoint_sql(std::string_view key, std::int64_t token, std::string_view step, std::string_view state,
                           std::string_view scope) {
    return call_sql("SELECT idem_checkpoint", {key, std::to_string(token), step, state, scope});
}

} // namespace detail
} // namespace idem
