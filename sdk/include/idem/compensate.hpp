// compensate_with, confirm, cancel: what is done under a key can be undone by that key, once.
//
//     auto claim = idem::claim(connection, key, request);
//     if (!claim) return claim.response();
//     … book the order, on the same connection …
//     idem::compensate_with(connection, key, "undo_order(jsonb)", R"({"order": 1})");
//     idem::complete(connection, key, response);
//     … COMMIT …
//
//     auto cancelled = idem::cancel(connection, key, {.reason = "the customer changed their mind"}); // any time later
//
// Or idem::confirm(connection, key), the point of no return. Each is one statement, one round trip. The same over
// libpqxx transactions is in <idem/pqxx.hpp>.
#pragma once

#include <idem/transaction.hpp>

#include <libpq-fe.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace idem {

struct compensate_options {
    std::string scope{};                                 // the claim's
    std::optional<std::chrono::milliseconds> deadline{}; // cancelled by the server unless confirmed within it
};

// Has `handler` undo the work of a key that the open transaction has claimed, in run's callback or between claim and
// complete. `handler` names an SQL function of one jsonb, as "undo_order(jsonb)"; it will get `args` (JSON) and runs as
// the role that registers it here. Several run in reverse order.
// Throws ID001 (not claimed here), ID003 (completed already), ID005, ID006, ID007 (invalid deadline), 22P02 (args are
// not JSON), 42883 (no such function), ID015 (not of one jsonb, or not yours to call).
void compensate_with(transaction&, std::string_view key, std::string_view handler, std::string_view args,
                     const compensate_options& = {});
void compensate_with(PGconn*, std::string_view key, std::string_view handler, std::string_view args,
                     const compensate_options& = {});

// The point of no return: from its commit on, cancel is refused. Confirming again, or a key that has no handler, does
// nothing. Waits for whoever holds the key, idem.claim_wait at most.
// Throws ID013 (not completed), ID014 (cancelled), ID005, ID006, 55P03 (held for longer), 40001.
void confirm(transaction&, std::string_view key, std::string_view scope = {});
void confirm(PGconn*, std::string_view key, std::string_view scope = {});

struct cancel_options {
    std::optional<std::string> reason{}; // kept with the response
    std::string scope{};
    std::optional<std::chrono::milliseconds>
        wait{}; // for who holds the key now; 0 asks at once; default: idem.claim_wait
};

enum class cancel_status {
    compensated, // the handlers ran now, in this transaction
    already,     // they had before; the same response
    tombstoned,  // nothing was done under the key, or it has expired: no claim will get it any more
    refused,     // confirmed, done without a handler, or a handler met a state machine's refusal: nothing is undone
    in_progress  // another transaction holds the key and the wait is over
};

// The status as the extension spells it.
[[nodiscard]] std::string_view to_string(cancel_status) noexcept;

// A state machine's refusal, met by a handler.
struct refused_step {
    std::string machine{};
    std::optional<std::string> from{}; // none: the row was to begin with `to`
    std::string to{};
};

// What cancel answered.
class [[nodiscard]] cancellation {
public:
    cancellation(cancel_status status, std::optional<std::string> response, std::optional<refused_step> step);

    [[nodiscard]] cancel_status status() const noexcept { return status_; }

    // Once this is committed, nothing done under the key stands, or ever will: compensated, already or tombstoned.
    explicit operator bool() const noexcept { return status_ <= cancel_status::tombstoned; }

    // What the server says about it (when, why, the handlers' results), JSON text; the same on every repeat.
    // Throws error 55000 if in progress.
    [[nodiscard]] const std::string& response() const;

    // Refused by a machine: which step. Empty for all else.
    [[nodiscard]] const std::optional<refused_step>& step() const noexcept { return step_; }

private:
    cancel_status status_;
    std::optional<std::string> response_;
    std::optional<refused_step> step_;
};

// Undoes what was done under a key, or sees to it that it never is, in the open transaction or one of its own. Takes
// the claim's own lock, so of an action and its cancellation one wins. As often as you like: lost connections and
// 40001 need no more than calling it again.
// tombstoned is no proof that nothing was ever done: a key that has expired, or was done in another scope, answers so
// too (the server's notice says where).
// An error of a handler passes, and everything stays as it was. Besides such, throws ID002 (claimed by this very
// transaction), ID005, ID006, ID007 (invalid wait), ID015 (a handler cannot be called any more), 25006 (read-only),
// 40001, 40P01.
cancellation cancel(transaction&, std::string_view key, const cancel_options& = {});
cancellation cancel(PGconn*, std::string_view key, const cancel_options& = {});

} // namespace idem
