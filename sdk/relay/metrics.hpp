// metrics: what idem-relay counts. Several threads may report at a time.
#pragma once

#include <idem/message.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace idem::relay {

enum class side { database, sink };

// Nobody looks.
class metrics {
public:
    metrics() = default;
    metrics(const metrics&) = delete;
    metrics& operator=(const metrics&) = delete;
    virtual ~metrics() = default;

    virtual void delivered(std::int64_t /*lane*/, std::span<const message> /*batch*/) {}
    virtual void refused(std::int64_t /*lane*/) {}
    virtual void retried(side) {}
    virtual void connected(side, bool) {}
};

class bad_address : public std::invalid_argument {
public:
    using std::invalid_argument::invalid_argument;
};

// For Prometheus to fetch from http://HOST:PORT/metrics. Throws bad_address, std::runtime_error when the port is taken.
std::unique_ptr<metrics> serve_metrics(const std::string& address, const std::string& consumer);

} // namespace idem::relay
