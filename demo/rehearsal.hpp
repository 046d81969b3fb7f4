// All deliveries once, by eight workers, through connections that die.
#pragma once

#include "deliveries.hpp"
#include "requests.hpp"
#include "service.hpp"

#include <proxy.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace intake {

constexpr unsigned workers = 8;

struct workload {
    std::vector<request> requests;
    std::vector<delivery> deliveries;
    std::uint64_t seed;
};

struct report {
    tally seen;
    idem::test::counts wire;
    std::size_t differing = 0; // answers unlike the first one to the same request
};

using front_door = std::function<std::optional<std::string>(idem::client&, const request&, tally&)>;

// Works in `schema`. Throws what a worker could not cope with.
report rehearse(const std::string& title, const std::string& schema, const workload&, const front_door&);

} // namespace intake
