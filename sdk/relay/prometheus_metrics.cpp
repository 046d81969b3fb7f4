#include "metrics.hpp"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <string_view>

namespace idem::relay {

namespace {

// Of a message's created_at: 2024-05-31T09:07:03.141592+00:00.
double unix_time(const std::string& text) {
    std::tm date{};
    double seconds = 0;
    int hours = 0;
    int minutes = 0;
    // NOLINTNEXTLINE(cert-err34-c): what the server writes is in range
    if (std::sscanf(text.c_str(), "%d-%d-%dT%d:%d:%lf%d:%d", &date.tm_year, &date.tm_mon, &date.tm_mday, &date.tm_hour,
                    &date.tm_min, &seconds, &hours, &minutes) < 7)
        return 0;
    date.tm_year -= 1900;
    date.tm_mon -= 1;
    const int offset = hours * 3600 + (hours < 0 ? -60 : 60) * minutes;
    return static_cast<double>(timegm(&date) - offset) + seconds;
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

class prometheus_metrics final : public metrics {
public:
    prometheus_metrics(const std::string& address, std::string consumer)
        : consumer_{std::move(consumer)},
          exposer_{address, 1} {
        exposer_.RegisterCollectable(registry_);
        for (const char* const name : {"database", "sink"}) { // counters begin with 0
            retries_.Add({{"consumer", consumer_}, {"cause", name}});
            connected_.Add({{"consumer", consumer_}, {"to", name}});
        }
    }

    void delivered(std::int64_t lane, std::span<const message> batch) override {
        const message& last = batch.back();
        messages_.Add(of(lane)).Increment(static_cast<double>(batch.size()));
        batches_.Add(of(lane)).Increment();
        last_seq_.Add(of(lane)).Set(static_cast<double>(last.seq.value()));
        last_age_.Add(of(lane)).Set(now() - unix_time(last.created_at));
    }
    void refused(std::int64_t lane) override { refusals_.Add(of(lane)).Increment(); }
    void retried(side cause) override { retries_.Add({{"consumer", consumer_}, {"cause", name(cause)}}).Increment(); }
    void connected(side to, bool is) override {
        connected_.Add({{"consumer", consumer_}, {"to", name(to)}}).Set(is ? 1 : 0);
    }

private:
    template <typename Metric>
    using family = prometheus::Family<Metric>;

    static const char* name(side which) { return which == side::database ? "database" : "sink"; }
    [[nodiscard]] prometheus::Labels of(std::int64_t lane) const {
        return {{"consumer", consumer_}, {"lane", std::to_string(lane)}};
    }
    family<prometheus::Counter>& counter(const char* name, const char* help) {
        return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_);
    }
    family<prometheus::Gauge>& gauge(const char* name, const char* help) {
        return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_);
    }

    std::string consumer_;
    std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
    family<prometheus::Counter>& messages_ =
        counter("idem_relay_messages_total", "Messages that are safe on the other side, repeats counted again");
    family<prometheus::Counter>& batches_ = counter("idem_relay_batches_total", "Batches of them");
    family<prometheus::Counter>& refusals_ =
        counter("idem_relay_refusals_total", "Messages that the other side would not take, each time one was tried");
    family<prometheus::Counter>& retries_ =
        counter("idem_relay_retries_total", "New tries after a failure of the database or of the sink");
    family<prometheus::Gauge>& connected_ = gauge("idem_relay_connected", "1 while it can be reached");
    family<prometheus::Gauge>& last_seq_ = gauge("idem_relay_last_seq", "seq of the last message delivered");
    family<prometheus::Gauge>& last_age_ =
        gauge("idem_relay_last_age_seconds", "How old the last message was when it was delivered");
    prometheus::Exposer exposer_;
};

} // namespace

std::unique_ptr<metrics> serve_metrics(const std::string& address, const std::string& consumer) {
    const auto colon = address.rfind(':');
    const std::string_view digits = colon == std::string::npos ? "" : std::string_view{address}.substr(colon + 1);
    unsigned port = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (colon == 0 || read.ec != std::errc{} || read.ptr != digits.data() + digits.size() || port < 1 || port > 65535)
        throw bad_address{"\"" + address + "\" is not HOST:PORT"};
    try {
        return std::make_unique<prometheus_metrics>(address, consumer);
    } catch (const std::exception&) { // civetweb does not say why
        throw std::runtime_error{"cannot serve metrics on " + address + ": the port is taken, or the host not of here"};
    }
}

} // namespace idem::relay
