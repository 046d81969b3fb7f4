#include "watch.hpp"

#include <idem/errors.hpp>
#include <idem/transaction.hpp>

#include <boost/asio/post.hpp>
#include <spdlog/spdlog.h>

#include <chrono>
#include <optional>
#include <utility>

namespace shop {

namespace {

using namespace std::chrono_literals;

constexpr auto look_every = 250ms;
constexpr auto silent_for = 2s; // then it is away

} // namespace

watch::watch(boost::asio::io_context& io, std::string conninfo, std::atomic<bool>& connected,
             std::function<void(clients)> known)
    : io_{io},
      conninfo_{std::move(conninfo)},
      connected_{connected},
      known_{std::move(known)},
      thread_{[this] { run(); }} {}

watch::~watch() {
    {
        const std::lock_guard lock{turn_};
        ended_ = true;
    }
    wake_.notify_one();
    thread_.join();
}

void watch::refresh() {
    {
        const std::lock_guard lock{turn_};
        wanted_ = true;
    }
    wake_.notify_one();
}

void watch::run() {
    std::optional<idem::client> database;
    std::string complaint;
    std::unique_lock lock{turn_};
    for (; !ended_; wake_.wait_for(lock, look_every, [this] { return ended_ || wanted_; })) {
        const bool wanted = std::exchange(wanted_, false);
        lock.unlock();
        bool there = false;
        try {
            if (!database) database.emplace(conninfo_);
            if (!database->connected()) database->reconnect(silent_for);
            if (wanted)
                boost::asio::post(io_, [this, all = clients::read(*database)]() mutable { known_(std::move(all)); });
            idem::transaction tx{database->connection(), silent_for};
            there = tx.exec("SELECT pg_is_in_recovery()").text(0, 0) == "f";
            complaint.clear();
        } catch (const std::exception& failure) {
            if (complaint != failure.what()) spdlog::warn("the database is away: {}", failure.what());
            complaint = failure.what();
            if (database) database->disconnect();
        }
        connected_ = there;
        lock.lock();
        wanted_ = wanted_ || (wanted && !there);
        if (wanted_ && !there) wake_.wait_for(lock, look_every, [this] { return ended_; });
    }
}

} // namespace shop
