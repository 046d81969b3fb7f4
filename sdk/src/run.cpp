#include <idem/run.hpp>

#include <idem/detail/sql.hpp>

#include "wire.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <random>
#include <thread>
#include <utility>

namespace idem {

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::array<std::string_view, 5> status_names{"executed", "replayed", "in_progress", "mismatch", "cancelled"};

// A connection that nobody has touched yet knows libpq's own receiver. It is the only one that can be put back: libpq
// hands out a receiver, but not its argument.
PQnoticeReceiver default_notice_receiver() {
    PGconn* const untouched = PQconnectStart("=");
    const PQnoticeReceiver receiver = PQsetNoticeReceiver(untouched, nullptr, nullptr);
    PQfinish(untouched);
    return receiver;
}

// Sees the warning that a commit is not known to be replicated. Everything goes on to the notice processor in force; a
// notice receiver of the user's is left in place, and then nothing is seen.
class replication_watch {
public:
    explicit replication_watch(PGconn* connection) : connection_{connection} {
        static const PQnoticeReceiver standard = default_notice_receiver();
        receiver_ = standard;
        installed_ = PQsetNoticeReceiver(connection_, nullptr, nullptr) == receiver_;
        if (installed_) PQsetNoticeReceiver(connection_, receive, this);
    }
    ~replication_watch() {
        if (installed_) PQsetNoticeReceiver(connection_, receiver_, nullptr);
    }
    replication_watch(const replication_watch&) = delete;
    replication_watch& operator=(const replication_watch&) = delete;

    [[nodiscard]] bool warned() const noexcept { return warned_; }

private:
    static void receive(void* self, const PGresult* notice) {
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

    PGconn* connection_;
    PQnoticeReceiver receiver_ = nullptr;
    bool installed_ = false, warned_ = false;
};

std::string begin_sql(const run_options& options) {
    std::string sql = "BEGIN";
    if (options.isolation) {
        static constexpr std::array levels{"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"};
        sql.append(" ISOLATION LEVEL ").append(levels[static_cast<std::size_t>(*options.isolation)]);
    }
    if (options.idle_timeout.count() > 0)
        sql += "; SET LOCAL idle_in_transaction_session_timeout = " + std::to_string(options.idle_timeout.count());
    return sql + "; ";
}

// A moment just after the claim, as no setting changes it and as bytea compares: big-endian, and positive since 2000.
constexpr std::string_view claimed_by_column = ", timestamptz_send(clock_timestamp())";

// One call of run.
class loop {
public:
    loop(client& on, std::string_view key, std::optional<std::string_view> request, const detail::work& work,
         const run_options& options)
        : client_{on},
          key_{key},
          request_{request},
          work_{work},
          options_{options},
          deadline_{clock::now() + options.deadline} {}

    outcome run() {
        if (client_.connected() && PQtransactionStatus(client_.connection()) != PQTRANS_IDLE)
            throw error{"run begins its own transaction, but the connection is busy or in one already", "25001"};
        for (;;) {
            const bool asking = in_doubt_;
            try {
                if (auto done = attempt()) return *std::move(done);
            } catch (...) {
                failure_ = std::current_exception();
                const auto sqlstate = work_.sqlstate_of_current();
                end_transaction();
                if (!again_after(sqlstate)) throw;
            }
            // A commit that has just come into doubt is asked about at least once.
            if (clock::now() >= deadline_ && (asking || !in_doubt_)) return give_up();
            pause();
        }
    }

private:
    // One transaction. Empty: no answer yet, ask again.
    std::optional<outcome> attempt() {
        if (!client_.connected()) client_.reconnect(options_.response_timeout);
        const claim_result claim = begin();
        if (claim.status() == claim_status::completed) {
            const run_status whose = in_doubt_ && stored_is_ours() ? run_status::executed : run_status::replayed;
            end_transaction();
            return outcome{whose, claim.response(), attempts_, doubts_};
        }
        if (!claim) {
            end_transaction();
            if (claim.status() == claim_status::in_progress && ours_may_hold_it_) return std::nullopt;
            return outcome{without_response(claim.status()), {}, attempts_, doubts_};
        }

        // The key is free: nothing that we lost track of has been committed, or can be any more.
        in_doubt_ = ours_may_hold_it_ = false;
        if (attempts_ > 0 && attempts_ >= options_.max_attempts) std::rethrow_exception(failure_);
        ++attempts_;
        const std::string response = work_.body(client_, options_.response_timeout);
        return commit(response);
    }

    claim_result begin() {
        PGconn* const connection = client_.connection();
        const claim_options options{options_.scope, options_.wait, options_.ttl};
        const detail::reply answer =
            detail::ask(connection,
                        begin_sql(options_) + detail::claim_sql(quote(key_), request_ ? quote(*request_) : "NULL",
                                                                quote(options_.scope), options, claimed_by_column),
                        options_.response_timeout + options_.wait.value_or(milliseconds{0}));
        answer.check(connection);
        const result& row = answer.results.back();
        claim_result claim = detail::read_claim(row);
        if (claim) claimed_by_ = row.text(0, 3);
        return claim;
    }

    std::optional<outcome> commit(const std::string& response) {
        PGconn* const connection = client_.connection();
        check_open(connection);
        const std::string sql = detail::complete_sql(quote(key_), quote(response), quote(options_.scope)) + "; COMMIT";
        bool replicated = true; // as far as we know
        detail::reply answer;
        {
            const replication_watch watch{connection};
            answer = detail::ask(connection, sql, options_.response_timeout);
            replicated = !watch.warned();
        }
        const std::string trouble = detail::message_of(connection);
        if (!answer.whole) client_.disconnect();

        const auto says_commit = [](const result& each) { return each.tag() == "COMMIT"; };
        if (replicated && std::any_of(answer.results.begin(), answer.results.end(), says_commit))
            return outcome{run_status::executed, std::string{answer.results.front().text(0, 0)}, attempts_, doubts_};
        if (replicated && answer.whole) { // refused, by an error or by a ROLLBACK in COMMIT's place
            answer.check(connection);
            throw error{"COMMIT was answered with ROLLBACK", "40000"};
        }

        ++doubts_;
        in_doubt_ = ours_may_hold_it_ = true;
        failure_ = std::make_exception_ptr(error{"COMMIT was not confirmed " + trouble, sqlstate::connection_lost});
        return std::nullopt;
    }

    // The callback must leave the transaction as it found it, open and sound.
    static void check_open(const PGconn* connection) {
        switch (PQtransactionStatus(connection)) {
        case PQTRANS_INTRANS: return;
        case PQTRANS_IDLE: throw error{"the callback ended the transaction, which is for run to do", "25P01"};
        case PQTRANS_INERROR: throw error{"the callback returned though its transaction had failed", "25P02"};
        case PQTRANS_ACTIVE: throw error{"the callback left a command in progress", "55000"};
        case PQTRANS_UNKNOWN: break;
        }
        detail::throw_lost(connection, "the connection was lost in the callback");
    }

    // Was the response that a claim has just found stored by our transaction in doubt? Our last claim found the key
    // free and kept it locked, so any other that was stored is of a later claim. Asked within the claim's transaction.
    bool stored_is_ours() {
        PGconn* const connection = client_.connection();
        const detail::reply answer =
            detail::ask(connection,
                        "SELECT timestamptz_send(claimed_at) <= " + quote(claimed_by_) + " FROM idem_status(" +
                            quote(key_) + ", " + quote(options_.scope) + ")",
                        options_.response_timeout);
        answer.check(connection);
        return answer.results.back().text(0, 0) == "t";
    }

    // Rolls back what is open; a connection that cannot is dropped.
    void end_transaction() noexcept {
        try {
            PGconn* const connection = client_.connection();
            const PGTransactionStatusType status = PQtransactionStatus(connection);
            if (status == PQTRANS_IDLE) return;
            const bool open = status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
            if (open && detail::ask(connection, "ROLLBACK", options_.response_timeout).whole) return;
        } catch (...) {} // out of memory: the connection is dropped
        client_.disconnect();
    }

    // After a failure: is another try allowed? Called when the transaction has been ended.
    bool again_after(const std::optional<std::string>& sqlstate) {
        if (in_doubt_) return true; // whatever it was, the question is still open
        if (!sqlstate) return false;
        const bool lost = !client_.connected() && (sqlstate->empty() || sqlstate->starts_with("08") ||
                                                   sqlstate->starts_with("57P")); // the server went away
        if (lost) ours_may_hold_it_ = true;
        const bool collided = *sqlstate == sqlstate::serialization_failure || *sqlstate == sqlstate::deadlock_detected;
        return (lost || collided) && attempts_ < options_.max_attempts && clock::now() < deadline_;
    }

    outcome give_up() {
        if (in_doubt_) {
            std::string why =
                "no answer before the deadline whether the transaction was committed; ask again with the same key";
            try {
                std::rethrow_exception(failure_);
            } catch (const std::exception& last) {
                why.append(" (").append(last.what()).append(")");
            } catch (...) {}
            throw error{why, sqlstate::in_doubt};
        }
        return {run_status::in_progress, {}, attempts_, doubts_};
    }

    void pause() {
        const auto longest =
            std::min<milliseconds>(options_.backoff * (1 << std::min(tries_++, 10)), std::chrono::seconds{1});
        std::uniform_int_distribution<milliseconds::rep> jitter{longest.count() / 2, longest.count()};
        std::random_device random;
        std::this_thread::sleep_until(std::min(clock::now() + milliseconds{jitter(random)}, deadline_));
    }

    [[nodiscard]] std::string quote(std::string_view text) const { return detail::quote(client_.connection(), text); }

    static run_status without_response(claim_status status) {
        switch (status) {
        case claim_status::mismatch: return run_status::mismatch;
        case claim_status::cancelled: return run_status::cancelled;
        default: return run_status::in_progress;
        }
    }

    client& client_;
    const std::string_view key_;
    const std::optional<std::string_view> request_;
    const detail::work& work_;
    const run_options& options_;
    const clock::time_point deadline_;

    int attempts_ = 0, doubts_ = 0, tries_ = 0;
    bool in_doubt_ = false;         // a COMMIT of ours has not been answered
    bool ours_may_hold_it_ = false; // a transaction of ours that we lost may still be open on the server
    std::string claimed_by_{};      // see claimed_by_column, of our last claim that found the key free
    std::exception_ptr failure_{};  // the last one
};

} // namespace

outcome::outcome(run_status status, std::string response, int attempts, int in_doubt)
    : status_{status},
      response_{std::move(response)},
      attempts_{attempts},
      in_doubt_{in_doubt} {}

const std::string& outcome::response() const {
    if (!*this) throw error{"a run that is " + std::string{to_string(status_)} + " has no response", "55000"};
    return response_;
}

std::string_view to_string(run_status status) noexcept { return status_names[static_cast<std::size_t>(status)]; }

namespace detail {

std::optional<std::string> sqlstate_of_current() {
    try {
        throw;
    } catch (const error& refused) {
        return std::string{refused.sqlstate()};
    } catch (...) {
        return std::nullopt;
    }
}

outcome run(client& on, std::string_view key, std::optional<std::string_view> request, const work& fn,
            const run_options& options) {
    return loop{on, key, request, fn, options}.run();
}

} // namespace detail
} // namespace idem
