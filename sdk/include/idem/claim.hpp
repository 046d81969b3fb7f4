// claim, complete, release: exactly-once in a transaction that the caller begins and commits.
//
//     auto claim = idem::claim(connection, key, request, {.scope = "shop"});
//     if (!claim) return claim.response();
//     … the work, on the same connection …
//     idem::complete(connection, key, response, "shop");
//     … COMMIT …
//
// Each is one statement, one round trip. The same functions over libpqxx transactions are in <idem/pqxx.hpp>.
#pragma once

#include <libpq-fe.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace idem {

// In place of a request: the key alone decides, whatever the request says.
inline constexpr std::nullopt_t unchecked = std::nullopt;

struct claim_options {
    std::string scope{}; // tenant or consumer, 0 to 255 bytes; keys are unique within it
    std::optional<std::chrono::milliseconds>
        wait{}; // for who holds the key now; 0 asks at once; default: idem.claim_wait
    std::optional<std::chrono::milliseconds> ttl{}; // how long the key lives from its completion; default: idem.key_ttl
};

enum class claim_status {
    claimed,     // this transaction owns the key: do the work, then complete
    completed,   // done before: response() is what was stored
    in_progress, // another transaction holds the key and the wait is over
    mismatch,    // the key was used with another request
    cancelled    // cancelled before it ever completed, or compensated since
};

// The status as the extension spells it.
[[nodiscard]] std::string_view to_string(claim_status) noexcept;

// What a claim answered.
class [[nodiscard]] claim_result {
public:
    claim_result(claim_status status, std::optional<std::string> response, std::optional<std::string> cacheable_until);

    [[nodiscard]] claim_status status() const noexcept { return status_; }

    // Claimed: only then may the work be done.
    explicit operator bool() const noexcept { return status_ == claim_status::claimed; }

    // The stored response, JSON text. Throws error 55000 unless completed.
    [[nodiscard]] const std::string& response() const;

    // Until when the response may be cached (a timestamptz as text); empty: not at all.
    [[nodiscard]] const std::optional<std::string>& cacheable_until() const noexcept { return cacheable_until_; }

private:
    claim_status status_;
    std::optional<std::string> response_, cacheable_until_;
};

// Claims `key`, 1 to 255 bytes, for the connection's open transaction. `request` is JSON: its fingerprint tells a retry
// from another request under the same key; idem::unchecked waives that.
// READ COMMITTED: waits for whoever holds the key, and then replays. REPEATABLE READ and SERIALIZABLE: error 40001 if
// that one committed after this transaction's snapshot.
// Costs a lock and an index probe, whatever the number of keys; nothing is written.
// Throws ID002 (claimed here before), ID005, ID006, ID007, 22P02 (request is not JSON), 25006 (read-only), 40001,
// 40P01.
claim_result claim(PGconn*, std::string_view key, std::optional<std::string_view> request, const claim_options& = {});

// Stores `response` (JSON) under a key that this transaction has claimed; it becomes visible at COMMIT. Returns it as
// stored, byte for byte what every replay will return: hand out this one, not your own.
// Throws ID001 (not claimed here), ID003 (completed already), ID005, ID006, 22P02 (not JSON).
std::string complete(PGconn*, std::string_view key, std::string_view response, std::string_view scope = {});

// Gives a claim up without a trace: nothing is stored, a retry may run. Waiters go on when the transaction ends. The
// server warns if the transaction has written since the claim: such work would be committed without its key.
// Throws ID001, ID003, ID005, ID006.
void release(PGconn*, std::string_view key, std::string_view scope = {});

} // namespace idem
