// consume: the inbox. A message from elsewhere is worked on once, however often it is delivered.
//
//     … BEGIN …
//     if (idem::consume(connection, "payments", message_id)) … the work, on the same connection …
//     … COMMIT …
//
// Each is one statement, one round trip. The same over libpqxx transactions is in <idem/pqxx.hpp>. For this database's
// own messages there is <idem/consumer.hpp>.
#pragma once

#include <idem/transaction.hpp>

#include <libpq-fe.h>

#include <cstdint>
#include <string_view>

namespace idem {

// Takes note of a message in the open transaction: true the first time, false if it was consumed before, within
// idem.inbox_retention. `source`, where its id is unique, and `message_id` are 1 to 255 bytes.
// READ COMMITTED: waits for another transaction that is about to consume it. REPEATABLE READ and SERIALIZABLE: error
// 40001 if that one committed after this transaction's snapshot.
// Throws ID011 (invalid source or message_id), 25006 (read-only), 40001, 55P03 (lock_timeout).
[[nodiscard]] bool consume(transaction&, std::string_view source, std::string_view message_id);
[[nodiscard]] bool consume(PGconn*, std::string_view source, std::string_view message_id);

enum class consume_status {
    first,     // the next one: do its work, in this transaction
    duplicate, // consumed before
    gap        // messages before it have not come yet: do nothing, and have it delivered again after them
};

// The status as the extension spells it.
[[nodiscard]] std::string_view to_string(consume_status) noexcept;

// The same for a source that numbers the deliveries of each lane 1, 2, 3 and so on: only the last number is kept, for
// ever. A new source or lane begins with 1. Other transactions of the lane wait until this one ends.
// Throws as consume does, and 22023 (seq below 1).
[[nodiscard]] consume_status consume_seq(transaction&, std::string_view source, std::int64_t lane, std::int64_t seq);
[[nodiscard]] consume_status consume_seq(PGconn*, std::string_view source, std::int64_t lane, std::int64_t seq);

} // namespace idem
