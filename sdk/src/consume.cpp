#include <idem/consume.hpp>

#include <idem/detail/messages.hpp>
#include <idem/errors.hpp>

#include "wire.hpp"

#include <array>

namespace idem {

namespace {

constexpr std::array<std::string_view, 3> statuses{"first", "duplicate", "gap"};

} // namespace

bool consume(transaction& tx, std::string_view source, std::string_view message_id) {
    const auto quote = [&tx](std::string_view text) { return detail::quote(tx.connection(), text); };
    return tx.exec(detail::consume_sql(quote(source), quote(message_id))).text(0, 0) == "t";
}

bool consume(PGconn* connection, std::string_view source, std::string_view message_id) {
    transaction tx{connection, detail::forever};
    return consume(tx, source, message_id);
}

std::string_view to_string(consume_status status) noexcept { return statuses[static_cast<std::size_t>(status)]; }

consume_status consume_seq(transaction& tx, std::string_view source, std::int64_t lane, std::int64_t seq) {
    const result row = tx.exec(detail::consume_seq_sql(detail::quote(tx.connection(), source), lane, seq));
    return detail::parse_consume_status(row.text(0, 0));
}

consume_status consume_seq(PGconn* connection, std::string_view source, std::int64_t lane, std::int64_t seq) {
    transaction tx{connection, detail::forever};
    return consume_seq(tx, source, lane, seq);
}

namespace detail {

std::string consume_sql(std::string_view source, std::string_view message_id) {
    std::string sql = "SELECT idem_consume(";
    return sql.append(source).append(",").append(message_id).append(")");
}

std::string consume_seq_sql(std::string_view source, std::int64_t lane, std::int64_t seq) {
    std::string sql = "SELECT idem_consume_seq(";
    return sql.append(source).append(",").append(std::to_string(lane)).append(",").append(std::to_string(seq)) + ")";
}

consume_status parse_consume_status(std::string_view text) {
    for (const consume_status status : {consume_status::first, consume_status::duplicate, consume_status::gap})
        if (to_string(status) == text) return status;
    throw error{"idem_consume_seq answered '" + std::string{text} + "', unknown to this version of the SDK", "0A000"};
}

} // namespace detail
} // namespace idem
