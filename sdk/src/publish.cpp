#include <idem/publish.hpp>

#include <idem/detail/messages.hpp>
#include <idem/detail/sql.hpp>

#include "wire.hpp"

namespace idem {

std::int64_t publish(transaction& tx, std::string_view topic, std::string_view payload,
                     const publish_options& options) {
    const auto quote = [&tx](std::string_view text) { return detail::quote(tx.connection(), text); };
    const auto or_null = [&](const auto& text) { return text ? quote(*text) : "NULL"; };
    const result row = tx.exec(detail::publish_sql(quote(topic), quote(payload), or_null(options.key),
                                                   or_null(options.type), or_null(options.headers)));
    return detail::parse_number(row.text(0, 0));
}

std::int64_t publish(PGconn* connection, std::string_view topic, std::string_view payload,
                     const publish_options& options) {
    transaction tx{connection, detail::forever};
    return publish(tx, topic, payload, options);
}

namespace detail {

std::string publish_sql(std::string_view topic, std::string_view payload, std::string_view key, std::string_view type,
                        std::string_view headers) {
    std::string sql = "SELECT idem_publish(";
    sql.append(topic).append(",").append(payload).append(",").append(key).append(",").append(type);
    return sql.append(",").append(headers).append(")");
}

} // namespace detail
} // namespace idem
