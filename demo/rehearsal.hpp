// All that is planned once, by eight workers, through connections that die.
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
    std::vector<delivery> plan;
    std::uint64_t seed;

    std::size_t count(errand what) const;
};

struct report {
    tally seen;
    idem::test::counts wire;
    std::size_t differing = 0; // answers unlike the first one to the same request
    std::size_t misled = 0;    // changed bodies answered as if they had been executed
};

// Gets the errand's request, which is changed already if it is to be.
using front_door = std::function<std::optional<std::string>(idem::client&, const delivery&, const request&, tally&)>;

// Works in `schema`. Throws what a worker could not cope with.
report rehearse(const std::string& title, const std::string& schema, const workload&, const front_door&);

} // namespace intake
