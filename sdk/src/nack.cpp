#include <idem/nack.hpp>

#include <idem/detail/messages.hpp>
#include <idem/detail/sql.hpp>

#include "wire.hpp"

namespace idem {

std::vector<std::int64_t> nack(transaction& tx, std::string_view consumer, const message& bad, std::string_view error,
                               std::optional<std::chrono::milliseconds> retry_in) {
    const auto quote = [&tx](std::string_view text) { return detail::quote(tx.connection(), text); };
    return detail::parse_numbers(tx.exec(detail::nack_sql(quote(consumer), bad, quote(error), retry_in)).text(0, 0));
}

std::vector<std::int64_t> nack(PGconn* connection, std::string_view consumer, const message& bad,
                               std::string_view error, std::optional<std::chrono::milliseconds> retry_in) {
    transaction tx{connection, detail::forever};
    return nack(tx, consumer, bad, error, retry_in);
}

namespace detail {

std::string nack_sql(std::string_view consumer, const message& bad, std::string_view error,
                     std::optional<std::chrono::milliseconds> retry_in) {
    return call_sql("SELECT idem_nack",
                    {consumer, std::to_string(bad.batch), std::to_string(bad.id), error, interval_sql(retry_in)});
}

} // namespace detail
} // namespace idem
