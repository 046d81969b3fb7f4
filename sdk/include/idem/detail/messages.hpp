// The statements on messages that the SDK sends, and how it reads what comes back. Not for users.
#pragma once

#include <idem/consume.hpp>
#include <idem/message.hpp>
#include <idem/publish.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace idem::detail {

// Texts are SQL literals, already quoted, or NULL.
std::string publish_sql(std::string_view topic, std::string_view payload, std::string_view key, std::string_view type,
                        std::string_view headers);
std::string consume_sql(std::string_view source, std::string_view message_id);
std::string consume_seq_sql(std::string_view source, std::int64_t lane, std::int64_t seq);

std::string nack_sql(std::string_view consumer, const message&, std::string_view error,
                     std::optional<std::chrono::milliseconds> retry_in);

consume_status parse_consume_status(std::string_view);

} // namespace idem::detail
