#include <idem/client.hpp>

#include <idem/errors.hpp>

#include "wire.hpp"

#include <sys/socket.h>

#include <array>
#include <utility>

namespace idem {

namespace {

using clock = std::chrono::steady_clock;

// libpq's own loop: unlike PQconnectPoll it goes on to the next host when one keeps silent for connect_timeout.
PGconn* open(const std::string& conninfo) {
    // What comes later wins, and the connection string comes last.
    static constexpr std::array keywords{"connect_timeout",
                                         "keepalives_idle",
                                         "keepalives_interval",
                                         "keepalives_count",
                                         "tcp_user_timeout",
                                         "fallback_application_name",
                                         "dbname",
                                         static_cast<const char*>(nullptr)};
    const std::array values{"5", "10", "5", "2", "20000", "idem", conninfo.c_str(), static_cast<const char*>(nullptr)};
    return PQconnectdbParams(keywords.data(), values.data(), 1);
}

bool reset(PGconn* connection, std::chrono::milliseconds patience) {
    const clock::time_point until = clock::now() + patience;
    if (PQresetStart(connection) == 0) return false;
    for (PostgresPollingStatusType next = PGRES_POLLING_WRITING;; next = PQresetPoll(connection)) {
        if (next == PGRES_POLLING_OK) return true;
        if (next == PGRES_POLLING_FAILED) return false;
        if (!detail::wait_for(PQsocket(connection), next == PGRES_POLLING_WRITING, until)) return false;
    }
}

} // namespace

client::client(std::string conninfo)
    : conninfo_{std::move(conninfo)},
      owned_{true},
      statements_{statements::to_prepare} {
    reconnect({});
}

client::client(PGconn* borrowed) : connection_{borrowed} {}

client::client(client&& other) noexcept
    : conninfo_{std::move(other.conninfo_)},
      connection_{std::exchange(other.connection_, nullptr)},
      owned_{std::exchange(other.owned_, false)},
      statements_{other.statements_},
      companion_{std::move(other.companion_)} {}

client& client::operator=(client&& other) noexcept {
    std::swap(conninfo_, other.conninfo_);
    std::swap(connection_, other.connection_);
    std::swap(owned_, other.owned_);
    std::swap(statements_, other.statements_);
    std::swap(companion_, other.companion_);
    return *this;
}

client::~client() {
    companion_.reset();
    if (owned_) PQfinish(connection_);
}

void client::disconnect() noexcept {
    companion_.reset();
    if (owned_) {
        PQfinish(std::exchange(connection_, nullptr));
    } else if (connected()) {
        // The caller's connection is not ours to finish: end it below libpq, and let libpq find out.
        shutdown(PQsocket(connection_), SHUT_RDWR);
        while (PQconsumeInput(connection_) != 0) {}
    }
}

void client::reconnect(std::chrono::milliseconds patience) {
    disconnect();
    if (owned_) {
        connection_ = open(conninfo_);
        if (statements_ == statements::prepared) statements_ = statements::to_prepare;
        if (connected()) return;
    } else if (reset(connection_, patience)) {
        return;
    }
    const std::string why = detail::message_of(connection_);
    if (owned_) disconnect();
    throw error{why.empty() ? "no connection to the server in time" : why, sqlstate::cannot_connect};
}

} // namespace idem
