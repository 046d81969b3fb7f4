// fetch: a consumer's next messages, in a transaction that this begins.
#pragma once

#include <idem/message.hpp>

#include <libpq-fe.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace idem::detail {

struct fetch_options {
    int max_messages{};
    std::chrono::milliseconds wait{}, idle_timeout{}; // as in consumer_options
    std::optional<std::int64_t> lane{};
    bool last_look = false; // is there anything else?
};

struct fetched {
    std::vector<message> messages{};
    // After a last look: another transaction had a lane, or `lane`, just before; the fetch has written something, as
    // one of an external consumer does before it finds messages.
    bool held = false, wrote = false;
};

// Gives up after `wait` and then `patience`. A bell that becomes readable ends it before, with 57014 as a rule.
fetched fetch(PGconn*, std::string_view consumer, const fetch_options&, std::chrono::milliseconds patience, int bell);

} // namespace idem::detail
