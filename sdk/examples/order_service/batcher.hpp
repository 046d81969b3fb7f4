// batcher: gathers what requests want of the database, and answers them from there. A thread that has nothing to do
// takes what there is at once, unless so many come that a batch of them is worth a short wait.
#pragma once

#include "metrics.hpp"

#include <idem/client.hpp>
#include <idem/execute.hpp>

#include <boost/asio/io_context.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace shop {

// What a request wants of the database. It belongs to who submits it, and stays where it is until it is answered.
class call {
public:
    using clock = std::chrono::steady_clock;

    enum class kind : std::uint8_t { execute, cancel, read };
    enum class result : std::uint8_t {
        // execute
        executed,
        completed,
        mismatch,
        cancelled,
        failed, // `answer` is the message of the handler's error, `sqlstate` its code
        // cancel
        compensated,
        already,
        tombstoned,
        refused, // not by the key: by a state machine, or because it is confirmed
        // read
        found,
        not_found,
        // all of them
        in_progress, // another transaction has the key
        away,        // no database; what became of it is not known, but the key tells
        broken       // `answer` says how
    };

    call() = default;
    call(const call&) = delete;
    call& operator=(const call&) = delete;

    kind what = kind::execute;
    std::string client{}, key{};
    std::string request{};     // execute: what the handler gets; cancel: the reason
    std::string context{};     // execute: what comes along, and is not compared
    clock::time_point until{}; // it must be answered

    result came{};
    std::string answer{}, sqlstate{};
    std::optional<std::chrono::system_clock::time_point> cacheable_until{}; // executed and completed

    // In the io_context's thread, once.
    virtual void answered() = 0;

protected:
    ~call() = default;
};

struct batcher_options {
    std::string conninfo{};
    int threads = 2;
    std::size_t most_waiting = 10'000;
};

class batcher {
public:
    batcher(boost::asio::io_context&, batcher_options, metrics&);
    ~batcher();
    batcher(const batcher&) = delete;
    batcher& operator=(const batcher&) = delete;

    // False if too many wait. In the io_context's thread.
    bool submit(call&);

    [[nodiscard]] std::size_t waiting() const noexcept { return waiting_ + submitted_.size(); }

    // Those that have waited for too long are answered as away. To be called now and then, in the io_context's thread.
    void give_up_overdue();

    // The database answers, as far as is known.
    [[nodiscard]] std::atomic<bool>& connected() noexcept { return connected_; }

private:
    using calls = std::vector<call*>;
    class worker;

    void hand_over();
    bool take(calls&);
    void answer(calls&&);

    boost::asio::io_context& io_;
    batcher_options options_;
    metrics& metrics_;
    std::atomic<bool> connected_{false};
    std::atomic<std::size_t> waiting_{0};

    calls submitted_{}; // since the io_context's thread has last handed over

    std::mutex turn_{};
    std::condition_variable more_{};
    std::deque<call*> queue_{};
    call::clock::time_point gathered_since_{}; // what is in the queue
    call::clock::time_point counted_since_{};  // what was handed over
    std::size_t handed_over_ = 0;
    bool is_busy_ = false; // so many come that waiting for more of them saves time
    bool ended_ = false;

    std::vector<std::thread> threads_{};
};

} // namespace shop
