// nack: a message that cannot be worked on now. idem::consumer does this by itself when its callback throws; this is
// for code that fetches by itself, and for callbacks that take a whole batch.
//
//     … BEGIN; SELECT * FROM idem_fetch('mail', …) …
//     auto skip = idem::nack(connection, "mail", message, "no such address"); // nothing of its work was done here
//     … the work on the others, but for `skip` …
//     … SELECT idem_ack('mail', batch); COMMIT …
//
// One statement, one round trip. The same over libpqxx transactions is in <idem/pqxx.hpp>.
#pragma once

#include <idem/message.hpp>
#include <idem/transaction.hpp>

#include <libpq-fe.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace idem {

// Parks a message of the open transaction's batch, of which `batch` and `id` matter: it comes again after `retry_in`,
// by default 1 s, doubled each time up to an hour; after idem.max_attempts it goes to idem_dead_letters with `error`.
// Takes effect with the ack and the COMMIT. Returns the ids of the later messages of the batch that now wait behind it,
// those of its key (external consumers: all): the caller must do none of their work. Throws ID009 (the batch was not
// fetched by this transaction), 22023 (no such message in it), 25006 (read-only).
[[nodiscard]] std::vector<std::int64_t> nack(transaction&, std::string_view consumer, const message&,
                                             std::string_view error,
                                             std::optional<std::chrono::milliseconds> retry_in = {});
[[nodiscard]] std::vector<std::int64_t> nack(PGconn*, std::string_view consumer, const message&, std::string_view error,
                                             std::optional<std::chrono::milliseconds> retry_in = {});

} // namespace idem
