// The shop under test: takes orders, through every door that idem has for them.
#pragma once

#include "history.hpp"
#include "workload.hpp"

#include <idem/client.hpp>
#include <idem/run.hpp>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fault {

// Its tables. Nothing in them is unique: what keeps the orders single is idem alone. Each order is a message to
// whoever wants to know, under the number that its account gives it.
extern const char* const schema;

enum class door {
    run,
    by_hand, // BEGIN, claim, work, complete, COMMIT, and no retry
    execute, // idem_execute within a transaction, and no retry; so is ask_many
    lease,   // several transactions: lease, checkpoint, renewal, completion with the work
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

    // The same of many at once, in one transaction, through idem_execute_many. The keys differ.
    history ask_many(const std::vector<std::pair<request, intent>>&, const manner&);

private:
    void through_run(operation&, const manner&);
    void by_hand(operation&, const manner&);
    void execute(history&, const manner&);
    void lease(operation&, const manner&);
    void drop_if_busy();

    std::string conninfo_;
    idem::client client_;
};

} // namespace fault
