// run: the whole loop. Claim, work, complete, commit; retries; commits in doubt.
//
//     idem::client client{"dbname=shop"};
//     auto outcome = idem::run(client, key, request, [&](idem::transaction& tx) {
//         tx.exec("INSERT INTO orders …", {…});
//         return std::string{R"({"ok": true})"};
//     });
//
// THE CALLBACK MAY RUN MORE THAN ONCE, each time in a fresh transaction after the last one was rolled back: it does
// database work on `tx` and nothing else. No e-mail, no call to another service, no counter.
#pragma once

#include <idem/claim.hpp>
#include <idem/client.hpp>
#include <idem/errors.hpp>
#include <idem/transaction.hpp>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace idem {

enum class isolation { read_committed, repeatable_read, serializable };

struct run_options {
    // As for claim.
    std::string scope{};
    std::optional<std::chrono::milliseconds> wait{}, ttl{};

    // Default: the session's.
    std::optional<idem::isolation> isolation{};

    // How often the callback may start.
    int max_attempts = 10;
    // No new try begins after that, counted from the call.
    std::chrono::milliseconds deadline = std::chrono::seconds{30};
    // A server silent for so long is given up, statement by statement. A claim has its `wait` on top; without one,
    // keep this above idem.claim_wait.
    std::chrono::milliseconds response_timeout = std::chrono::seconds{10};
    // The server ends the transaction, and frees its key, when nothing came from us for so long; 0: its own setting.
    // The callback must not pause longer between two statements. Keep it well below `deadline`.
    std::chrono::milliseconds idle_timeout = std::chrono::seconds{10};
    // Pause before the second try, doubled each time up to a second, with jitter.
    std::chrono::milliseconds backoff = std::chrono::milliseconds{5};
};

enum class run_status {
    executed,    // done by this call, once
    replayed,    // done before, by another call
    in_progress, // another transaction holds the key and the wait is over
    mismatch,    // the key was used with another request
    cancelled    // cancelled before it ever completed, or compensated since
};

[[nodiscard]] std::string_view to_string(run_status) noexcept;

class [[nodiscard]] outcome {
public:
    outcome(run_status status, std::string response, int attempts, int in_doubt);

    [[nodiscard]] run_status status() const noexcept { return status_; }

    // There is a response: executed or replayed.
    explicit operator bool() const noexcept { return status_ <= run_status::replayed; }

    // As stored, byte for byte the same for the call that executed and for every replay. JSON text.
    // Throws error 55000 unless executed or replayed.
    [[nodiscard]] const std::string& response() const;

    // How often the callback was started; 0 for a plain replay.
    [[nodiscard]] int attempts() const noexcept { return attempts_; }

    // How many COMMITs of this call were in doubt, all of them resolved by now.
    [[nodiscard]] int in_doubt() const noexcept { return in_doubt_; }

private:
    run_status status_;
    std::string response_;
    int attempts_, in_doubt_;
};

// What a callback may return in place of the response: its last statement, which makes it, and which then travels with
// the completion and COMMIT, a round trip less. The first column of its only row is the response: jsonb, json or text.
//     return idem::last_statement{
//         "INSERT INTO orders (item) VALUES ($1) RETURNING jsonb_build_object('order', id)", {"tea"}};
// It is one statement, as may stand in WITH: SELECT, or INSERT, UPDATE, DELETE with RETURNING, whose own WITH does not
// write; without a semicolon. Other types go through to_jsonb. Parameters $1, $2, … are text, std::nullopt is NULL;
// `sql` is code, never built from input. It fails as any other, with 22004 without a row, with 21000 with two, with
// 42601 if parameters are missing or left over. Its triggers AFTER run when the key is completed. It is prepared each
// time, so it pays where a round trip takes longer than that, some 0.1 ms: over a network, not on one machine.
struct last_statement {
    std::string sql;
    std::vector<std::optional<std::string>> parameters{};
};

using work_result = std::variant<std::string, last_statement>;

namespace detail {

// The work on an open transaction. `sqlstate_of_current` tells what the exception being handled means: nullopt if it
// does not come from the database.
struct work {
    std::function<work_result(client&, std::chrono::milliseconds response_timeout)> body;
    std::optional<std::string> (*sqlstate_of_current)();
};

std::optional<std::string> sqlstate_of_current();

outcome run(client&, std::string_view key, std::optional<std::string_view> request, const work&, const run_options&);

} // namespace detail

// Runs `fn` exactly once for this key, ever (as long as the key lives), and returns its response; or returns the
// response of the call that did. `fn(idem::transaction&)` returns the response as JSON text, or a last_statement.
//
// Network: n statements in the callback cost n + 2 round trips, as BEGIN; n statements; COMMIT would; one less when the
// last of them is a last_statement. A replay costs 2.
//
// Retried, with backoff, up to max_attempts and deadline: 40001, 40P01, a lost or silent connection. A connection lost
// during COMMIT or a last_statement (or a COMMIT that is not known to be replicated as synchronous_commit asks) is in
// doubt: the key tells. So is one of our own transactions that the server still holds open: run waits for it.
//
// An exception of `fn` rolls back, frees the key and passes. So does any other error: idem::error with its SQLSTATE;
// besides the server's own
//   08001, 08006  no connection any more, nothing was committed
//   08007         the COMMIT is still in doubt at the deadline: ask again later, with the same key
//   25001         the borrowed connection is in a transaction   25P01 the callback ended the transaction
//   25P02         the callback returned though its transaction had failed
template <typename Work>
outcome run(client& on, std::string_view key, std::optional<std::string_view> request, Work&& fn,
            const run_options& options = {}) {
    const auto body = [&fn](client& open, std::chrono::milliseconds timeout) -> work_result {
        transaction tx{open.connection(), timeout};
        return std::invoke(fn, tx);
    };
    return detail::run(on, key, request, {body, detail::sqlstate_of_current}, options);
}

} // namespace idem
