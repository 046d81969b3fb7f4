// What can go wrong: one exception, told apart by its SQLSTATE. Business outcomes are statuses, not exceptions.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

namespace idem {

// Thrown for whatever the server refuses (its message, detail and hint are in what()) and for a connection that fails.
class error : public std::runtime_error {
public:
    error(const std::string& what, std::string_view sqlstate);

    // Five characters: one of those below or of PostgreSQL's own.
    [[nodiscard]] std::string_view sqlstate() const noexcept { return {sqlstate_.data(), sqlstate_.size()}; }

private:
    std::array<char, 5> sqlstate_{};
};

namespace sqlstate {

// The extension's private class, the same list as its errors.h.
inline constexpr std::string_view not_claimed = "ID001";       // complete or release of a key not claimed here
inline constexpr std::string_view already_claimed = "ID002";   // claimed twice in one transaction
inline constexpr std::string_view already_completed = "ID003"; // completed twice in one transaction
inline constexpr std::string_view claim_open = "ID004";        // COMMIT with a claim neither completed nor released
inline constexpr std::string_view invalid_key = "ID005";       // empty or longer than 255 bytes
inline constexpr std::string_view invalid_scope = "ID006";     // longer than 255 bytes
inline constexpr std::string_view invalid_interval = "ID007";  // wait or ttl negative or out of range
inline constexpr std::string_view batch_open = "ID008";        // COMMIT with a batch fetched but not acked
inline constexpr std::string_view batch_not_held = "ID009";    // ack of a batch not fetched by this transaction
inline constexpr std::string_view batch_acked = "ID010";       // ack of a batch acked already
inline constexpr std::string_view invalid_name = "ID011";      // consumer, topic, source, message id: empty or too long
inline constexpr std::string_view transition_refused = "ID012";   // a state machine does not allow the step
inline constexpr std::string_view not_completed = "ID013";        // confirm of a key that is not completed
inline constexpr std::string_view key_cancelled = "ID014";        // confirm of a key that is cancelled
inline constexpr std::string_view handler_not_callable = "ID015"; // a compensation is gone, or may not be called
inline constexpr std::string_view not_in_batch = "ID016";         // nack of a message not in the batch, or nacked
inline constexpr std::string_view lease_lost = "ID017";           // a token that does not hold the key any more
inline constexpr std::string_view scope_away = "ID018";    // the scope is at another node, or on its way: route again
inline constexpr std::string_view scope_differs = "ID019"; // what has arrived of a scope is not what was sent

// Standard codes that the SDK itself raises or acts on.
inline constexpr std::string_view serialization_failure = "40001"; // run and consumer try again
inline constexpr std::string_view deadlock_detected = "40P01";     // run and consumer try again
inline constexpr std::string_view cannot_connect = "08001";        // no connection within the time allowed
inline constexpr std::string_view connection_lost = "08006";       // lost or silent, and nothing was committed
inline constexpr std::string_view in_doubt = "08007";              // lost during COMMIT, and no answer by the deadline

} // namespace sqlstate

// For callbacks to throw, when what they need is away for a while (a broker, say) and no message is to blame: run and
// consumer roll back and try again, as after 40001. A consumer does so for ever, with pauses of up to a second.
class try_again : public error {
public:
    explicit try_again(const std::string& why) : error{why, sqlstate::serialization_failure} {}
};

} // namespace idem
