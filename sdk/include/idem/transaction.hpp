// What run's callback gets over libpq: the open transaction.
#pragma once

#include <idem/result.hpp>

#include <libpq-fe.h>

#include <chrono>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace idem {

// run begins it and ends it; the callback only works in it.
class transaction {
public:
    transaction(PGconn* connection, std::chrono::milliseconds response_timeout) noexcept
        : connection_{connection},
          timeout_{response_timeout} {}

    // Executes a statement and returns its result. Parameters $1, $2, … are text, std::nullopt is NULL:
    //     tx.exec("INSERT INTO orders VALUES ($1, $2)", {id, std::nullopt});
    // Without parameters there may be several statements; the last result is returned.
    // Throws error with the server's SQLSTATE, 08006 when the connection is lost or does not answer within the response
    // timeout. Let it pass: run knows what to retry, and the transaction is over anyway.
    result exec(const std::string& sql, std::initializer_list<std::optional<std::string_view>> parameters = {});

    [[nodiscard]] std::chrono::milliseconds response_timeout() const noexcept { return timeout_; }

    // For anything else that libpq offers (COPY, prepared statements, …); such calls know no response timeout.
    [[nodiscard]] PGconn* connection() const noexcept { return connection_; }

private:
    PGconn* connection_;
    std::chrono::milliseconds timeout_;
};

} // namespace idem
