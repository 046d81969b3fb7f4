#include "metrics.hpp"

#include <prometheus/text_serializer.h>

namespace shop {

namespace {

double seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

prometheus::Counter& counter(prometheus::Registry& in, const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(in).Add({});
}
prometheus::Gauge& gauge(prometheus::Registry& in, const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(in).Add({});
}
prometheus::Histogram& histogram(prometheus::Registry& in, const char* name, const char* help,
                                 const prometheus::Histogram::BucketBoundaries& up_to) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(in).Add({}, up_to);
}

const prometheus::Histogram::BucketBoundaries times{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};
const prometheus::Histogram::BucketBoundaries sizes{1, 2, 5, 10, 20, 50, 100, 200, 350, 500};

} // namespace

metrics::metrics()
    : requests_{prometheus::BuildCounter()
                    .Name("order_service_requests_total")
                    .Help("Requests, by what was asked for and answered")
                    .Register(registry_)},
      replays_{counter(registry_, "order_service_replays_total", "Requests that had been done before")},
      hits_{counter(registry_, "order_service_cache_hits_total", "Replays from memory, without the database")},
      seconds_{
          histogram(registry_, "order_service_request_seconds", "From a request's last byte to its answer", times)},
      batch_calls_{histogram(registry_, "order_service_batch_calls", "Requests in one transaction", sizes)},
      batch_seconds_{histogram(registry_, "order_service_batch_seconds", "What that took, retries included", times)},
      connections_{gauge(registry_, "order_service_connections", "Clients connected")},
      waiting_{gauge(registry_, "order_service_waiting", "Requests that wait for a batch")},
      cached_bytes_{gauge(registry_, "order_service_cache_bytes", "Memory of the responses kept")},
      database_{gauge(registry_, "order_service_database_connected", "1 while the database answers")} {}

void metrics::answered(std::string_view route, unsigned status, bool replayed, std::chrono::nanoseconds took) {
    prometheus::Counter*& of = by_status_[route][status % 600];
    if (of == nullptr) of = &requests_.Add({{"route", std::string{route}}, {"status", std::to_string(status)}});
    of->Increment();
    seconds_.Observe(seconds(took));
    if (replayed) replays_.Increment();
}

void metrics::cache_hit() { hits_.Increment(); }

void metrics::batch(std::size_t calls, std::chrono::nanoseconds took) {
    batch_calls_.Observe(static_cast<double>(calls));
    batch_seconds_.Observe(seconds(took));
}

void metrics::is_now(const state& now) {
    connections_.Set(static_cast<double>(now.connections));
    waiting_.Set(static_cast<double>(now.waiting));
    cached_bytes_.Set(static_cast<double>(now.cached_bytes));
    database_.Set(now.database ? 1 : 0);
}

std::string metrics::text() const { return prometheus::TextSerializer{}.Serialize(registry_.Collect()); }

} // namespace shop
