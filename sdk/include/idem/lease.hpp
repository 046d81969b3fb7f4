// Leases: exactly-once for work that cannot be one transaction, because it calls somebody else in the middle.
//
//     auto lease = idem::claim_lease(connection, key, request, 30s);      // commits by itself
//     if (!lease) return lease.response();
//     … call the payment provider, under a key made of this one; idem::renew(connection, lease, 30s) meanwhile …
//     … BEGIN; what came of it …
//     idem::checkpoint(connection, lease, "charged", R"({"charge": 1})");
//     … COMMIT …
//     auto stored = idem::complete(connection, lease, response);
//
// Nothing here runs by itself: a lease that nobody renews ends, and the next claim_lease takes the key over, with the
// last checkpoint. From then on the late owner's calls throw ID017: its transaction rolls back, and it stops. Prefer
// run() wherever the work is database work only. Each is one statement, one round trip. The same over libpqxx
// transactions is in <idem/pqxx.hpp>. A whole example: examples/payment.cpp.
#pragma once

#include <idem/claim.hpp>
#include <idem/transaction.hpp>

#include <libpq-fe.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace idem {

// How far the work had come when its owner was last heard of.
struct progress {
    std::string step{};
    std::string state{}; // JSON text
};

// What claim_lease answered and, if that is claimed, the key's ownership: a value to be handed to the others below.
// Nothing happens when it goes: what has been begun is for the next owner to go on with.
class [[nodiscard]] lease : public claim_result {
public:
    lease(claim_result answer, std::string_view key, std::string_view scope, std::optional<std::int64_t> token,
          int attempt, std::optional<progress> checkpoint);

    [[nodiscard]] const std::string& key() const noexcept { return key_; }
    [[nodiscard]] const std::string& scope() const noexcept { return scope_; }

    // Who has it owns the key. Throws error 55000 unless claimed.
    [[nodiscard]] std::int64_t token() const;

    // 1, and one more after each takeover; 0 unless claimed or completed.
    [[nodiscard]] int attempt() const noexcept { return attempt_; }

    // The last one of those who had the key before; none if nobody came so far.
    [[nodiscard]] const std::optional<progress>& checkpoint() const noexcept { return checkpoint_; }

private:
    std::string key_, scope_;
    std::optional<std::int64_t> token_;
    int attempt_;
    std::optional<progress> checkpoint_;
};

// Claims `key` as claim does, but beyond its transaction: for `length`, at most a day. Outside of a transaction it
// commits by itself; within one nothing is owned before COMMIT. If the connection is lost, call it again: a lease that
// was given and not heard of ends by itself.
// Throws as claim does, and ID007 for an invalid length.
lease claim_lease(transaction&, std::string_view key, std::optional<std::string_view> request,
                  std::chrono::milliseconds length, const claim_options& = {});
lease claim_lease(PGconn*, std::string_view key, std::optional<std::string_view> request,
                  std::chrono::milliseconds length, const claim_options& = {});

// The lease lasts `length` from now. Several times in each length, outside of a transaction.
// These, and all below, throw ID017 when the lease is lost: taken over, or the key completed, cancelled or evicted.
// Stop then. They wait for another transaction in the key, idem.claim_wait at most; else 55P03. 40001 as claim.
void renew(transaction&, const lease&, std::chrono::milliseconds length);
void renew(PGconn*, const lease&, std::chrono::milliseconds length);

// Notes that `step` is done, in the transaction that does it, as its last statement: with it or not at all. `state` is
// JSON: what the steps to come need to know.
void checkpoint(transaction&, const lease&, std::string_view step, std::string_view state = "null");
void checkpoint(PGconn*, const lease&, std::string_view step, std::string_view state = "null");

// As compensate_with in <idem/compensate.hpp>, before the call that may have to be undone: it is kept from this
// transaction's commit on, and at its deadline, counted from now, the server cancels the key, should its owner never
// return. Do it in one transaction with a checkpoint, and it is registered once.
void compensate_with(transaction&, const lease&, std::string_view handler, std::string_view args,
                     std::optional<std::chrono::milliseconds> deadline = {});
void compensate_with(PGconn*, const lease&, std::string_view handler, std::string_view args,
                     std::optional<std::chrono::milliseconds> deadline = {});

// Stores `response` (JSON), and returns it as every replay will.
std::string complete(transaction&, const lease&, std::string_view response);
std::string complete(PGconn*, const lease&, std::string_view response);

// Gives the key up, with its attempts, checkpoint and compensation: nothing was done.
void release(transaction&, const lease&);
void release(PGconn*, const lease&);

} // namespace idem
