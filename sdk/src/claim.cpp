#include <idem/claim.hpp>

#include <idem/detail/sql.hpp>
#include <idem/errors.hpp>
#include <idem/result.hpp>

#include "wire.hpp"

#include <utility>

namespace idem {

namespace {

result execute(PGconn* connection, const std::string& sql) {
    result answer{PQexec(connection, sql.c_str())};
    if (answer.get() == nullptr) detail::throw_lost(connection, "no answer from the server");
    if (PQresultStatus(answer.get()) != PGRES_TUPLES_OK) detail::throw_error(answer);
    return answer;
}

} // namespace

claim_result::claim_result(claim_status status, std::optional<std::string> response,
                           std::optional<std::string> cacheable_until)
    : status_{status},
      response_{std::move(response)},
      cacheable_until_{std::move(cacheable_until)} {}

const std::string& claim_result::response() const {
    if (status_ != claim_status::completed || !response_)
        throw error{"a claim that is " + std::string{to_string(status_)} + " has no response", "55000"};
    return *response_;
}

claim_result claim(PGconn* connection, std::string_view key, std::optional<std::string_view> request,
                   const claim_options& options) {
    const result row = execute(connection, detail::claim_sql(detail::quote(connection, key),
                                                             request ? detail::quote(connection, *request) : "NULL",
                                                             detail::quote(connection, options.scope), options));
    return detail::read_claim(row);
}

std::string complete(PGconn* connection, std::string_view key, std::string_view response, std::string_view scope) {
    const result row =
        execute(connection, detail::complete_sql(detail::quote(connection, key), detail::quote(connection, response),
                                                 detail::quote(connection, scope)));
    return std::string{row.text(0, 0)};
}

void release(PGconn* connection, std::string_view key, std::string_view scope) {
    execute(connection, detail::release_sql(detail::quote(connection, key), detail::quote(connection, scope)));
}

} // namespace idem
