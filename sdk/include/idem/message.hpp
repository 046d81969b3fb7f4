// message: what a consumer gets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace idem {

struct message {
    // As it was published.
    std::int64_t id{};
    std::string topic{};
    std::optional<std::string> key{}, type{};
    std::string payload{};                // JSON text; empty: see tombstone()
    std::optional<std::string> headers{}; // a JSON object
    std::string created_at{};             // ISO 8601, with microseconds and offset

    // This delivery.
    std::int64_t batch{}, lane{};
    int attempt{}; // 1: it has not failed before

    // To an external consumer alone: what the receiver tells redeliveries by, see idem_fetch() and <idem/consume.hpp>.
    std::optional<std::int64_t> seq{};
    std::optional<std::string> source{}, message_id{};

    // Takes the seq of a message that was given up, which is in idem_dead_letters: the receiver consumes the seq and
    // does no work. External consumers alone get such. A JSON text is never empty, be it null.
    [[nodiscard]] bool tombstone() const noexcept { return payload.empty(); }
};

} // namespace idem
