#include <idem/consumer.hpp>

#include <idem/detail/messages.hpp>

#include "wire.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <random>
#include <system_error>
#include <vector>

namespace idem {

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds shortest_pause{5}, longest_pause{1000};
constexpr milliseconds aftermath{1000}; // in which a server finds out that a connection was cut
constexpr std::string_view query_canceled = "57014";

// The columns of fetch_sql.
enum column { batch_column, id, topic, key, type, payload, headers, created_at, attempt };

std::vector<message> read(const result& rows) {
    std::vector<message> batch;
    batch.reserve(static_cast<std::size_t>(rows.rows()));
    for (int row = 0; row < rows.rows(); ++row) {
        const auto text = [&](column c) { return std::string{rows.text(row, c)}; };
        const auto if_any = [&](column c) { return rows.is_null(row, c) ? std::nullopt : std::optional{text(c)}; };
        batch.push_back({.id = detail::parse_number(rows.text(row, id)),
                         .topic = text(topic),
                         .key = if_any(key),
                         .type = if_any(type),
                         .payload = text(payload),
                         .headers = if_any(headers),
                         .created_at = text(created_at),
                         .attempt = static_cast<int>(detail::parse_number(rows.text(row, attempt)))});
    }
    return batch;
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

// As detail::ask, for a statement that takes its time; a bell that becomes readable cancels it.
detail::reply ask(PGconn* connection, const std::string& sql, milliseconds time, milliseconds patience, int bell) {
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
    return detail::collect(connection, std::chrono::ceil<milliseconds>(until - clock::now()));
}

std::string fetch_sql(PGconn* connection, std::string_view consumer, milliseconds wait,
                      const consumer_options& options) {
    std::string sql = "BEGIN ISOLATION LEVEL READ COMMITTED; ";
    if (options.idle_timeout.count() > 0)
        sql += "SET LOCAL idle_in_transaction_session_timeout = " + std::to_string(options.idle_timeout.count()) + "; ";
    sql += "SELECT batch, id, topic, key, type, payload, headers, to_json(created_at) #>> '{}', attempt ";
    sql += "FROM idem_fetch(" + detail::quote(connection, consumer) + "," + std::to_string(options.batch);
    return sql + ",'" + std::to_string(wait.count()) + " ms')";
}

// After a failure, when the transaction has been ended: is it worth another try?
bool again_after(const std::optional<std::string>& sqlstate, bool connected) {
    if (!sqlstate) return false;
    if (*sqlstate == sqlstate::serialization_failure || *sqlstate == sqlstate::deadlock_detected) return true;
    return !connected &&
           (sqlstate->empty() || sqlstate->starts_with("08") || sqlstate->starts_with("57P")); // the server went away
}

} // namespace

consumer::consumer(client& on, std::string name, detail::batch_work work, consumer_options options)
    : client_{on},
      name_{std::move(name)},
      work_{std::move(work)},
      options_{std::move(options)} {
    if (pipe(bell_.data()) != 0) throw std::system_error{errno, std::generic_category(), "pipe"};
    for (const int end : bell_) {
        fcntl(end, F_SETFD, FD_CLOEXEC);
        fcntl(end, F_SETFL, O_NONBLOCK);
    }
}

consumer::~consumer() {
    for (const int end : bell_) close(end);
}

void consumer::run() { loop(false); }

void consumer::drain() { loop(true); }

void consumer::stop() noexcept {
    const int saved = errno;                                      // of whom a signal handler has interrupted
    [[maybe_unused]] const auto written = write(bell_[1], "", 1); // a full pipe has rung already
    errno = saved;
}

void consumer::loop(bool until_empty) {
    if (client_.connected() && PQtransactionStatus(client_.connection()) != PQTRANS_IDLE)
        throw error{"a consumer begins its own transactions, but the connection is busy or in one already", "25001"};
    milliseconds pause = shortest_pause;
    while (!stopped()) {
        try {
            if (!client_.connected()) client_.reconnect(options_.response_timeout);
            const milliseconds wait = !until_empty ? options_.wait : suspect_ ? aftermath : milliseconds{0};
            const bool worked = work_on_next_batch(wait);
            suspect_ = false;
            pause = shortest_pause;
            if (until_empty && !worked) return;
        } catch (const std::exception& failure) {
            const auto sqlstate = work_.sqlstate_of_current();
            end_transaction();
            if (!again_after(sqlstate, client_.connected())) throw;
            suspect_ = suspect_ || !client_.connected();
            if (options_.on_retry) options_.on_retry(failure);
            std::random_device random;
            static_cast<void>(
                stopped_within(milliseconds{std::uniform_int_distribution{pause.count() / 2, pause.count()}(random)}));
            pause = std::min(2 * pause, longest_pause);
        } catch (...) {
            end_transaction();
            throw;
        }
    }
}

// One transaction. False if there was nothing to work on.
bool consumer::work_on_next_batch(milliseconds wait) {
    PGconn* const connection = client_.connection();
    const detail::reply fetched =
        ask(connection, fetch_sql(connection, name_, wait, options_), wait, options_.response_timeout, bell_[0]);
    try {
        fetched.check(connection);
    } catch (const error& refused) {
        if (wait.count() == 0 || refused.sqlstate() != query_canceled) throw;
        end_transaction(); // our stop(), a statement_timeout, or a DBA: the wait is over
        return false;
    }
    if (stopped()) { // too late to be cancelled, but not worked on
        end_transaction();
        return false;
    }
    const result& rows = fetched.results.back();
    std::string finish = "COMMIT"; // even of nothing: how far the fetch has looked in vain
    if (rows.rows() > 0) {
        work_.body(client_, options_.response_timeout, read(rows));
        finish = "SELECT idem_ack(" + detail::quote(connection, name_) + "," + std::string{rows.text(0, batch_column)} +
                 "); COMMIT";
    }
    detail::ask(connection, finish, options_.response_timeout).check(connection);
    return rows.rows() > 0;
}

bool consumer::stopped_within(milliseconds patience) const {
    return detail::wait_for(bell_[0], false, clock::now() + patience);
}

// Leaves no transaction open, by dropping the connection if need be.
void consumer::end_transaction() noexcept {
    try {
        PGconn* const connection = client_.connection();
        const PGTransactionStatusType status = PQtransactionStatus(connection);
        if (status == PQTRANS_IDLE) return;
        const bool open = status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
        if (open && detail::ask(connection, "ROLLBACK", options_.response_timeout).whole) return;
    } catch (...) {} // out of memory: the connection is dropped
    client_.disconnect();
}

} // namespace idem
