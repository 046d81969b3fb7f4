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

    // Of one thread.
    void answered(std::string_view route, unsigned status, bool replayed, std::chrono::nanoseconds took);
    void cached(bool hit);
    void holds(std::size_t connections, std::size_t cached_bytes);

    // Of any thread.
    void batch(std::size_t calls, std::chrono::nanoseconds took);
    void database(bool connected);

    // What Prometheus fetches.
    [[nodiscard]] std::string text() const;

private:
    template <typename Metric>
    using family = prometheus::Family<Metric>;

    prometheus::Registry registry_{};
    family<prometheus::Counter>& requests_;
    prometheus::Histogram &seconds_, &batch_calls_, &batch_seconds_;
    prometheus::Counter &replays_, &hits_, &misses_;
    prometheus::Gauge &connections_, &cached_bytes_, &database_;
    // Of requests, as they have come: finding one by its labels costs more than all else here.
    std::unordered_map<std::string_view, std::array<prometheus::Counter*, 600>> by_status_{};
};

} // namespace shop
