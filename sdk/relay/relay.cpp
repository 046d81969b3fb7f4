#include "relay.hpp"

#include <idem/consumer.hpp>
#include <idem/nack.hpp>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iostream>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

namespace idem::relay {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds patience{10'000};   // with the database
constexpr milliseconds pause{1'000};       // before the other side is asked again
constexpr milliseconds round_every{5'000}; // how soon added lanes are seen

// Passes out of a consumer, which takes a std::exception for a message that fails.
struct ends_relay {
    std::exception_ptr why;
};

std::string one_line(std::string text) {
    for (char& c : text)
        if (c == '\n') c = ' ';
    return text;
}

void say(const std::string& text) { std::cerr << "idem-relay: " + one_line(text) + '\n'; }

} // namespace

// ---- a lane ----

struct relay::lane {
    lane(relay& of, std::int64_t nr)
        : all{of},
          number{nr},
          to{of.sinks_()},
          connection{of.options_.dsn},
          messages{connection,
                   of.options_.consumer,
                   [this](transaction& tx, std::span<const message> batch) { deliver(tx, batch); },
                   {.batch = of.options_.batch,
                    .linger = of.options_.linger,
                    .response_timeout = patience,
                    .idle_timeout = to->patience(),
                    .lane = nr,
                    .on_retry = [this](const std::exception& failure) { before_new_try(failure); },
                    .on_failure = [](const message&, const std::exception& failure) { // of the ack: no message's fault
                        throw std::runtime_error{failure.what()};
                    }}} {}

    void deliver(transaction& tx, std::span<const message> batch) {
        all.succeeded(side::database);
        std::optional<refusal> refused;
        try {
            refused = to->deliver(batch);
        } catch (const away& gone) {
            throw try_again{gone.what()};
        } catch (...) {
            throw ends_relay{std::current_exception()};
        }
        all.succeeded(side::sink);
        const std::size_t safe = refused ? refused->index : batch.size();
        if (safe > 0) all.metrics_.delivered(number, batch.first(safe));
        if (!refused) return;
        const message& m = batch[safe];
        all.metrics_.refused(number);
        say("lane " + std::to_string(number) + ": message " + std::to_string(m.id) + " of topic \"" + m.topic +
            "\" is refused: " + refused->why);
        static_cast<void>(nack(tx, all.options_.consumer, m, refused->why)); // with it go those after it
    }

    // The batch has been rolled back; nothing is fetched while it cannot be delivered.
    void before_new_try(const std::exception& failure) {
        if (dynamic_cast<const try_again*>(&failure) != nullptr) {
            all.failed(side::sink, failure.what());
            if (all.options_.once) throw away{failure.what()};
            if (!all.stopped_within(pause)) all.until_reached(side::sink, [this] { to->connect(); });
        } else {
            all.failed(side::database, failure.what());
            const auto* const refused = dynamic_cast<const error*>(&failure);
            if (all.options_.once && refused != nullptr && refused->sqlstate() == sqlstate::cannot_connect)
                throw *refused;
        }
    }

    relay& all;
    std::int64_t number;
    std::unique_ptr<sink> to;
    client connection;
    consumer messages;
    std::thread thread{};
};

void relay::work(lane& mine) noexcept {
    std::exception_ptr failure;
    try {
        if (until_reached(side::sink, [&] { mine.to->connect(); }))
            options_.once ? mine.messages.drain() : mine.messages.run();
    } catch (const ends_relay& end) {
        failure = end.why;
    } catch (...) {
        failure = std::current_exception();
    }
    const std::lock_guard lock{turn_};
    if (failure && !failure_) failure_ = failure;
    if (--working_ == 0 || failure) stop();
}

void relay::add_lanes(std::int64_t count) {
    auto nr = static_cast<std::int64_t>(lanes_.size());
    const auto to_begin = [&] { return static_cast<std::size_t>(std::max<std::int64_t>(count - nr, 0)); };
    {
        const std::lock_guard lock{turn_};
        working_ += to_begin(); // all of them count before the first one can be done
    }
    try {
        for (; nr < count; ++nr) {
            lane& added = *lanes_.emplace_back(std::make_unique<lane>(*this, nr));
            added.thread = std::thread{[this, &added] { work(added); }};
        }
    } catch (...) {
        const std::lock_guard lock{turn_};
        working_ -= to_begin();
        throw;
    }
}

void relay::end() noexcept {
    stop();
    for (const auto& each : lanes_) each->messages.stop();
    for (const auto& each : lanes_)
        if (each->thread.joinable()) each->thread.join();
    lanes_.clear();
}

// ---- all of them ----

relay::relay(options given, sinks to, metrics& counts)
    : options_{std::move(given)},
      sinks_{std::move(to)},
      metrics_{counts} {
    if (pipe(bell_.data()) != 0) throw std::system_error{errno, std::generic_category(), "pipe"};
    for (const int fd : bell_) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, O_NONBLOCK);
    }
}

relay::~relay() {
    end();
    for (const int fd : bell_) close(fd);
}

// For as long as it takes, unless `once` is set; false when run is to end.
template <typename Reach>
bool relay::until_reached(side which, Reach&& reach) {
    do {
        try {
            reach();
            succeeded(which);
            return true;
        } catch (const away& gone) {
            failed(which, gone.what());
            if (options_.once) throw;
        } catch (const error& refused) {
            const bool gone = refused.sqlstate().starts_with("08") || refused.sqlstate().starts_with("57P");
            if (options_.once || !gone) throw;
            failed(which, refused.what());
            if (client_) client_->disconnect();
        }
    } while (!stopped_within(pause));
    return false;
}

void relay::subscribe() {
    transaction tx{client_->connection(), patience};
    const std::string count = std::to_string(std::max(1, options_.lanes));
    if (!options_.topics.empty())
        tx.exec("SELECT idem_subscribe($1, string_to_array($2, ','), $3::int, external => true)",
                {options_.consumer, options_.topics, count});
    else
        tx.exec("SELECT idem_subscribe(consumer, topics, $2::int, external => external) FROM idem_subscriptions "
                "WHERE consumer = $1",
                {options_.consumer, count});
}

std::int64_t relay::lanes() {
    if (!client_->connected()) client_->reconnect(patience);
    const result rows = transaction{client_->connection(), patience}.exec(
        "SELECT lanes, external FROM idem_subscriptions WHERE consumer = $1", {options_.consumer});
    const std::string name = "consumer \"" + options_.consumer + '"';
    if (rows.rows() == 0) throw error{name + " does not exist\nHINT:  With --topics it is made known.", "42704"};
    if (rows.text(0, 1) != "t")
        throw error{name + " is internal: its messages are worked on in their own database\nHINT:  For the relay, "
                           "subscribe one of another name: give --topics, or call idem_subscribe(…, external => true).",
                    "22023"};
    return std::stoll(std::string{rows.text(0, 0)});
}

void relay::run() {
    const std::unique_ptr<sink> probe = sinks_();
    const auto know_consumer = [&] {
        client_.emplace(options_.dsn);
        if (!options_.topics.empty() || options_.lanes > 0) subscribe();
        static_cast<void>(lanes());
    };
    if (until_reached(side::database, know_consumer) && until_reached(side::sink, [&] { probe->connect(); }))
        until_reached(side::database, [&] { add_lanes(lanes()); });
    while (!stopped_within(round_every))
        if (!options_.once) look_around(*probe);
    end();
    if (failure_) std::rethrow_exception(failure_);
}

// For lanes that were added, and for those who look at the metrics while no message comes.
void relay::look_around(sink& probe) {
    try {
        add_lanes(lanes());
        metrics_.connected(side::database, true);
    } catch (const error&) { // lanes tell what is wrong
        client_->disconnect();
        metrics_.connected(side::database, false);
    }
    try {
        probe.connect();
        metrics_.connected(side::sink, true);
    } catch (const away&) {
        metrics_.connected(side::sink, false);
    }
}

void relay::stop() noexcept {
    const int saved = errno; // of whom a signal handler has interrupted
    [[maybe_unused]] const auto written = write(bell_[1], "", 1);
    errno = saved;
}

bool relay::stopped_within(milliseconds time) const {
    const auto until = std::chrono::steady_clock::now() + time;
    pollfd bell{bell_[0], POLLIN, 0};
    for (;;) {
        const auto left = std::chrono::ceil<milliseconds>(until - std::chrono::steady_clock::now()).count();
        const int rings = poll(&bell, 1, static_cast<int>(left > 0 ? left : 0));
        if (rings != 0 && !(rings < 0 && errno == EINTR)) return true;
        if (rings == 0) return false;
    }
}

void relay::failed(side where, const std::string& why) {
    metrics_.connected(where, false);
    metrics_.retried(where);
    const std::lock_guard lock{turn_};
    std::string& last = complaints_[static_cast<std::size_t>(where)];
    if (last != why && !options_.once) say(why + "; trying again");
    last = why;
}

void relay::succeeded(side where) {
    metrics_.connected(where, true);
    const std::lock_guard lock{turn_};
    complaints_[static_cast<std::size_t>(where)].clear();
}

} // namespace idem::relay
