// Who asks for what: each order several times, by several workers at once.
#pragma once

#include "history.hpp"

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace fault {

constexpr microseconds brief = 3'000'000, lasting = 3'600'000'000; // what keys live

enum class kind { recurring, fleeting, ordinary, leased, bulk };

struct request {
    std::string key;
    std::int64_t amount;
    microseconds ttl;
    fault::kind kind;
};

struct delivery {
    std::size_t request;
    fault::intent intent;
};

// Hands out deliveries: of a few orders at a time, so that workers collide, some with a brief key; and, all through the
// run, of a few that come again and again, so that claims meet the very moment of their expiry. Some are leased all
// the time; bulk ones come by the hundred.
class workload {
public:
    explicit workload(std::uint64_t seed);

    delivery next();
    std::vector<delivery> next_many(std::size_t);
    void acknowledge(std::size_t request);

    [[nodiscard]] request at(std::size_t) const;

    // What is to be asked in the end, until it is answered: all that must still be remembered, and what nobody has been
    // told of.
    [[nodiscard]] std::vector<std::size_t> remaining() const;

private:
    struct state {
        fault::request request;
        bool acknowledged = false;
    };
    struct open_order {
        std::size_t request;
        int deliveries; // honest ones, still to come
    };
    std::size_t add(fault::kind);
    open_order open();
    open_order open_bulk();
    delivery of(open_order& slot);
    double dice() { return std::uniform_real_distribution<double>{0, 1}(random_); }

    std::mutex mutable guard_{}; // of all
    std::mt19937_64 random_;
    std::vector<state> states_{};
    std::vector<open_order> open_{}, bulk_{};
};

} // namespace fault
