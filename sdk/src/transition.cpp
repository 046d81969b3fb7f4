#include <idem/transition.hpp>

#include <idem/detail/sql.hpp>
#include <idem/detail/transition.hpp>
#include <idem/errors.hpp>

#include "wire.hpp"

#include <array>
#include <utility>

namespace idem {

namespace {

constexpr std::array<std::string_view, 4> statuses{"applied", "already", "refused", "not_found"};

std::string identifier(std::string_view name) {
    std::string quoted = "\"";
    for (const char c : detail::no_zero_byte(name)) {
        if (c == '"') quoted += '"';
        quoted += c;
    }
    return quoted + '"';
}

} // namespace

std::string_view to_string(transition_status status) noexcept { return statuses[static_cast<std::size_t>(status)]; }

transition_result::transition_result(transition_status status, std::optional<std::string> state,
                                     std::vector<std::string> allowed)
    : status_{status},
      state_{std::move(state)},
      allowed_{std::move(allowed)} {}

transition_result transition(transaction& tx, const stateful& rows, std::string_view key, std::string_view to) {
    const auto quote = [&tx](std::string_view text) { return detail::quote(tx.connection(), text); };
    const result answer = tx.exec(detail::transition_sql(rows, quote(rows.machine), quote(key), quote(to)));
    return detail::read_transition(answer.rows(),
                                   [&](int row, int column) { return detail::text_or_null(answer, row, column); });
}

transition_result transition(PGconn* connection, const stateful& rows, std::string_view key, std::string_view to) {
    transaction tx{connection, detail::forever};
    return transition(tx, rows, key, to);
}

namespace detail {

// Locks the row, asks the machine, and updates only what it allows: a refusal raises nothing that would have to be
// undone. The guard on the table still decides. `was` is read first, and is the row as last committed: at READ
// COMMITTED both the lock and the UPDATE go to its newest version. No rule goes from a state to itself, so a row that
// has the state already is left alone.
std::string transition_sql(const stateful& rows, const std::string& machine, const std::string& key,
                           const std::string& to) {
    const std::string table =
        (rows.schema.empty() ? "" : identifier(rows.schema) + '.') + identifier(rows.table) + " AS t";
    const std::string state = identifier(rows.state_column);
    const std::string where = " WHERE t." + identifier(rows.key_column) + " = " + key;
    const auto next = [&](std::string_view from) { return call_sql("idem_next_states", {machine, from}); };

    return "WITH was AS MATERIALIZED (SELECT t." + state + "::text AS state FROM " + table + where +
           " FOR NO KEY UPDATE), moved AS (UPDATE " + table + " SET " + state + " = " + to + " FROM was" + where +
           " AND " + to + " IN (SELECT " + next("was.state") + ") RETURNING t." + state +
           "::text AS state) SELECT CASE WHEN moved IS NOT NULL THEN 'applied' WHEN was.state = " + to +
           " THEN 'already' ELSE 'refused' END, coalesce(moved.state, was.state), allowed "
           "FROM was LEFT JOIN moved ON true LEFT JOIN LATERAL " +
           next("coalesce(moved.state, was.state)") + " AS allowed ON true";
}

transition_status parse_transition_status(std::string_view text) {
    for (std::size_t i = 0; i < statuses.size(); ++i)
        if (statuses[i] == text) return static_cast<transition_status>(i);
    throw error{"a transition answered '" + std::string{text} + "', unknown to this version of the SDK", "0A000"};
}

} // namespace detail
} // namespace idem
