#include "messages.hpp"

#include <idem/consumer.hpp>
#include <idem/errors.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <optional>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <thread>

#include <unistd.h>

namespace fault {

// "at" is in the order of a lane's transactions. The auditor takes note in the inbox, too, and nacks at random.
const char* const messages_schema = R"(
    CREATE TABLE applied (
        at       bigint GENERATED ALWAYS AS IDENTITY,
        consumer text NOT NULL,
        id       bigint NOT NULL,
        order_id bigint NOT NULL,
        account  int NOT NULL,
        n        bigint NOT NULL
    );
    CREATE TABLE history (at bigint GENERATED ALWAYS AS IDENTITY, saga text NOT NULL, state text NOT NULL);
    CREATE FUNCTION audit(seeded text) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE
        m record;
        held bigint;
        skip bigint[] := '{}';
        messages int := 0;
        careless boolean := seeded = 'lost' AND random() < 0.1;
    BEGIN
        FOR m IN SELECT * FROM idem_fetch('audit', 1 + floor(random() * 100)::int) LOOP
            held := m.batch;
            messages := messages + 1;
            CONTINUE WHEN m.id = ANY (skip) OR careless;
            IF random() < 0.002 THEN
                skip := skip || idem_nack('audit', m.batch, m.id, 'bad luck', random() * interval '50 ms');
            ELSIF NOT idem_consume('orders', m.id::text) THEN
                RAISE 'message % came twice', m.id;
            ELSE
                INSERT INTO applied (consumer, id, order_id, account, n)
                VALUES ('audit', m.id, (m.payload ->> 'order')::bigint, m.key::int, (m.payload ->> 'n')::bigint);
            END IF;
        END LOOP;
        IF held IS NOT NULL THEN PERFORM idem_ack('audit', held); END IF;
        RETURN messages;
    END $$;
    SELECT idem_subscribe('sales', '{orders}', lanes => 3);
    SELECT idem_subscribe('audit', '{orders}', lanes => 2);
    SELECT idem_subscribe('history', '{sagas}', lanes => 2);
    SELECT idem_subscribe('relay', '{orders}', lanes => 2, external => true))";

const char* const receiver_schema = R"(
    CREATE TABLE delivered (at bigint GENERATED ALWAYS AS IDENTITY, source text, lane int, seq bigint, message_id text, answer text);
    CREATE TABLE applied (at bigint GENERATED ALWAYS AS IDENTITY, order_id bigint, account int, n bigint);
    CREATE FUNCTION receive(messages jsonb) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE
        m record;
        answer text;
    BEGIN
        FOR m IN SELECT * FROM jsonb_to_recordset(messages) AS r (source text, lane int, seq bigint, message_id text, key int, payload jsonb)
                 ORDER BY seq LOOP
            answer := idem_consume_seq(m.source, m.lane, m.seq);
            INSERT INTO delivered (source, lane, seq, message_id, answer) VALUES (m.source, m.lane, m.seq, m.message_id, answer);
            IF answer = 'gap' THEN EXIT; END IF;
            IF answer = 'first' AND idem_consume('relay', m.message_id) THEN
                INSERT INTO applied (order_id, account, n) VALUES ((m.payload ->> 'order')::bigint, m.key, (m.payload ->> 'n')::bigint);
            END IF;
        END LOOP;
        RETURN 0;
    END $$)";

namespace {

using namespace std::chrono_literals;

std::atomic<bool> over{false};
std::atomic<idem::consumer*> working{nullptr};

constexpr auto patience = 500ms;
const std::string begin = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 600";

// What is left to do after an error, of the server's going away or of a lost connection: begin anew.
template <typename Work>
void over_and_over(Work work) {
    while (!over) {
        try {
            work();
        } catch (const idem::error&) {
            std::this_thread::sleep_for(20ms);
        }
    }
}

std::string as_array(std::span<const idem::message> batch, std::string (*text)(const idem::message&)) {
    std::string all;
    for (const auto& m : batch) all += (all.empty() ? "{\"" : ",\"") + text(m) + '"';
    return all + '}';
}
std::string payload(const idem::message& m) {
    std::string quoted;
    for (const char c : m.payload) quoted += c == '"' ? std::string{"\\\""} : std::string{c};
    return quoted;
}

void run(idem::client& on, const std::string& name, const auto& work) {
    idem::consumer c{on, name, work, {.batch = 50, .wait = 200ms, .response_timeout = patience, .idle_timeout = 600ms}};
    working = &c;
    if (!over) c.run();
    working = nullptr;
}

// A batch in one statement; one message in some hundreds fails at first.
void sell(idem::transaction& tx, std::span<const idem::message> batch) {
    for (const auto& m : batch)
        if (m.id % 701 == 0 && m.attempt == 1) throw std::runtime_error{"not today"};
    tx.exec("INSERT INTO applied (consumer, id, order_id, account, n) "
            "SELECT 'sales', id, (payload ->> 'order')::bigint, account, (payload ->> 'n')::bigint "
            "FROM unnest($1::bigint[], $2::int[], $3::jsonb[]) WITH ORDINALITY AS m (id, account, payload, place) "
            "ORDER BY place",
            {as_array(batch, [](const idem::message& m) { return std::to_string(m.id); }),
             as_array(batch, [](const idem::message& m) { return m.key.value(); }), as_array(batch, payload)});
}

void audit(idem::client& client, std::string_view seeded) {
    if (!client.connected()) client.reconnect(patience);
    idem::transaction tx{client.connection(), patience};
    try {
        tx.exec(begin);
        tx.exec("SET LOCAL synchronous_commit = off");
        const auto messages = std::string{tx.exec("SELECT audit($1)", {seeded}).text(0, 0)};
        tx.exec("COMMIT");
        if (messages == "0") std::this_thread::sleep_for(10ms);
    } catch (const idem::error&) {
        client.disconnect();
        throw;
    }
}

void relay(idem::client& from, idem::client& to, std::string_view seeded) {
    if (!from.connected()) from.reconnect(patience);
    if (!to.connected()) to.reconnect(patience);
    idem::transaction source{from.connection(), patience}, target{to.connection(), patience};
    try {
        source.exec(begin);
        const auto fetched = source.exec("SELECT max(batch), jsonb_agg(to_jsonb(f) ORDER BY seq) "
                                         "FROM idem_fetch('relay', 40, wait => '50 ms') AS f");
        if (!fetched.is_null(0, 0)) {
            target.exec(begin);
            if (seeded != "undelivered" || std::stol(std::string{fetched.text(0, 0)}) % 7 != 0)
                target.exec("SELECT receive($1)", {fetched.text(0, 1)});
            target.exec("COMMIT");
            source.exec("SELECT idem_ack('relay', $1)", {fetched.text(0, 0)});
        }
        source.exec("COMMIT");
    } catch (const idem::error&) {
        from.disconnect();
        to.disconnect();
        throw;
    }
}

idem::client connected(const std::string& conninfo) {
    for (;;) {
        try {
            return idem::client{conninfo};
        } catch (const idem::error&) {
            if (over) throw;
            std::this_thread::sleep_for(20ms);
        }
    }
}

} // namespace

int consume(std::string_view name, const std::string& conninfo, std::string_view seeded) {
    struct sigaction action {};
    action.sa_handler = [](int) {
        over = true;
        if (auto* const c = working.load()) c->stop();
    };
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
    // Who started us may be killed, too.
    const std::jthread watchdog{[parent = ::getppid()](const std::stop_token& done) {
        while (!done.stop_requested() && ::getppid() == parent) std::this_thread::sleep_for(100ms);
        if (!done.stop_requested()) ::_exit(1);
    }};
    auto client = connected(conninfo);
    if (name == "sales")
        over_and_over([&] { run(client, "sales", sell); });
    else if (name == "history")
        over_and_over([&] {
            run(client, "history", [](idem::transaction& tx, const idem::message& m) {
                tx.exec("INSERT INTO history (saga, state) VALUES ($1, $2)", {m.key, m.type});
            });
        });
    else if (name == "audit")
        over_and_over([&] { audit(client, seeded); });
    else if (name == "relay") {
        auto there = connected(conninfo + " dbname=there");
        over_and_over([&] { relay(client, there, seeded); });
    } else
        return 2;
    return 0;
}

} // namespace fault
