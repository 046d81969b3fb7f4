#include "fetch.hpp"

#include <idem/detail/messages.hpp>
#include <idem/detail/sql.hpp>

#include "wire.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <sstream>
#include <string>

namespace idem::detail {

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// What a fetch reads.
constexpr std::string_view columns =
    "batch, lane, id, topic, key, type, payload, headers, to_json(created_at) #>> '{}', "
    "attempt, seq, source, message_id";
enum column { batch, lane, id, topic, key, type, payload, headers, created_at, attempt, seq, source, message_id };

std::vector<message> read(const result& rows) {
    std::vector<message> all;
    all.reserve(static_cast<std::size_t>(rows.rows()));
    for (int row = 0; row < rows.rows(); ++row) {
        const auto text = [&](column c) { return std::string{rows.text(row, c)}; };
        const auto number = [&](column c) { return parse_number(rows.text(row, c)); };
        const auto if_any = [&](column c) { return text_or_null(rows, row, c); };
        all.push_back({.id = number(id),
                       .topic = text(topic),
                       .key = if_any(key),
                       .type = if_any(type),
                       .payload = text(payload),
                       .headers = if_any(headers),
                       .created_at = text(created_at),
                       .batch = number(batch),
                       .lane = number(lane),
                       .attempt = static_cast<int>(number(attempt)),
                       .seq = rows.is_null(row, seq) ? std::nullopt : std::optional{number(seq)},
                       .source = if_any(source),
                       .message_id = if_any(message_id)});
    }
    return all;
}

// Ends what the server is doing for this connection.
void cancel(PGconn* connection) {
    struct free {
        void operator()(PGcancel* handle) const noexcept { PQfreeCancel(handle); }
    };
    const std::unique_ptr<PGcancel, free> handle{PQgetCancel(connection)};
    std::array<char, 256> why{};
    PQcancel(handle.get(), why.data(), why.size());
}

// As ask, for a statement that takes its time; a bell that becomes readable cancels it.
reply ask(PGconn* connection, const std::string& sql, milliseconds time, milliseconds patience, int bell) {
    clock::time_point until = clock::now() + time + patience;
    if (PQsendQuery(connection, sql.c_str()) == 0) return {};
    std::array<pollfd, 2> either{pollfd{PQsocket(connection), POLLIN, 0}, pollfd{bell, POLLIN, 0}};
    while (PQisBusy(connection) != 0) {
        const auto left = std::chrono::ceil<milliseconds>(until - clock::now()).count();
        if (left <= 0) break;
        if (poll(either.data(), either.size(), static_cast<int>(std::min<milliseconds::rep>(left, 60'000))) < 0)
            continue; // EINTR
        if (either[1].revents != 0) {
            cancel(connection);
            until = clock::now() + patience;
            break;
        }
        if (either[0].revents != 0 && PQconsumeInput(connection) == 0) break;
    }
    return collect(connection, std::chrono::ceil<milliseconds>(until - clock::now()));
}

// Tells the server that who lost a connection with a message in hand lives on, so that the message is not to blame.
// With the pid, because of fork.
std::string process() {
    static const std::uint64_t random = [] {
        std::random_device source;
        return std::uint64_t{source()} << 32U | source();
    }();
    std::ostringstream name;
    name << std::hex << random << '-' << std::dec << getpid();
    return name.str();
}

// Does another transaction have a lane, or that lane, of the consumer? The view idem_consumers has it too, but counts.
std::string held_sql(const std::string& consumer, std::optional<std::int64_t> lane) {
    return "SELECT EXISTS (SELECT FROM pg_locks AS l JOIN idem_subscriptions AS s ON l.classid = s.id::oid WHERE "
           "s.consumer = " +
           consumer + (lane ? " AND l.objid = " + std::to_string(*lane) : "") +
           " AND l.locktype = 'advisory' AND l.objsubid = 7343 AND l.granted AND l.pid <> pg_backend_pid() AND "
           "l.database = (SELECT oid FROM pg_database WHERE datname = current_database())); ";
}

std::string fetch_sql(const std::string& consumer, const fetch_options& options) {
    std::string sql =
        "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('idem.client', '" + process() + "', true)";
    if (options.idle_timeout.count() > 0)
        sql += ", set_config('idle_in_transaction_session_timeout', '" + std::to_string(options.idle_timeout.count()) +
               "', true)";
    sql += "; ";
    if (options.last_look) sql += held_sql(consumer, options.lane);
    sql.append("SELECT ").append(columns).append(" FROM ") +=
        call_sql("idem_fetch", {consumer, std::to_string(options.max_messages), interval_sql(options.wait),
                                options.lane ? std::to_string(*options.lane) : "NULL"});
    if (options.last_look) sql += "; SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    return sql;
}

} // namespace

fetched fetch(PGconn* connection, std::string_view consumer, const fetch_options& options, milliseconds patience,
              int bell) {
    const reply answer = ask(connection, fetch_sql(quote(connection, consumer), options), options.wait, patience, bell);
    answer.check(connection);
    const auto last = answer.results.rbegin();
    if (!options.last_look) return {.messages = read(*last)};
    return {.messages = read(last[1]), .held = last[2].text(0, 0) == "t", .wrote = last[0].text(0, 0) == "t"};
}

} // namespace idem::detail
