// transition: takes a row a step further in its state machine, and tells what came of it.
//
//     const idem::stateful orders{.table = "orders", .machine = "order"}; // idem_attach('orders', 'state', 'order')
//
//     auto paid = idem::transition(connection, orders, order_id, "paid");
//     if (!paid) return conflict(paid.state(), paid.allowed());
//
// One statement, one round trip, whatever comes of it. The same over libpqxx transactions is in <idem/pqxx.hpp>.
#pragma once

#include <idem/transaction.hpp>

#include <libpq-fe.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace idem {

// A table, and the machine that guards it. All are names, and are quoted as such.
struct stateful {
    std::string table{};
    std::string machine{};
    std::string key_column = "id"; // unique
    std::string state_column = "state";
    std::string schema{}; // default: where search_path finds the table
};

enum class transition_status {
    applied,  // done now, by this transaction
    already,  // the row has that state: a retry, perhaps
    refused,  // the machine does not go there from state(); nothing was changed
    not_found // no row has that key
};

[[nodiscard]] std::string_view to_string(transition_status) noexcept;

class [[nodiscard]] transition_result {
public:
    transition_result(transition_status status, std::optional<std::string> state, std::vector<std::string> allowed);

    [[nodiscard]] transition_status status() const noexcept { return status_; }

    // The row is in the state that was asked for: applied or already.
    explicit operator bool() const noexcept { return status_ <= transition_status::already; }

    // The row's state by now; empty for NULL, and for a row that was not found.
    [[nodiscard]] const std::optional<std::string>& state() const noexcept { return state_; }

    // The states to which it may go from there, as idem_next_states tells them; none: it is final.
    [[nodiscard]] const std::vector<std::string>& allowed() const noexcept { return allowed_; }

private:
    transition_status status_;
    std::optional<std::string> state_;
    std::vector<std::string> allowed_;
};

// Sets the state of the row with that key to `to`, if the machine allows it, in the open transaction. A refusal is an
// answer and no error: the transaction goes on. The row stays locked until it ends, so the answer stays true.
// READ COMMITTED: waits for whoever is changing the row, and sees its state after that. REPEATABLE READ and
// SERIALIZABLE: error 40001 if it was changed since this transaction's snapshot.
// Other columns that go with the step: update them once it is applied.
// Throws ID012 (the guard refuses what `machine` allows: it is not the one attached, or another trigger has interfered;
// the transaction has failed then), 42704 (no such machine), 22023 (the row's state is none of the machine's), 22P02
// (no label of the column's enum), 42P01, 42703, 42501, 40001, 40P01, 55P03 (lock_timeout).
transition_result transition(transaction&, const stateful&, std::string_view key, std::string_view to);
transition_result transition(PGconn*, const stateful&, std::string_view key, std::string_view to);

} // namespace idem
