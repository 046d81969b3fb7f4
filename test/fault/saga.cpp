#include "saga.hpp"

#include <idem/compensate.hpp>
#include <idem/run.hpp>

#include <array>
#include <chrono>

namespace fault {

const char* const saga_schema = R"(
    CREATE TABLE sagas (id text PRIMARY KEY, state text NOT NULL, amount bigint NOT NULL);
    CREATE TABLE captures (saga text NOT NULL, amount bigint NOT NULL); -- money taken, and given back
    SELECT idem_guard_topic('sagas', 'order');
    SELECT idem_attach('sagas', 'state', 'order', topic => 'sagas');
    CREATE FUNCTION undo(saga jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    BEGIN
        UPDATE sagas SET state = 'cancelled' WHERE id = saga ->> 'saga';
        INSERT INTO captures VALUES (saga ->> 'saga', -(saga ->> 'amount')::bigint);
        RETURN saga;
    END $$;
    CREATE TABLE told (saga text NOT NULL, call text NOT NULL, answer text NOT NULL, response text NOT NULL))";

namespace {

using namespace std::chrono_literals;
constexpr auto patience = 300ms;
const std::string scope = "sagas";

// What the database may say to a call that it does not carry out.
bool is_an_answer(std::string_view sqlstate) {
    return sqlstate == idem::sqlstate::transition_refused || sqlstate == idem::sqlstate::not_completed ||
           sqlstate == idem::sqlstate::key_cancelled;
}

} // namespace

void saga_client::call(std::size_t opened) {
    static constexpr std::array<const char*, 12> calls{"place", "place", "place",  "cancel",   "cancel",   "confirm",
                                                       "pay",   "pay",   "finish", "backward", "abridged", "place"};
    const auto n = opened > 40 ? opened - random_() % 40 : random_() % 40;
    const auto saga = "saga-" + std::to_string(n);
    const std::string call = calls[random_() % calls.size()];
    told t{saga, call, {}, {}};
    try {
        t = call == "place" ? place(saga) : in_transaction(saga, call);
    } catch (const idem::error& e) {
        t.answer = e.sqlstate();
        if (!is_an_answer(e.sqlstate())) t.response = e.what();
    }
    if (client_.connected() && PQtransactionStatus(client_.connection()) != PQTRANS_IDLE) client_.disconnect();
    told_.push_back(std::move(t));
}

told saga_client::place(const std::string& saga) {
    const auto amount = std::to_string(100 + saga.size() + std::hash<std::string>{}(saga) % 1000);
    const auto args = R"({"saga": ")" + saga + R"(", "amount": )" + amount + "}";
    const bool has_deadline = std::hash<std::string>{}(saga) % 3 == 0;
    const auto outcome =
        idem::run(client_, saga, args,
                  [&](idem::transaction& tx) {
                      tx.exec("INSERT INTO sagas VALUES ($1, 'created', $2)", {saga, amount});
                      idem::compensate_with(
                          tx, saga, "undo(jsonb)", args,
                          {.scope = scope,
                           .deadline = has_deadline ? std::optional{std::chrono::milliseconds{2000}} : std::nullopt});
                      tx.exec("INSERT INTO captures VALUES ($1, $2)", {saga, amount});
                      return args;
                  },
                  {.scope = scope,
                   .wait = 50ms,
                   .ttl = 24h,
                   .deadline = 2s,
                   .response_timeout = patience,
                   .idle_timeout = 400ms});
    return {saga, "place", std::string{to_string(outcome.status())}, outcome ? outcome.response() : ""};
}

told saga_client::in_transaction(const std::string& saga, const std::string& call) {
    if (!client_.connected()) client_.reconnect(patience);
    idem::transaction tx{client_.connection(), patience};
    tx.exec("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 400");
    told t{saga, call, "done", {}};
    if (call == "cancel") {
        const auto c = idem::cancel(tx, saga, {.scope = scope, .wait = 20ms});
        t.answer = to_string(c.status());
        if (c.status() <= idem::cancel_status::refused) t.response = c.response();
    } else if (call == "confirm") {
        idem::confirm(tx, saga, scope);
    } else {
        const char* const sql =
            call == "pay"      ? "UPDATE sagas SET state = 'paid' WHERE id = $1 RETURNING id"
            : call == "finish" ? "UPDATE sagas SET state = 'completed' WHERE id = $1 RETURNING id"
            : call == "backward"
                ? "UPDATE sagas SET state = 'created' WHERE id = $1 AND state <> 'created' RETURNING id"
                : "INSERT INTO sagas VALUES ('not-' || $1, 'completed', 0) RETURNING id";
        if (tx.exec(sql, {saga}).rows() == 0) t.answer = "absent";
    }
    tx.exec("COMMIT");
    return t;
}

} // namespace fault
