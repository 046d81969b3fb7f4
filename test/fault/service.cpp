#include "service.hpp"

#include <idem/execute.hpp>
#include <idem/lease.hpp>
#include <idem/publish.hpp>

#include <atomic>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace fault {

const char* const schema = R"(
    CREATE TABLE orders (
        id        bigint GENERATED ALWAYS AS IDENTITY,
        key       text NOT NULL,
        operation bigint NOT NULL, -- whose work it is
        amount    bigint NOT NULL,
        account   int NOT NULL,
        n         bigint NOT NULL, -- it is the account's nth
        at        timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE TABLE ledger (order_id bigint NOT NULL, account int NOT NULL, amount bigint NOT NULL);
    CREATE TABLE accounts (account int PRIMARY KEY, balance bigint NOT NULL, n bigint NOT NULL) WITH (fillfactor = 20);
    INSERT INTO accounts SELECT n, 0, 0 FROM generate_series(0, 63) AS n;
    CREATE TABLE steps (key text NOT NULL, token bigint NOT NULL); -- of a lease
    CREATE FUNCTION response(orders) RETURNS text LANGUAGE SQL STABLE AS
    $$SELECT jsonb_build_object('order', $1.id, 'key', $1.key, 'operation', $1.operation, 'amount', $1.amount)::text$$;
    CREATE FUNCTION book(of_key text, of_operation bigint, of_amount bigint, in_account int) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        its_n bigint;
        o orders;
    BEGIN
        UPDATE accounts SET balance = balance + of_amount, n = n + 1 WHERE account = in_account RETURNING n INTO its_n;
        INSERT INTO orders (key, operation, amount, account, n) VALUES (of_key, of_operation, of_amount, in_account, its_n)
        RETURNING * INTO o;
        INSERT INTO ledger VALUES (o.id, in_account, of_amount);
        PERFORM idem_publish('orders', jsonb_build_object('order', o.id, 'n', its_n), in_account::text);
        RETURN response(o);
    END $$;
    -- of a request it knows not whose it is: that is a setting, with what is to become of it
    CREATE FUNCTION handle(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
    DECLARE
        asked jsonb := current_setting('fault.operations')::jsonb -> (request ->> 'order');
        answer jsonb := book(request ->> 'order', (asked ->> 0)::bigint, (request ->> 'amount')::bigint,
                             current_setting('fault.account')::int);
    BEGIN
        IF asked ->> 1 = 'throws' THEN RAISE 'on purpose'; END IF;
        RETURN answer;
    END $$)";

namespace {

using namespace std::chrono_literals;

constexpr auto patience = 300ms, idle = 400ms; // with a server, and the server's with us
constexpr auto lease_length = 300ms;
constexpr std::string_view raised = "P0001"; // what RAISE raises

struct on_purpose {};

std::string book(idem::transaction& tx, const operation& o) {
    if (!o.flushed) tx.exec("SET LOCAL synchronous_commit = off");
    const auto amount = std::to_string(o.amount), account = std::to_string(o.number % 64);
    const auto n = tx.exec("UPDATE accounts SET balance = balance + $1, n = n + 1 WHERE account = $2 RETURNING n",
                           {amount, account});
    const auto row = tx.exec("INSERT INTO orders (key, operation, amount, account, n) VALUES ($1, $2, $3, $4, $5) "
                             "RETURNING id, response(orders)",
                             {o.key, std::to_string(o.number), amount, account, n.text(0, 0)});
    const std::string id{row.text(0, 0)};
    tx.exec("INSERT INTO ledger VALUES ($1, $2, $3)", {id, account, amount});
    idem::publish(tx, "orders", R"({"order": )" + id + R"(, "n": )" + std::string{n.text(0, 0)} + "}",
                  {.key = account});
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

std::size_t next_number() {
    static std::atomic<std::size_t> operations{0};
    return ++operations;
}

operation asked(const request& r, intent i, const manner& m) {
    return {.number = next_number(),
            .key = r.key,
            .amount = r.amount + (i == intent::changed),
            .intent = i,
            .ttl = r.ttl,
            .flushed = m.flushed,
            .asked_at = now()};
}

} // namespace

// What it was in the middle of is over.
void service::drop_if_busy() {
    if (client_.connected() && PQtransactionStatus(client_.connection()) != PQTRANS_IDLE) client_.disconnect();
}

operation service::ask(const request& r, intent i, const manner& m) {
    operation o = asked(r, i, m);
    try {
        if (m.door == door::execute) {
            history one{o};
            execute(one, m);
            return one.front();
        }
        if (m.door == door::lease)
            lease(o, m);
        else if (i == intent::releases || m.door == door::by_hand)
            by_hand(o, m);
        else
            through_run(o, m);
    } catch (const on_purpose&) {
        o.answer = answer::threw;
    } catch (const idem::error& e) {
        o.answer = e.sqlstate() == idem::sqlstate::lease_lost ? answer::in_progress : answer::error;
        o.text = std::string{e.sqlstate()} + ' ' + e.what();
        o.in_doubt += e.sqlstate() == idem::sqlstate::in_doubt;
    }
    drop_if_busy();
    o.answered_at = now();
    return o;
}

history service::ask_many(const std::vector<std::pair<request, intent>>& what, const manner& m) {
    history all;
    all.reserve(what.size());
    for (const auto& [r, i] : what) all.push_back(asked(r, i, m));
    execute(all, m);
    return all;
}

// One by idem_execute, more by idem_execute_many.
void service::execute(history& all, const manner& m) {
    const bool alone = all.size() == 1;
    std::string operations;
    std::vector<idem::execute_item> items;
    for (const operation& o : all) {
        operations += (operations.empty() ? "{" : ", ") + ('"' + o.key) + "\": [" + std::to_string(o.number) + ", \"" +
                      std::string{to_string(o.intent)} + "\"]";
        items.push_back({.key = o.key, .request = body(o)});
    }
    operations += '}';
    bool committing = false;
    try {
        if (!client_.connected()) client_.reconnect(patience);
        idem::transaction tx{client_.connection(), patience + m.wait + (alone ? 0ms : 1500ms)};
        tx.exec(begin(m));
        tx.exec("SELECT set_config('fault.operations', $1, true), set_config('fault.account', $2, true), "
                "set_config('synchronous_commit', $3, true), set_config('idem.key_ttl', $4, true), "
                "set_config('idem.claim_wait', $5, true)",
                {operations, std::to_string(all.front().number % 64), m.flushed ? "on" : "off",
                 std::to_string(lifetime(all.front()).count()) + "ms", std::to_string(m.wait.count()) + "ms"});
        std::vector<idem::execution> answers;
        if (alone)
            answers.push_back(idem::execute(tx, "handle(jsonb)", items.front().key, items.front().request));
        else
            answers = idem::execute_many(tx, "handle(jsonb)", items);
        committing = true;
        tx.exec("COMMIT");
        for (std::size_t i = 0; i < all.size(); ++i) {
            using idem::execute_status;
            operation& o = all[i];
            switch (answers.at(i).status()) {
            case execute_status::executed: o.answer = answer::executed, o.attempts = 1; break;
            case execute_status::completed: o.answer = answer::replayed; break;
            case execute_status::in_progress: o.answer = answer::in_progress; break;
            case execute_status::mismatch: o.answer = answer::mismatch; break;
            case execute_status::cancelled: o.answer = answer::cancelled; break;
            case execute_status::failed: o.answer = answer::error; break;
            }
            if (answers[i]) o.text = answers[i].response();
            if (const auto& why = answers[i].failure()) {
                o.text = std::string{why->sqlstate()} + ' ' + why->what();
                if (why->sqlstate() == raised && o.intent == intent::throws) o.answer = answer::threw;
            }
        }
    } catch (const idem::error& e) {
        for (operation& o : all) {
            o.answer = alone && e.sqlstate() == raised && o.intent == intent::throws ? answer::threw : answer::error;
            o.text = std::string{e.sqlstate()} + ' ' + e.what();
            o.in_doubt = committing;
        }
    }
    drop_if_busy();
    for (operation& o : all) o.answered_at = now();
}

// Takes its time; owners that do not return are taken over by the next. What it does before the last transaction is a
// step that must not be done twice.
void service::lease(operation& o, const manner& m) {
    if (!client_.connected()) client_.reconnect(patience);
    idem::transaction tx{client_.connection(), patience + m.wait};
    const auto held = idem::claim_lease(tx, o.key, body(o), lease_length, {.wait = m.wait, .ttl = lifetime(o)});
    if (held.status() == idem::claim_status::completed) {
        o.text = held.response();
        o.answer = answer::replayed;
    } else if (!held) {
        o.answer = without_response(held.status());
    }
    if (!held) return;

    ++o.attempts;
    if (o.intent == intent::releases) {
        if (!held.checkpoint()) { // else a step would be forgotten
            idem::release(tx, held);
            o.answer = answer::released;
            return;
        }
        o.intent = intent::throws;
    }
    if (o.number % 4 == 0) std::this_thread::sleep_for(lease_length * 5 / 4); // too late, if another has come
    if (!held.checkpoint()) {
        tx.exec(begin(m));
        tx.exec("INSERT INTO steps VALUES ($1, $2)", {o.key, std::to_string(held.token())});
        idem::checkpoint(tx, held, "half", std::to_string(o.number));
        tx.exec("COMMIT");
    }
    if (o.intent != intent::honest) throw on_purpose{}; // and never returns
    if (o.number % 7 == 0) std::this_thread::sleep_for(lease_length * 5 / 4);
    if (o.number % 2 == 0) idem::renew(tx, held, lease_length);
    tx.exec(begin(m));
    const auto response = idem::complete(tx, held, book(tx, o));
    o.in_doubt = 1;
    tx.exec("COMMIT");
    o.in_doubt = 0;
    o.text = response;
    o.answer = answer::executed;
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
