// metrics: what the service counts, for Prometheus to fetch from /metrics.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>

namespace shop {

class metrics {
public:
    metrics();
    metrics(const metrics&) = delete;
    metrics& operator=(const metrics&) = delete;

    void answered(std::string_view route, unsigned status, bool replayed, std::chrono::nanoseconds took);
    void cache_hit();

    // By any thread.
    void batch(std::size_t calls, std::chrono::nanoseconds took);

    struct state {
        std::size_t connections, waiting, cached_bytes;
        bool database;
    };
    void is_now(const state&);

    // What Prometheus fetches.
    [[nodiscard]] std::string text() const;

private:
    prometheus::Registry registry_{};
    prometheus::Family<prometheus::Counter>& requests_;
    // Of those, as they have come: to find one by its labels costs more than all else here.
    std::unordered_map<std::string_view, std::array<prometheus::Counter*, 600>> by_status_{};
    prometheus::Counter &replays_, &hits_;
    prometheus::Histogram &seconds_, &batch_calls_, &batch_seconds_;
    prometheus::Gauge &connections_, &waiting_, &cached_bytes_, &database_;
};

} // namespace shop
