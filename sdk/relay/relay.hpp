// relay: the lanes of an external consumer, each with its thread, its connection to the database and its sink.
#pragma once

#include "metrics.hpp"
#include "sink.hpp"

#include <idem/client.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace idem::relay {

struct options {
    std::string dsn{}, consumer{};
    int batch = 1000;
    std::chrono::milliseconds linger{0}; // as a consumer's
    bool once = false;                   // ends when there is nothing left, or the other side is away
    std::string topics{};                // separated by commas; not empty: the consumer is made known, if it is not
    int lanes = 0;                       // it gets so many, if it has fewer
};

class relay {
public:
    relay(options, sinks, metrics&);
    relay(const relay&) = delete;
    relay& operator=(const relay&) = delete;
    ~relay();

    // Makes the consumer known; one that there is may gain lanes. `topics` are separated by commas; empty: those that
    // it has.
    void subscribe(const std::string& topics, int lanes);

    // Delivers until stop(); lanes that are added join in. Throws what ends a lane, 42704 when there is no such
    // consumer, 22023 when it is internal; with `once` away, or 08001 when a lost connection cannot be made again.
    void run();

    // Ends run after the batches in hand. May be called from any thread and from a signal handler.
    void stop() noexcept;

private:
    struct lane;

    template <typename Reach>
    bool until_reached(side, Reach&&);
    void subscribe();
    [[nodiscard]] std::int64_t lanes();
    void add_lanes(std::int64_t count);
    void look_around(sink&);
    void work(lane&) noexcept;
    void end() noexcept;
    void failed(side, const std::string& why);
    void succeeded(side);
    [[nodiscard]] bool stopped_within(std::chrono::milliseconds) const;

    options options_;
    sinks sinks_;
    metrics& metrics_;
    std::optional<client> client_{};  // of run's thread
    std::array<int, 2> bell_{-1, -1}; // a pipe: stop() writes to it, and it stays readable
    std::vector<std::unique_ptr<lane>> lanes_{};

    std::mutex turn_{}; // for what lanes share
    std::size_t working_ = 0;
    std::exception_ptr failure_{};
    std::array<std::string, 2> complaints_{}; // the last of each side
};

} // namespace idem::relay
