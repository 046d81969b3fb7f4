#include "wire.hpp"

#include <idem/detail/sql.hpp>
#include <idem/errors.hpp>

#include <poll.h>

#include <algorithm>
#include <memory>

namespace idem::detail {

namespace {

using clock = std::chrono::steady_clock;

std::string trimmed(std::string text) {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

// libpq must not block in sending while we count the time.
class nonblocking {
public:
    explicit nonblocking(PGconn* connection) : connection_{connection}, was_{PQisnonblocking(connection) != 0} {
        PQsetnonblocking(connection_, 1);
    }
    // Going back flushes what is unsent, and may block: not on a connection that is given up.
    ~nonblocking() {
        if (!was_ && PQtransactionStatus(connection_) != PQTRANS_ACTIVE) PQsetnonblocking(connection_, 0);
    }
    nonblocking(const nonblocking&) = delete;
    nonblocking& operator=(const nonblocking&) = delete;

private:
    PGconn* connection_;
    bool was_;
};

// Takes what has arrived; true when that was all, or all that can come.
bool take(PGconn* connection, reply& into) {
    while (PQisBusy(connection) == 0 || PQstatus(connection) == CONNECTION_BAD) {
        result next{PQgetResult(connection)};
        if (next.get() == nullptr) {
            into.whole = PQstatus(connection) == CONNECTION_OK;
            return true;
        }
        into.results.push_back(std::move(next));
        if (into.copying()) return true;
    }
    return false;
}

// A connection that nobody has touched yet knows libpq's own receiver. It is the only one that can be put back: libpq
// hands out a receiver, but not its argument.
PQnoticeReceiver default_notice_receiver() {
    PGconn* const untouched = PQconnectStart("=");
    const PQnoticeReceiver receiver = PQsetNoticeReceiver(untouched, nullptr, nullptr);
    PQfinish(untouched);
    return receiver;
}

} // namespace

replication_watch::replication_watch(PGconn* connection) : connection_{connection} {
    static const PQnoticeReceiver standard = default_notice_receiver();
    receiver_ = standard;
    installed_ = PQsetNoticeReceiver(connection_, nullptr, nullptr) == receiver_;
    if (installed_) PQsetNoticeReceiver(connection_, receive, this);
}

replication_watch::~replication_watch() {
    if (installed_) PQsetNoticeReceiver(connection_, receiver_, nullptr);
}

void replication_watch::receive(void* self, const PGresult* notice) {
    auto* const watch = static_cast<replication_watch*>(self);
    const auto field = [notice](int code) -> std::string_view {
        const char* const value = PQresultErrorField(notice, code);
        return value != nullptr ? value : "";
    };
    // The text is translated, so it goes by the code. A trigger's RAISE WARNING has the same code, and a context.
    if (field(PG_DIAG_SEVERITY_NONLOCALIZED) == "WARNING" && field(PG_DIAG_SQLSTATE) == "01000" &&
        field(PG_DIAG_CONTEXT).empty())
        watch->warned_ = true;
    watch->receiver_(nullptr, notice);
}

reply collect(PGconn* connection, std::chrono::milliseconds patience) {
    const clock::time_point until = clock::now() + patience;
    reply all;
    while (!take(connection, all)) {
        const bool unsent = PQflush(connection) == 1;
        if (!wait_for(PQsocket(connection), unsent, until)) break;
        PQconsumeInput(connection); // when it fails the connection is bad, and take ends
    }
    return all;
}

std::string quote(PGconn* connection, std::string_view text) {
    no_zero_byte(text);
    struct free {
        void operator()(char* memory) const noexcept { PQfreemem(memory); }
    };
    const std::unique_ptr<char, free> quoted{PQescapeLiteral(connection, text.data(), text.size())};
    if (!quoted) throw error{message_of(connection), "22021"};
    return quoted.get();
}

std::string message_of(const PGconn* connection) {
    return connection != nullptr ? trimmed(PQerrorMessage(connection)) : std::string{};
}

void throw_error(const result& failed) {
    const char* const sqlstate = PQresultErrorField(failed.get(), PG_DIAG_SQLSTATE);
    throw error{trimmed(PQresultErrorMessage(failed.get())),
                sqlstate != nullptr ? sqlstate : sqlstate::connection_lost};
}

void throw_lost(const PGconn* connection, std::string_view what) {
    const std::string why = message_of(connection);
    throw error{std::string{what} + (why.empty() ? "" : ": " + why), sqlstate::connection_lost};
}

std::optional<std::string> text_or_null(const result& from, int row, int column) {
    return from.is_null(row, column) ? std::nullopt : std::optional{std::string{from.text(row, column)}};
}

claim_result read_claim(const result& row) {
    return {parse_status(row.text(0, 0)), text_or_null(row, 0, 1), text_or_null(row, 0, 2)};
}

const result* reply::failure() const noexcept {
    // The first is the cause: after it libpq may add that the connection is gone.
    for (const result& each : results)
        if (PQresultStatus(each.get()) == PGRES_FATAL_ERROR || PQresultStatus(each.get()) == PGRES_BAD_RESPONSE)
            return &each;
    return nullptr;
}

void reply::check(const PGconn* connection) const {
    if (const result* const failed = failure()) throw_error(*failed);
    if (!whole) throw_lost(connection, "no answer from the server");
}

std::string_view reply::sqlstate() const noexcept {
    const result* const failed = failure();
    const char* const code = failed != nullptr ? PQresultErrorField(failed->get(), PG_DIAG_SQLSTATE) : nullptr;
    return code != nullptr ? code : "";
}

bool reply::copying() const noexcept {
    if (results.empty()) return false;
    const ExecStatusType status = PQresultStatus(results.back().get());
    return status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH;
}

reply ask(PGconn* connection, const std::string& sql, std::chrono::milliseconds patience) {
    const nonblocking mode{connection};
    if (PQsendQuery(connection, sql.c_str()) == 0) return {};
    return collect(connection, patience);
}

reply ask(PGconn* connection, const std::string& sql, const std::vector<const char*>& parameters,
          std::chrono::milliseconds patience) {
    const nonblocking mode{connection};
    if (PQsendQueryParams(connection, sql.c_str(), static_cast<int>(parameters.size()), nullptr, parameters.data(),
                          nullptr, nullptr, 0) == 0)
        return {};
    return collect(connection, patience);
}

reply ask(PGconn* connection, const std::string& sql, std::span<const parameter> parameters,
          std::chrono::milliseconds patience) {
    std::vector<Oid> types;
    std::vector<const char*> values;
    std::vector<int> lengths, formats;
    for (const parameter& each : parameters) {
        types.push_back(each.type);
        values.push_back(each.value.c_str());
        lengths.push_back(static_cast<int>(each.value.size()));
        formats.push_back(each.binary ? 1 : 0);
    }
    const nonblocking mode{connection};
    if (PQsendQueryParams(connection, sql.c_str(), static_cast<int>(parameters.size()), types.data(), values.data(),
                          lengths.data(), formats.data(), 0) == 0)
        return {};
    return collect(connection, patience);
}

bool wait_for(int socket, bool writable, clock::time_point until) {
    pollfd watched{socket, static_cast<short>(writable ? POLLIN | POLLOUT : POLLIN), 0};
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - clock::now()).count();
        const int ready = poll(&watched, 1, static_cast<int>(std::clamp<long long>(left, 0, 60'000)));
        if (ready > 0) return true;
        if (ready == 0 && clock::now() >= until) return false;
        if (ready < 0 && errno != EINTR && errno != EAGAIN) return true; // the socket is gone, which libpq will find
    }
}

} // namespace idem::detail
