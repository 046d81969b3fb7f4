// The statement of a transition, and how the SDK reads what comes back. Not for users.
#pragma once

#include <idem/transition.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace idem::detail {

// Key, state and machine are SQL literals, already quoted. A row for each state allowed, or one without; its columns
// are status, state, allowed.
std::string transition_sql(const stateful&, const std::string& machine, const std::string& key, const std::string& to);

transition_status parse_transition_status(std::string_view);

// `text(row, column)`: the field's text, or nothing for NULL.
template <typename Text>
transition_result read_transition(int rows, Text&& text) {
    if (rows == 0) return {transition_status::not_found, std::nullopt, {}};
    std::vector<std::string> allowed;
    for (int row = 0; row < rows; ++row)
        if (auto state = text(row, 2)) allowed.push_back(*std::move(state));
    return {parse_transition_status(*text(0, 0)), text(0, 1), std::move(allowed)};
}

} // namespace idem::detail
