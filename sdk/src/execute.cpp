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

// ---- many, of which nothing needs to be quoted, nor read as SQL ----

constexpr Oid text_type = 25, texts_type = 1009, jsonb_type = 3802, jsonbs_type = 3807;

void append_int(std::string& to, std::size_t number) {
    for (int shift = 24; shift >= 0; shift -= 8) to += static_cast<char>(number >> shift & 0xff);
}

// An array as the protocol has it in binary; `text` of an item may be nothing.
template <typename Text>
detail::parameter array(std::span<const execute_item> items, Oid element, Text&& text) {
    std::string value;
    append_int(value, items.empty() ? 0 : 1); // dimensions
    append_int(value, 1);                     // there may be a NULL
    append_int(value, element);
    if (!items.empty()) {
        append_int(value, items.size());
        append_int(value, 1); // the first has this number
    }
    for (const execute_item& item : items) {
        const std::optional<std::string_view> each = text(item);
        if (!each) {
            append_int(value, static_cast<std::size_t>(-1));
            continue;
        }
        append_int(value, each->size() + (element == jsonb_type ? 1 : 0));
        if (element == jsonb_type) value += '\1'; // the version of its form
        value += detail::no_zero_byte(*each);
    }
    return {element == text_type ? texts_type : jsonbs_type, std::move(value), true};
}

struct statement {
    std::string sql;
    std::vector<detail::parameter> parameters;
};

statement statement_of(std::string_view handler, std::span<const execute_item> items, const execute_options& options) {
    const auto has_scope = [](const execute_item& item) { return item.scope.has_value(); };
    const auto has_context = [](const execute_item& item) { return item.context.has_value(); };
    const auto scope = [&options](const execute_item& item) {
        return std::optional<std::string_view>{item.scope ? *item.scope : options.scope};
    };
    const bool contexts = std::ranges::any_of(items, has_context);
    statement made;
    made.parameters = {
        {0, std::string{detail::no_zero_byte(handler)}, false},
        array(items, text_type, [](const execute_item& item) { return std::optional<std::string_view>{item.key}; }),
        array(items, jsonb_type,
              [](const execute_item& item) { return std::optional<std::string_view>{item.request}; }),
    };
    if (contexts || std::ranges::any_of(items, has_scope))
        made.parameters.push_back(array(items, text_type, scope));
    else
        made.parameters.push_back({text_type, std::string{detail::no_zero_byte(options.scope)}, false});
    if (contexts)
        made.parameters.push_back(
            array(items, jsonb_type,
                  [](const execute_item& item) -> std::optional<std::string_view> { return item.context; }));
    made.sql = detail::execute_many_sql("$1", "$2", "$3", "$4", contexts ? "$5" : "");
    return made;
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
std::vector<execution> until_known(client& on, const std::function<detail::reply(PGconn*)>& ask,
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
            const detail::reply answer = ask(on.connection());
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
    const auto ask = [&](PGconn* open) {
        return detail::ask(open, sql_of(open, handler, key, request, options), retry.response_timeout);
    };
    return until_known(on, ask, retry).front();
}

std::vector<execution> execute_many(transaction& tx, std::string_view handler, std::span<const execute_item> items,
                                    const execute_options& options) {
    const auto [sql, parameters] = statement_of(handler, items, options);
    const detail::reply answer = detail::ask(tx.connection(), sql, parameters, tx.response_timeout());
    answer.check(tx.connection());
    return read(answer.results.back());
}

std::vector<execution> execute_many(PGconn* connection, std::string_view handler, std::span<const execute_item> items,
                                    const execute_options& options) {
    transaction tx{connection, detail::forever};
    return execute_many(tx, handler, items, options);
}

std::vector<execution> execute_many(client& on, std::string_view handler, std::span<const execute_item> items,
                                    const execute_options& options, const retry_options& retry) {
    const statement many = statement_of(handler, items, options);
    const auto ask = [&](PGconn* open) { return detail::ask(open, many.sql, many.parameters, retry.response_timeout); };
    return until_known(on, ask, retry);
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
    std::string sql = "SELECT status, response, cacheable_until, response->>'sqlstate', response->>'message' FROM " +
                      call_sql("idem_execute_many", {handler, keys, requests, scope});
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
