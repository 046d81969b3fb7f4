// The shop under test: takes an order, through idem::run or through claim and complete by hand.
#pragma once

#include "history.hpp"
#include "workload.hpp"

#include <idem/client.hpp>
#include <idem/run.hpp>

#include <chrono>
#include <optional>
#include <string>

namespace fault {

// Its tables. Nothing in them is unique: what keeps the orders single is idem alone.
extern const char* const schema;

enum class door {
    run,
    by_hand, // BEGIN, claim, work, complete, COMMIT, and no retry
    outside  // run, but the work is done and committed on another connection: wrong
};

struct manner {
    fault::door door = door::run;
    std::chrono::milliseconds wait{0}, deadline{20'000}; // for others, and for the whole
    std::optional<idem::isolation> isolation{};
    bool flushed = true;
};

class service {
public:
    explicit service(std::string conninfo) : conninfo_{std::move(conninfo)}, client_{conninfo_} {}

    // Throws nothing that comes from the database: it becomes the answer.
    operation ask(const request&, intent, const manner&);

private:
    void through_run(operation&, const manner&);
    void by_hand(operation&, const manner&);

    std::string conninfo_;
    idem::client client_;
};

} // namespace fault
