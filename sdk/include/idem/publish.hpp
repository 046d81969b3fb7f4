// publish: a message that commits with the work.
//
//     … the work, on `connection` …
//     idem::publish(connection, "orders", R"({"order": 1})", {.key = "order-1", .type = "paid"});
//     … COMMIT …
//
// One statement, one round trip. The same over libpqxx transactions is in <idem/pqxx.hpp>.
#pragma once

#include <idem/transaction.hpp>

#include <libpq-fe.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace idem {

struct publish_options {
    std::optional<std::string> key{};     // what the message is about: see publish on order
    std::optional<std::string> type{};    // what happened
    std::optional<std::string> headers{}; // a JSON object
};

// Publishes a message in the open transaction: every consumer of `topic` (1 to 255 bytes) gets it if and only if the
// transaction commits. `payload` is JSON. Messages of one key are delivered in the order in which their publishers held
// a common lock, of a row or of an idempotency key. At any isolation level. Returns the message's id.
// Throws ID011 (invalid topic), 22023 (headers are no object), 22P02 (payload or headers are not JSON), 25006
// (read-only).
std::int64_t publish(transaction&, std::string_view topic, std::string_view payload, const publish_options& = {});
std::int64_t publish(PGconn*, std::string_view topic, std::string_view payload, const publish_options& = {});

} // namespace idem
