// execute: claim, work and completion in one round trip, where the work is an SQL function.
//
//     CREATE FUNCTION place_order(request jsonb) RETURNS jsonb …
//
//     auto done = idem::execute(client, "place_order(jsonb)", key, request);
//     if (!done) return refuse(to_string(done.status()));
//     return done.response();
//
// execute_many does up to 500 of them in one statement and one commit. Over libpqxx they are in <idem/pqxx.hpp>.
#pragma once

#include <idem/client.hpp>
#include <idem/errors.hpp>
#include <idem/transaction.hpp>

#include <libpq-fe.h>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace idem {

enum class execute_status {
    executed,    // the function ran now, once
    completed,   // done before; by this very call perhaps, if it lost its connection and had to ask again
    in_progress, // another transaction holds the key: for longer than idem.claim_wait, or, for many, at all
    mismatch,    // the key was used with another request
    cancelled,   // cancelled before it ever completed, or compensated since
    failed       // of many, this one's function raised an error: nothing of it remains, all others stand
};

// The status as the extension spells it.
[[nodiscard]] std::string_view to_string(execute_status) noexcept;

// What was answered for a key.
class [[nodiscard]] execution {
public:
    execution(execute_status status, std::optional<std::string> response, std::optional<std::string> cacheable_until,
              std::optional<error> failure);

    [[nodiscard]] execute_status status() const noexcept { return status_; }

    // There is a response: executed or completed.
    explicit operator bool() const noexcept { return status_ <= execute_status::completed; }

    // As stored, byte for byte the same for the call that executed and for every replay. JSON text.
    // Throws the function's error if failed, and error 55000 if there is none for another reason.
    [[nodiscard]] const std::string& response() const;

    // Until when the response may be cached, once this is committed (a timestamptz as text); empty: not at all, for it
    // may still be cancelled, or there is none.
    [[nodiscard]] const std::optional<std::string>& cacheable_until() const noexcept { return cacheable_until_; }

    // Failed: the function's error. Empty for all else.
    [[nodiscard]] const std::optional<error>& failure() const noexcept { return failure_; }

private:
    execute_status status_;
    std::optional<std::string> response_, cacheable_until_;
    std::optional<error> failure_;
};

struct execute_options {
    std::string scope{};
    std::optional<std::chrono::milliseconds> ttl{}; // default: idem.key_ttl; execute_many: always that
};

// Claims `key`, calls `handler`, an SQL function of one jsonb that returns jsonb, as "place_order(jsonb)", with
// `request` (JSON), and stores what it returns; in the open transaction or one of its own.
// An error of the function passes, and nothing is stored. Besides such, throws ID002 (claimed by this very
// transaction), ID005, ID006, ID007 (invalid ttl), ID015 (not such a function, or not yours to call), 22004 (it
// returned NULL), 22P02 (request is not JSON), 42883 (no such function), 25006 (read-only), 40001, 40P01.
execution execute(transaction&, std::string_view handler, std::string_view key, std::string_view request,
                  const execute_options& = {});
execution execute(PGconn*, std::string_view handler, std::string_view key, std::string_view request,
                  const execute_options& = {});

struct execute_item {
    std::string key{}, request{};
    std::optional<std::string> scope{}; // default: that of execute_options
    // JSON that the handler reads with idem_context(), a traceparent say: not part of the request, and no retry is
    // compared by it.
    std::optional<std::string> context{};
};

// The same for up to 500 keys, which may be none; an answer for each, in their order. The function may run more than
// once for a key, each time after the last was rolled back: it does database work only. A key that somebody holds is
// not waited for; one that is given twice in the same scope runs once.
// Throws as execute does, and 22023 (more than 500), 53200 (the server's lock table is full). Then nothing was done.
[[nodiscard]] std::vector<execution> execute_many(transaction&, std::string_view handler,
                                                  std::span<const execute_item> items, const execute_options& = {});
[[nodiscard]] std::vector<execution> execute_many(PGconn*, std::string_view handler,
                                                  std::span<const execute_item> items, const execute_options& = {});

struct retry_options {
    // No new try begins after that, counted from the call.
    std::chrono::milliseconds deadline = std::chrono::seconds{30};
    // A server silent for so long is given up. Keep it above idem.claim_wait.
    std::chrono::milliseconds response_timeout = std::chrono::seconds{10};
    // Pause before the second try, doubled each time up to a second, with jitter.
    std::chrono::milliseconds backoff = std::chrono::milliseconds{5};
};

// The same in a transaction of their own on a connection that they can replace: tried again until the deadline after
// 40001, 40P01 and a lost or silent connection, and when the commit is not known to be replicated as synchronous_commit
// asks. You never see "in doubt", unless it still is at the deadline: 08007, ask again later, with the same keys.
// Throws 25001 if the connection is in a transaction.
execution execute(client&, std::string_view handler, std::string_view key, std::string_view request,
                  const execute_options& = {}, const retry_options& = {});
[[nodiscard]] std::vector<execution> execute_many(client&, std::string_view handler,
                                                  std::span<const execute_item> items, const execute_options& = {},
                                                  const retry_options& = {});

} // namespace idem
