// Talking to the server over libpq: quoting, errors, and replies that are not waited for forever.
#pragma once

#include <idem/claim.hpp>
#include <idem/result.hpp>

#include <libpq-fe.h>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace idem::detail {

std::string quote(PGconn*, std::string_view);

// libpq's own last words on this connection, perhaps none.
std::string message_of(const PGconn*);

// Throws what the server said of a statement that failed.
[[noreturn]] void throw_error(const result& failed);
[[noreturn]] void throw_lost(const PGconn*, std::string_view what);

// A field's text; nothing for NULL.
std::optional<std::string> text_or_null(const result&, int row, int column);

// The row of claim_sql.
claim_result read_claim(const result&);

// All that came back until the server was ready again or the connection failed.
struct reply {
    std::vector<result> results;
    bool whole = false; // otherwise the connection is lost or silent, and of no use any more

    // Throws unless every statement succeeded.
    void check(const PGconn*) const;
    // Of the first statement that failed; empty if none did, or if it was the connection.
    [[nodiscard]] std::string_view sqlstate() const noexcept;
    // It stopped short at a COPY.
    [[nodiscard]] bool copying() const noexcept;

private:
    [[nodiscard]] const result* failure() const noexcept;
};

// The patience of those who have all the time: the user's own connection, without a response timeout.
inline constexpr std::chrono::hours forever{24 * 365};

// Sends SQL text, one or more statements in a single message, and collects the reply.
reply ask(PGconn*, const std::string& sql, std::chrono::milliseconds patience);
// The same for one statement with parameters (null: NULL).
reply ask(PGconn*, const std::string& sql, const std::vector<const char*>& parameters,
          std::chrono::milliseconds patience);

// One that says its type, and may be in the protocol's binary form.
struct parameter {
    Oid type; // 0: the server finds out
    std::string value;
    bool binary;
};
reply ask(PGconn*, const std::string& sql, std::span<const parameter> parameters, std::chrono::milliseconds patience);

// Collects the reply to what was sent before.
reply collect(PGconn*, std::chrono::milliseconds patience);

// Sees the warning that a commit is not known to be replicated. Everything goes on to the notice processor in force; a
// notice receiver of the user's is left in place, and then nothing is seen.
class replication_watch {
public:
    explicit replication_watch(PGconn*);
    ~replication_watch();
    replication_watch(const replication_watch&) = delete;
    replication_watch& operator=(const replication_watch&) = delete;

    [[nodiscard]] bool warned() const noexcept { return warned_; }

private:
    static void receive(void* self, const PGresult* notice);

    PGconn* connection_;
    PQnoticeReceiver receiver_ = nullptr;
    bool installed_ = false, warned_ = false;
};

// Waits until the socket can be read (or written); false after `until`.
bool wait_for(int socket, bool writable, std::chrono::steady_clock::time_point until);

} // namespace idem::detail
