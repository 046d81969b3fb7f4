// Decides from a history and the final tables alone whether every effect happened exactly once. It knows nothing of
// idem, of PostgreSQL or of how either was obtained.
#pragma once

#include "history.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fault {

// An order as it stands in the table in the end.
struct effect {
    std::int64_t order = 0;
    std::string key{};
    std::size_t operation = 0; // whose work it was
    std::int64_t amount = 0;
    microseconds at = 0;                  // when the work was done, within its transaction
    std::int64_t entries = 1, booked = 0; // its rows in the ledger, and their sum
    std::string response{};               // what the caller is to be told
};

// A key that is still remembered.
struct stored_key {
    std::string key{}, response{};
};

struct tables {
    std::vector<effect> effects{};
    std::vector<stored_key> keys{};
    std::int64_t ledger = 0, balance = 0; // sums of all entries, and of all accounts
    microseconds read_at = 0;             // or a little later: no key that lives then may be missing
    std::vector<std::string> findings{};  // the database's own self-check
};

enum class rule {
    once,
    kept,
    whose,
    not_again,
    stored,
    refused,
    nothing_left,
    whole,
    money,
    explained,
    answered,
    verified
};
constexpr std::size_t rules = 12;

// What must hold, in a few words.
[[nodiscard]] std::string_view to_string(rule) noexcept;

struct violation {
    rule broken;
    std::string key, what;
};

[[nodiscard]] std::vector<violation> check(const history&, const tables&);

} // namespace fault
