#include <idem/run.hpp>

#include <idem/detail/sql.hpp>
#include <idem/version.hpp>

#include "wire.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <random>
#include <thread>
#include <utility>
#include <variant>

namespace idem {

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::array<std::string_view, 5> status_names{"executed", "replayed", "in_progress", "mismatch", "cancelled"};

std::string begin_sql(std::optional<isolation> level) {
    static constexpr std::array levels{"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"};
    std::string sql = "BEGIN";
    if (level) sql.append(" ISOLATION LEVEL ").append(levels[static_cast<std::size_t>(*level)]);
    return sql + "; ";
}

// The claim, and with it the bound of the transaction's idle time (which SET LOCAL would do, a statement more). Its
// fourth column is a moment just after the claim, which no setting changes and which compares as bytea: big-endian, and
// positive since 2000.
std::string run_claim_sql(std::string_view key, std::string_view request, std::string_view scope, std::string_view wait,
                          std::string_view ttl, std::string_view idle) {
    std::string sql = "SELECT status, response, cacheable_until, timestamptz_send(clock_timestamp()), CASE WHEN ";
    sql.append(idle).append("::text IS NOT NULL THEN set_config('idle_in_transaction_session_timeout', ").append(idle);
    return sql + ", true) END FROM " + detail::call_sql("idem_claim", {key, request, scope, wait, ttl, "NULL"});
}

// Both statements of run, prepared in SQL and not in the protocol: there a statement is several messages, of which a
// connection that dies may bring only some, and a server that awaits the rest counts no idle time.
constexpr std::string_view claim_name = "\"idem_claim_" IDEM_VERSION "\"";
constexpr std::string_view complete_name = "\"idem_complete_" IDEM_VERSION "\"";
std::string prepare_sql() {
    std::string sql = "PREPARE ";
    sql.append(claim_name).append("(text, jsonb, text, interval, interval, text) AS ");
    sql.append(run_claim_sql("$1", "$2", "$3", "$4", "$5", "$6")).append("; PREPARE ");
    sql.append(complete_name).append("(text, jsonb, text) AS ").append(detail::complete_sql("$1", "$2", "$3"));
    return sql + "; ";
}
std::string execute_sql(std::string_view name, std::initializer_list<std::string_view> arguments) {
    return "EXECUTE " + detail::call_sql(name, arguments);
}

// A last statement has parameters, and is one message all the same; so it is prepared each time. Its parameters are all
// its own, or one that was forgotten would be the key. Its name is free again when the transaction ends, whichever way,
// for then a pooler may give its connection to others. No row makes a NULL, which the completion refuses, and two are
// an error of the subquery.
constexpr std::string_view last_name = "\"idem_last_" IDEM_VERSION "\"";
std::string prepare_last_sql(const last_statement& last, std::string_view key, std::string_view scope) {
    std::string sql = "PREPARE ";
    sql.append(last_name).append(" AS WITH last_statement (response) AS (").append(detail::no_zero_byte(last.sql));
    return sql + "\n) " + detail::complete_sql(key, "(SELECT response::jsonb FROM last_statement)", scope) + "; ";
}
std::string deallocate_last_sql() { return std::string{"DEALLOCATE "}.append(last_name); }

} // namespace

// One call of run.
class detail::loop {
public:
    loop(client& on, std::string_view key, std::optional<std::string_view> request, const work& work,
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
        return commit(work_.body(client_, options_.response_timeout));
    }

    claim_result begin() {
        reply answer = ask_to_claim();
        if (unprepared_by(answer)) { // before anything was done
            end_transaction();
            answer = ask_to_claim();
        }
        answer.check(client_.connection());
        const result& row = answer.results.back();
        claim_result claim = read_claim(row);
        if (claim) claimed_by_ = row.text(0, 3);
        return claim;
    }

    reply ask_to_claim() {
        if (!client_.connected()) client_.reconnect(options_.response_timeout);
        const std::string key = quote(key_), request = request_ ? quote(*request_) : "NULL";
        const std::string scope = quote(options_.scope);
        const std::string wait = interval_sql(options_.wait), ttl = interval_sql(options_.ttl);
        const std::string idle =
            options_.idle_timeout.count() > 0 ? "'" + std::to_string(options_.idle_timeout.count()) + "'" : "NULL";

        std::string sql = begin_sql(options_.isolation);
        const bool preparing = client_.statements_ == client::statements::to_prepare;
        if (preparing) sql += prepare_sql();
        sql += client_.statements_ == client::statements::unprepared
                   ? run_claim_sql(key, request, scope, wait, ttl, idle)
                   : execute_sql(claim_name, {key, request, scope, wait, ttl, idle});
        reply answer =
            ask(client_.connection(), sql, options_.response_timeout + options_.wait.value_or(milliseconds{0}));
        constexpr std::size_t up_to_claim = 3; // results: BEGIN, PREPARE, PREPARE; then that of the claim
        if (preparing && answer.results.size() > up_to_claim) client_.statements_ = client::statements::prepared;
        return answer;
    }

    // Did it fail because our statements are not prepared on this connection (any more), or others under their names?
    // Then this client does without.
    bool unprepared_by(const reply& answer) {
        if (client_.statements_ == client::statements::unprepared ||
            (answer.sqlstate() != "26000" && answer.sqlstate() != "42P05"))
            return false;
        client_.statements_ = client::statements::unprepared;
        return true;
    }

    std::string completed_with(const std::string& response) {
        const std::string key = quote(key_), stored = quote(response), scope = quote(options_.scope);
        const std::string complete = client_.statements_ == client::statements::prepared
                                         ? execute_sql(complete_name, {key, stored, scope})
                                         : complete_sql(key, stored, scope);
        return complete + "; COMMIT";
    }

    std::string completed_with(const last_statement& last) {
        std::string sql = prepare_last_sql(last, quote(key_), quote(options_.scope));
        sql.append("EXECUTE ").append(last_name);
        std::string_view before = "(";
        for (const auto& parameter : last.parameters) {
            sql.append(before).append(parameter ? quote(*parameter) : "NULL");
            before = ",";
        }
        sql.append(last.parameters.empty() ? "; " : "); ");
        last_prepared_ = true;
        return sql + deallocate_last_sql() + "; COMMIT";
    }

    std::optional<outcome> commit(const work_result& worked) {
        PGconn* const connection = client_.connection();
        check_open(connection);
        const std::string complete = std::visit([this](const auto& with) { return completed_with(with); }, worked);
        bool replicated = true; // as far as we know
        reply answer;
        {
            const detail::replication_watch watch{connection};
            answer = ask(connection, complete, options_.response_timeout);
            replicated = !watch.warned();
        }
        const std::string trouble = message_of(connection);
        if (!answer.whole) client_.disconnect();

        const auto says_commit = [](const result& each) { return each.tag() == "COMMIT"; };
        const auto has_row = [](const result& each) { return each.rows() > 0; };
        if (replicated && std::any_of(answer.results.begin(), answer.results.end(), says_commit)) {
            const auto stored = std::find_if(answer.results.begin(), answer.results.end(), has_row);
            return outcome{run_status::executed, std::string{stored->text(0, 0)}, attempts_, doubts_};
        }
        if (replicated && answer.whole) { // refused, by an error or by a ROLLBACK in COMMIT's place
            // a name that is taken is free after our rollback
            again_unprepared_ = last_prepared_ ? answer.sqlstate() == "42P05" : unprepared_by(answer);
            answer.check(connection);
            throw error{"COMMIT was answered with ROLLBACK", "40000"};
        }

        ++doubts_;
        in_doubt_ = ours_may_hold_it_ = true;
        last_prepared_ = false;
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
        throw_lost(connection, "the connection was lost in the callback");
    }

    // Was the response that a claim has just found stored by our transaction in doubt? Our last claim found the key
    // free and kept it locked, so any other that was stored is of a later claim. Asked within the claim's transaction.
    bool stored_is_ours() {
        PGconn* const connection = client_.connection();
        const reply answer = ask(connection,
                                 "SELECT timestamptz_send(claimed_at) <= " + quote(claimed_by_) + " FROM idem_status(" +
                                     quote(key_) + ", " + quote(options_.scope) + ")",
                                 options_.response_timeout);
        answer.check(connection);
        return answer.results.back().text(0, 0) == "t";
    }

    // Rolls back what is open; a connection that cannot is dropped.
    void end_transaction() noexcept {
        try {
            const std::string rest = std::exchange(last_prepared_, false) ? "; " + deallocate_last_sql() : "";
            PGconn* const connection = client_.connection();
            const PGTransactionStatusType status = PQtransactionStatus(connection);
            if (status == PQTRANS_IDLE) return;
            const bool open = status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
            if (open && ask(connection, "ROLLBACK" + rest, options_.response_timeout).whole) return;
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
        const bool unprepared = std::exchange(again_unprepared_, false);
        return (lost || collided || unprepared) && attempts_ < options_.max_attempts && clock::now() < deadline_;
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
    const work& work_;
    const run_options& options_;
    const clock::time_point deadline_;

    int attempts_ = 0, doubts_ = 0, tries_ = 0;
    bool in_doubt_ = false;         // a COMMIT of ours has not been answered
    bool ours_may_hold_it_ = false; // a transaction of ours that we lost may still be open on the server
    bool again_unprepared_ = false; // our statement was gone when it came to completing
    bool last_prepared_ = false;    // the transaction that is open may have taken last_name
    std::string claimed_by_{};      // see run_claim_sql; of our last claim that found the key free
    std::exception_ptr failure_{};  // the last one
};

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
