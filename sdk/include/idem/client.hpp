// A connection that run can use and replace.
#pragma once

#include <libpq-fe.h>

#include <chrono>
#include <memory>
#include <string>

namespace idem {

namespace detail {
class loop;
}

// Owns a connection, or borrows the user's. Move-only; one thread at a time.
class client {
public:
    // Connects, and closes in the end. `conninfo` is a connection string or URI as libpq takes it. Where it says
    // nothing about them, connections are given up after 5 s (per host) and dead peers noticed after about 20 s. Throws
    // error 08001.
    // run prepares its statements on it, as idem_claim_… and idem_complete_…. Once it finds them gone (a pooler has
    // given it another server connection, or DEALLOCATE ALL), or their names taken, it does without.
    explicit client(std::string conninfo);

    // Uses the caller's connection, outside of any transaction, and never closes it. run prepares nothing on it: its
    // statements are planned each time. When it breaks, run resets it as PQreset does: what the session had (SET,
    // prepared statements, temporary tables) is gone. After an exception of class 08 it may be left broken, for the
    // caller to PQreset or PQfinish. A notice receiver of the caller's hides from run the warning that a commit may not
    // be replicated (libpq has room for one); a notice processor does not.
    explicit client(PGconn* borrowed);

    client(client&&) noexcept;
    client& operator=(client&&) noexcept;
    client(const client&) = delete;
    client& operator=(const client&) = delete;
    ~client();

    // The connection, perhaps broken, null only when a reconnect has failed. An owned one changes when it reconnects.
    [[nodiscard]] PGconn* connection() const noexcept { return connection_; }
    [[nodiscard]] bool connected() const noexcept { return PQstatus(connection_) == CONNECTION_OK; }

    // Drops the connection, whatever its state, without waiting for the server. run does this by itself.
    void disconnect() noexcept;

    // A new connection in place of the old one. A borrowed one takes `patience` at most, an owned one its
    // connect_timeout. Throws error 08001.
    void reconnect(std::chrono::milliseconds patience);

    // Keeps something together with this connection: released just before it closes or is replaced.
    void attach(std::shared_ptr<void> companion) noexcept { companion_ = std::move(companion); }
    [[nodiscard]] void* attached() const noexcept { return companion_.get(); }

private:
    friend class detail::loop;
    enum class statements { unprepared, to_prepare, prepared };

    std::string conninfo_{};
    PGconn* connection_ = nullptr;
    bool owned_ = false;
    statements statements_ = statements::unprepared; // those of run
    std::shared_ptr<void> companion_{};
};

} // namespace idem
