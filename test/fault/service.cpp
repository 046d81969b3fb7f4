#include "service.hpp"

#include <atomic>
#include <stdexcept>

namespace fault {

const char* const schema = R"(
    CREATE TABLE orders (
        id        bigint GENERATED ALWAYS AS IDENTITY,
        key       text NOT NULL,
        operation bigint NOT NULL, -- whose work it is
        amount    bigint NOT NULL,
        at        timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE TABLE ledger (order_id bigint NOT NULL, account int NOT NULL, amount bigint NOT NULL);
    CREATE TABLE accounts (account int PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO accounts SELECT n, 0 FROM generate_series(0, 63) AS n;
    CREATE FUNCTION response(orders) RETURNS text LANGUAGE SQL STABLE AS
    $$SELECT jsonb_build_object('order', $1.id, 'key', $1.key, 'operation', $1.operation, 'amount', $1.amount)::text$$)";

namespace {

using namespace std::chrono_literals;

constexpr auto patience = 500ms, idle = 400ms; // with a server, and the server's with us

struct on_purpose {};

std::string book(idem::transaction& tx, const operation& o) {
    if (!o.flushed) tx.exec("SET LOCAL synchronous_commit = off");
    const auto amount = std::to_string(o.amount);
    const auto row = tx.exec("INSERT INTO orders (key, operation, amount) VALUES ($1, $2, $3) "
                             "RETURNING id, response(orders)",
                             {o.key, std::to_string(o.number), amount});
    const auto account =
        tx.exec("INSERT INTO ledger VALUES ($1, $1::bigint % 64, $2) RETURNING account", {row.text(0, 0), amount});
    tx.exec("UPDATE accounts SET balance = balance + $1 WHERE account = $2", {amount, account.text(0, 0)});
    return std::string{row.text(0, 1)};
}

std::string body(const operation& o) {
    return R"({"order": ")" + o.key + R"(", "amount": )" + std::to_string(o.amount) + "}";
}

microseconds now() {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

std::chrono::milliseconds lifetime(const operation& o) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::microseconds{o.ttl});
}

answer without_response(idem::run_status status) {
    switch (status) {
    case idem::run_status::in_progress: return answer::in_progress;
    case idem::run_status::mismatch: return answer::mismatch;
    default: return answer::cancelled;
    }
}
answer without_response(idem::claim_status status) {
    switch (status) {
    case idem::claim_status::in_progress: return answer::in_progress;
    case idem::claim_status::mismatch: return answer::mismatch;
    default: return answer::cancelled;
    }
}

std::string begin(const manner& m) {
    using idem::isolation;
    const std::string level = !m.isolation                                 ? ""
                              : *m.isolation == isolation::serializable    ? " ISOLATION LEVEL SERIALIZABLE"
                              : *m.isolation == isolation::repeatable_read ? " ISOLATION LEVEL REPEATABLE READ"
                                                                           : " ISOLATION LEVEL READ COMMITTED";
    return "BEGIN" + level + "; SET LOCAL idle_in_transaction_session_timeout = " + std::to_string(idle.count());
}

} // namespace

operation service::ask(const request& r, intent i, const manner& m) {
    static std::atomic<std::size_t> operations{0};
    operation o{.number = ++operations,
                .key = r.key,
                .amount = r.amount + (i == intent::changed),
                .intent = i,
                .ttl = r.ttl,
                .flushed = m.flushed,
                .asked_at = now()};
    try {
        if (i == intent::releases || m.door == door::by_hand)
            by_hand(o, m);
        else
            through_run(o, m);
    } catch (const on_purpose&) {
        o.answer = answer::threw;
    } catch (const idem::error& e) {
        o.answer = answer::error;
        o.text = std::string{e.sqlstate()} + ' ' + e.what();
        o.in_doubt += e.sqlstate() == idem::sqlstate::in_doubt;
    }
    if (client_.connected() && PQtransactionStatus(client_.connection()) != PQTRANS_IDLE) client_.disconnect();
    o.answered_at = now();
    return o;
}

void service::through_run(operation& o, const manner& m) {
    const auto work = [&](idem::transaction& tx) {
        ++o.attempts;
        std::string response;
        if (m.door == door::outside) {
            idem::client other{conninfo_};
            idem::transaction own{other.connection(), patience};
            own.exec("BEGIN");
            response = book(own, o);
            own.exec("COMMIT");
        } else {
            response = book(tx, o);
        }
        if (o.intent == intent::throws) throw on_purpose{};
        return response;
    };
    const auto outcome = idem::run(client_, o.key, body(o), work,
                                   {.wait = m.wait,
                                    .ttl = lifetime(o),
                                    .isolation = m.isolation,
                                    .deadline = m.deadline,
                                    .response_timeout = patience,
                                    .idle_timeout = idle});
    o.in_doubt = outcome.in_doubt();
    if (outcome) {
        o.answer = outcome.status() == idem::run_status::executed ? answer::executed : answer::replayed;
        o.text = outcome.response();
    } else {
        o.answer = without_response(outcome.status());
    }
}

void service::by_hand(operation& o, const manner& m) {
    if (!client_.connected()) client_.reconnect(patience);
    idem::transaction tx{client_.connection(), patience + m.wait};
    tx.exec(begin(m));
    const auto claim = idem::claim(tx.connection(), o.key, body(o), {.wait = m.wait, .ttl = lifetime(o)});
    if (claim.status() == idem::claim_status::completed) {
        o.text = claim.response();
        o.answer = answer::replayed;
    } else if (!claim) {
        o.answer = without_response(claim.status());
    }
    if (!claim) {
        tx.exec("ROLLBACK");
        return;
    }

    ++o.attempts;
    std::string response;
    if (o.intent == intent::releases) {
        tx.exec("SAVEPOINT before");
        book(tx, o);
        tx.exec("ROLLBACK TO before");
        idem::release(tx.connection(), o.key);
    } else {
        response = book(tx, o);
        if (o.intent == intent::throws) {
            tx.exec("ROLLBACK");
            throw on_purpose{};
        }
        response = idem::complete(tx.connection(), o.key, response);
    }
    o.in_doubt = 1;
    tx.exec("COMMIT");
    o.in_doubt = 0;
    o.text = response;
    o.answer = o.intent == intent::releases ? answer::released : answer::executed;
}

} // namespace fault
