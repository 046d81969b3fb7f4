#include <idem/execute.hpp>

#include <idem/detail/execute.hpp>
#include <idem/detail/sql.hpp>

#include "wire.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <random>
#include <thread>
#include <utility>

namespace idem {

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::array<std::string_view, 6> statuses{"executed", "completed", "in_progress",
                                                   "mismatch", "cancelled", "failed"};

std::string sql_of(PGconn* connection, std::string_view handler, std::string_view key, std::string_view request,
                   const execute_options& options) {
    const auto quote = [connection](std::string_view text) { return detail::quote(connection, text); };
    return detail::execute_sql(quote(handler), quote(key), quote(request), quote(options.scope), options);
}

std::string sql_of(PGconn* connection, std::string_view handler, std::span<const execute_item> items,
                   const execute_options& options) {
    const auto quote = [connection](std::string_view text) { return detail::quote(connection, text); };
    return detail::execute_many_sql(handler, items, options, quote);
}

std::vector<execution> read(const result& rows) {
    return detail::read_executions([&rows](int row, int column) { return detail::text_or_null(rows, row, column); },
                                   rows.rows());
}

void pause(int tries, milliseconds backoff, clock::time_point until) {
    const auto longest = std::min<milliseconds>(backoff * (1 << std::min(tries, 10)), std::chrono::seconds{1});
    std::uniform_int_distribution<milliseconds::rep> jitter{longest.count() / 2, longest.count()};
    std::random_device random;
    std::this_thread::sleep_until(std::min(clock::now() + milliseconds{jitter(random)}, until));
}

// One statement in a transaction of its own, until it is known what became of it. Whatever became of an earlier try,
// the keys tell the next one: what was in doubt is completed, or runs now; or it is in progress, because the server has
// not noticed yet that we are gone.
std::vector<execution> until_known(client& on, const std::function<std::string(PGconn*)>& sql,
                                   const retry_options& options) {
    const clock::time_point deadline = clock::now() + options.deadline;
    if (on.connected() && PQtransactionStatus(on.connection()) != PQTRANS_IDLE)
        throw error{"execute begins its own transaction, but the connection is busy or in one already", "25001"};

    bool in_doubt = false;
    std::string trouble;
    for (int tries = 0;; ++tries) {
        try {
            if (!on.connected()) on.reconnect(options.response_timeout);
            const detail::replication_watch watch{on.connection()};
            const detail::reply answer = detail::ask(on.connection(), sql(on.connection()), options.response_timeout);
            in_doubt = in_doubt || !answer.whole;
            answer.check(on.connection());
            std::vector<execution> all = read(answer.results.back());
            const bool held = std::any_of(all.begin(), all.end(), [](const execution& one) {
                return one.status() == execute_status::in_progress;
            });
            if (!watch.warned() && !(in_doubt && held)) return all;
            in_doubt = true;
        } catch (const error& refused) {
            trouble = refused.what();
            if (PQtransactionStatus(on.connection()) != PQTRANS_IDLE) on.disconnect();
            const bool again = in_doubt || !on.connected() || refused.sqlstate() == sqlstate::serialization_failure ||
                               refused.sqlstate() == sqlstate::deadlock_detected;
            if (!again || (!in_doubt && clock::now() >= deadline)) throw;
        }
        if (clock::now() >= deadline)
            throw error{"no answer before the deadline whether it was committed; ask again with the same keys (" +
                            trouble + ")",
                        sqlstate::in_doubt};
        pause(tries, options.backoff, deadline);
    }
}

} // namespace

std::string_view to_string(execute_status status) noexcept { return statuses[static_cast<std::size_t>(status)]; }

execution::execution(execute_status status, std::optional<std::string> response,
                     std::optional<std::string> cacheable_until, std::optional<error> failure)
    : status_{status},
      response_{std::move(response)},
      cacheable_until_{std::move(cacheable_until)},
      failure_{std::move(failure)} {}

const std::string& execution::response() const {
    if (failure_) throw error{*failure_};
    if (!*this || !response_)
        throw error{"an execution that is " + std::string{to_string(status_)} + " has no response", "55000"};
    return *response_;
}

execution execute(transaction& tx, std::string_view handler, std::string_view key, std::string_view request,
                  const execute_options& options) {
    return read(tx.exec(sql_of(tx.connection(), handler, key, request, options))).front();
}

execution execute(PGconn* connection, std::string_view handler, std::string_view key, std::string_view request,
                  const execute_options& options) {
    transaction tx{connection, detail::forever};
    return execute(tx, handler, key, request, options);
}

execution execute(client& on, std::string_view handler, std::string_view key, std::string_view request,
                  const execute_options& options, const retry_options& retry) {
    return until_known(
               on, [&](PGconn* open) { return sql_of(open, handler, key, request, options); }, retry)
        .front();
}

std::vector<execution> execute_many(transaction& tx, std::string_view handler, std::span<const execute_item> items,
                                    const execute_options& options) {
    return read(tx.exec(sql_of(tx.connection(), handler, items, options)));
}

std::vector<execution> execute_many(PGconn* connection, std::string_view handler, std::span<const execute_item> items,
                                    const execute_options& options) {
    transaction tx{connection, detail::forever};
    return execute_many(tx, handler, items, options);
}

std::vector<execution> execute_many(client& on, std::string_view handler, std::span<const execute_item> items,
                                    const execute_options& options, const retry_options& retry) {
    return until_known(
        on, [&](PGconn* open) { return sql_of(open, handler, items, options); }, retry);
}

namespace detail {

std::string execute_sql(std::string_view handler, std::string_view key, std::string_view request,
                        std::string_view scope, const execute_options& options) {
    return "SELECT status, response, cacheable_until FROM " +
           call_sql("idem_execute", {handler, key, request, scope, interval_sql(options.ttl)});
}

std::string array_sql(std::string_view elements, std::string_view type) {
    return "ARRAY[" + std::string{elements} + "]::" + std::string{type} + "[]";
}

std::string execute_many_sql(std::string_view handler, std::string_view keys, std::string_view requests,
                             std::string_view scope, std::string_view contexts) {
    std::string sql =
        "SELECT status, response, cacheable_until, response->>'sqlstate', response->>'message' FROM " +
        call_sql("idem_execute_many", {handler, array_sql(keys, "text"), array_sql(requests, "jsonb"), scope});
    if (!contexts.empty()) sql.insert(sql.size() - 1, "," + std::string{contexts});
    return sql;
}

execute_status parse_execute_status(std::string_view text) {
    for (std::size_t i = 0; i < statuses.size(); ++i)
        if (statuses[i] == text) return static_cast<execute_status>(i);
    throw error{"idem_execute answered '" + std::string{text} + "', unknown to this version of the SDK", "0A000"};
}

} // namespace detail
} // namespace idem
