// Orders that have states and can be cancelled: placed with a compensation, confirmed, paid, completed, and all of it
// at once with their cancellation and with steps that are not allowed.
#pragma once

#include <idem/client.hpp>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace fault {

// Their tables, machine and compensation.
extern const char* const saga_schema;

// A call, and what its caller was told once it was committed.
struct told {
    std::string saga, call, answer, response;
};

class saga_client {
public:
    saga_client(std::string conninfo, std::uint64_t seed) : client_{std::move(conninfo)}, random_{seed} {}

    // Any call on any of the latest sagas, of which all clients together open so many. Throws nothing that comes from
    // the database: errors are told as their SQLSTATE.
    void call(std::size_t opened);

    [[nodiscard]] const std::vector<told>& all() const noexcept { return told_; }

private:
    told place(const std::string& saga);
    told in_transaction(const std::string& saga, const std::string& call);

    idem::client client_;
    std::mt19937_64 random_;
    std::vector<told> told_{};
};

} // namespace fault
