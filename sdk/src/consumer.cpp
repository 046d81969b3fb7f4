#include <idem/consumer.hpp>

#include <idem/detail/messages.hpp>

#include "fetch.hpp"
#include "wire.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

namespace idem {

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds shortest_pause{5}, longest_pause{1000};
constexpr milliseconds glance{100};     // at a lane that another transaction has, or one of ours that we lost
constexpr milliseconds aftermath{1000}; // in which a server ends one that was idle for too long
constexpr std::string_view query_canceled = "57014", not_in_repertoire = "22021", untranslatable = "22P05";

// After `size` messages of the lane failed together, at one of them if that is known.
detail::search search_after(std::int64_t lane, std::size_t size, std::optional<std::size_t> at) {
    const bool known = at && *at < size;
    const std::size_t good = known ? *at : size / 2; // perhaps
    return {.lane = lane, .among = known ? good + 1 : size, .next = std::max<std::size_t>(good, 1)};
}

// Leaves what every database can store; false if it was no more than that.
bool reduce_to_ascii(std::string& text) {
    const auto foreign = [](char c) { return static_cast<unsigned char>(c) > 127; };
    if (std::none_of(text.begin(), text.end(), foreign)) return false;
    std::replace_if(text.begin(), text.end(), foreign, '?');
    return true;
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
    clock::time_point empty_since{};
    nothing_ = 0;
    while (!stopped()) {
        try {
            if (!client_.connected()) client_.reconnect(options_.response_timeout);
            const bool any = work_on_next_batch(until_empty);
            suspect_ = false;
            pause = shortest_pause;
            if (any) {
                nothing_ = 0;
                const bool full = batch_.size() == static_cast<std::size_t>(options_.batch);
                if (options_.linger.count() > 0 && !until_empty && !full && !search_)
                    static_cast<void>(stopped_within(options_.linger));
            } else if (++nothing_ == 1) {
                empty_since = clock::now();
            } else {
                search_.reset(); // another has the lane now
                const bool overdue =
                    options_.idle_timeout.count() > 0 && clock::now() - empty_since > options_.idle_timeout + aftermath;
                if (until_empty && (!unsettled_ || overdue)) return;
                nothing_ = 2;
            }
        } catch (const std::exception& failure) {
            const auto sqlstate = work_.sqlstate_of_current();
            const bool lost = !client_.connected();
            end_transaction();
            if (!lost && !again_after(sqlstate, client_.connected())) {
                if (blame_a_message(failure, sqlstate)) continue;
                throw;
            }
            suspect_ = suspect_ || !client_.connected();
            empty_since = clock::now();
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
bool consumer::work_on_next_batch(bool until_empty) {
    PGconn* const connection = client_.connection();
    batch_.clear();
    detail::fetch_options options{.max_messages = search_ ? static_cast<int>(search_->next) : options_.batch,
                                  .idle_timeout = options_.idle_timeout,
                                  .lane = search_ ? search_->lane : options_.lane,
                                  .last_look = until_empty && nothing_ > 0};
    if (until_empty)
        options.wait = held_ || suspect_ ? glance : milliseconds{0};
    else if (!search_)
        options.wait = options_.wait;
    try {
        detail::fetched got = detail::fetch(connection, name_, options, options_.response_timeout, bell_[0]);
        held_ = got.held;
        unsettled_ = got.held || got.wrote;
        batch_ = std::move(got.messages);
    } catch (const error& refused) {
        const bool waited = options.wait.count() > 0;
        if (refused.sqlstate() != query_canceled || (!waited && !stopped())) throw;
        end_transaction(); // our stop(), or of a wait a statement_timeout, or a DBA: it is over
        return false;
    }
    if (stopped()) { // too late to be cancelled, but not worked on
        end_transaction();
        return false;
    }
    const std::size_t size = batch_.size();
    std::string finish = "COMMIT"; // even of nothing: how far the fetch has looked in vain
    if (size > 0) {
        const std::string name = detail::quote(connection, name_);
        finish = "SELECT idem_ack(" + name + "," + std::to_string(batch_.front().batch) + "); COMMIT";
        if (size == 1 && search_ && search_->bad == batch_.front().id) {
            const message bad = std::move(std::exchange(batch_, {}).front());
            finish = detail::nack_sql(name, bad, detail::quote(connection, search_->why), {}) + "; " + finish;
        } else {
            at_.reset();
            work_.body(client_, options_.response_timeout, batch_, at_);
            at_.reset(); // a COMMIT that fails does not say of which
        }
    }
    detail::ask(connection, finish, options_.response_timeout).check(connection);
    if (search_ && size < search_->among)
        search_->among -= size, search_->next = std::max<std::size_t>(search_->among / 2, 1);
    else if (search_)
        search_.reset();
    return size > 0;
}

// Was it one of the batch in hand? Then it will be alone soon, or is, and will be parked.
bool consumer::blame_a_message(const std::exception& failure, const std::optional<std::string>& sqlstate) {
    if (batch_.empty()) // unless the last one's text cannot be stored
        return search_ && search_->bad && (sqlstate == not_in_repertoire || sqlstate == untranslatable) &&
               reduce_to_ascii(search_->why);
    search_ = search_after(batch_.front().lane, batch_.size(), at_);
    if (batch_.size() > 1) {
        if (options_.on_retry) options_.on_retry(failure);
        return true;
    }
    if (options_.on_failure) options_.on_failure(batch_.front(), failure);
    search_->bad = batch_.front().id;
    search_->why = failure.what();
    return true;
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
