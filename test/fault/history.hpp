// What the workers asked for and what they were told: the first half of what the checker sees.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace fault {

// Times and durations are microseconds, times since 1970: workers and server share a machine and its clock.
using microseconds = std::int64_t;

enum class intent {
    honest,  // the order, to be carried out
    changed, // the same key with another amount; only asked once the honest one is acknowledged, for keys that live
             // long
    throws,  // the callback does the work and then throws
    releases // claims the key, undoes what it did and releases it
};

enum class answer {
    executed,
    replayed,
    in_progress,
    mismatch,
    cancelled,
    threw,    // the callback's own exception came back
    released, // as intended
    error     // `text` begins with the SQLSTATE
};

struct operation {
    std::size_t number = 0; // the work writes it into what it leaves behind
    std::string key{};
    std::int64_t amount = 0; // as asked for
    fault::intent intent = intent::honest;
    microseconds ttl = 0; // how long the key is to live, the same for all operations of a key
    bool flushed = true;  // false: with synchronous_commit off, so that "executed" promises nothing
    bool last = false;    // asked again until answered
    microseconds asked_at = 0, answered_at = 0;
    fault::answer answer = answer::error;
    int attempts = 0;   // how often its work was begun
    int in_doubt = 0;   // its commits that were in doubt
    std::string text{}; // the response, or the error

    // Its caller knows that the work is done for good.
    [[nodiscard]] bool acknowledged() const noexcept {
        return (answer == answer::executed && flushed) || answer == answer::replayed;
    }
};

using history = std::vector<operation>;

[[nodiscard]] std::string_view to_string(intent) noexcept;
[[nodiscard]] std::string_view to_string(answer) noexcept;

// One operation a line, its members in the order above, separated by tabs, names first. A tab or a line break in a text
// becomes a space.
void write(std::ostream&, const history&);

} // namespace fault
