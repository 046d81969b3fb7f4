// Consumers, as one writes them with libpq alone; prints "figure = value" lines. Connects as libpq's environment says.
//   consumer_loop idem|pgq|idem_held MESSAGES   drains so many; "held": while another session holds an old snapshot
//   consumer_loop lanes WORKERS MESSAGES        drains so many, by several workers at a time
//   consumer_loop latency idem|notify|pgq CLIENTS MESSAGES   they publish 1,000/s together, one consumer waits for them
//   consumer_loop crowd idem|idem_polled|pgq PUBLISHERS CONSUMERS MESSAGES   each consumer gets all that they publish,
//                                               meanwhile; "polled": looks every 50 ms, as PgQ's do
//   consumer_loop idle                          one consumer waits for 10 s in vain
#include <libpq-fe.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using clock_type = std::chrono::steady_clock;
using result = std::unique_ptr<PGresult, decltype(&PQclear)>;

class connection {
public:
    connection() : link_{PQconnectdb(""), &PQfinish} {
        if (PQstatus(link_.get()) != CONNECTION_OK) throw std::runtime_error{PQerrorMessage(link_.get())};
    }
    void command(const char* sql) { checked(PQexec(link_.get(), sql)); }
    void prepare(const char* name, const char* sql) { checked(PQprepare(link_.get(), name, sql, 0, nullptr)); }
    result run(const char* name, const std::vector<const char*>& values = {}) {
        return checked(
            PQexecPrepared(link_.get(), name, static_cast<int>(values.size()), values.data(), nullptr, nullptr, 0));
    }
    // Until something comes that nobody asked for; forgets it.
    void wait_notified() {
        pollfd ready{.fd = PQsocket(link_.get()), .events = POLLIN, .revents = 0};
        if (poll(&ready, 1, 5000) == 0) throw std::runtime_error{"no notification came for 5 s"};
        if (PQconsumeInput(link_.get()) == 0) throw std::runtime_error{PQerrorMessage(link_.get())};
        forget_notifications();
    }
    void forget_notifications() {
        while (PGnotify* notification = PQnotifies(link_.get())) PQfreemem(notification);
    }
    [[nodiscard]] int pid() const { return PQbackendPID(link_.get()); }

private:
    result checked(PGresult* raw) {
        result owner{raw, &PQclear};
        if (PQresultStatus(raw) != PGRES_COMMAND_OK && PQresultStatus(raw) != PGRES_TUPLES_OK)
            throw std::runtime_error{PQerrorMessage(link_.get())};
        return owner;
    }

    std::unique_ptr<PGconn, decltype(&PQfinish)> link_;
};

double seconds_since(clock_type::time_point began) {
    return std::chrono::duration<double>(clock_type::now() - began).count();
}

// ---- drain: a batch is a transaction, of 1,000 messages; all ten columns of each, of either, come to the client ----

// Makes ready for idem_batch. The consumer is "one" unless it is named.
void prepare_idem(connection& session, const std::string& arguments, const std::string& columns = "*",
                  const std::string& consumer = "one") {
    session.prepare("fetch", ("SELECT " + columns + " FROM idem_fetch('" + consumer + "', " + arguments + ")").c_str());
    session.prepare("ack", ("SELECT idem_ack('" + consumer + "', $1)").c_str());
}

// Calls with_messages while the batch is held, and answers how many messages it had.
template <class Function>
int idem_batch(connection& session, Function with_messages) {
    session.command("BEGIN");
    const result messages = session.run("fetch");
    const int count = PQntuples(messages.get());
    with_messages(messages.get(), count);
    if (count > 0) session.run("ack", {PQgetvalue(messages.get(), 0, 0)});
    session.command("COMMIT");
    return count;
}

void prepare_pgq(connection& session, const std::string& consumer = "one") {
    session.prepare("next", ("SELECT pgq.next_batch('orders', '" + consumer + "')").c_str());
    session.prepare("events", "SELECT * FROM pgq.get_batch_events($1)");
    session.prepare("finish", "SELECT pgq.finish_batch($1)");
}

template <class Function>
int pgq_batch(connection& session, Function with_messages) {
    session.command("BEGIN");
    const result next = session.run("next");
    const bool found = !PQgetisnull(next.get(), 0, 0);
    int count = 0;
    if (found) {
        const char* batch = PQgetvalue(next.get(), 0, 0);
        const result events = session.run("events", {batch});
        count = PQntuples(events.get());
        with_messages(events.get(), count);
        session.run("finish", {batch});
    }
    session.command("COMMIT");
    return count;
}

void ignore(PGresult*, int) {}

void drain(const std::string& contestant, int messages) {
    connection other; // there in every run, so that the snapshot is the only difference
    connection session;
    const bool pgq = contestant == "pgq";
    if (pgq)
        prepare_pgq(session);
    else
        prepare_idem(session, "1000");
    other.command(contestant == "idem_held" ? "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1" : "SELECT 1");

    const auto began = clock_type::now();
    for (int drained = 0; drained < messages; drained += 1000)
        if ((pgq ? pgq_batch(session, ignore) : idem_batch(session, ignore)) != 1000)
            throw std::runtime_error{"after " + std::to_string(drained) + " messages came a batch of not 1,000"};
    std::printf("tps = %.1f\n", messages / seconds_since(began));
}

// Each worker goes on until no free lane has anything.
void drain_lanes(int workers, int messages) {
    std::vector<std::future<int>> drained(static_cast<std::size_t>(workers));
    const auto began = clock_type::now();
    for (auto& worker : drained)
        worker = std::async(std::launch::async, [] {
            connection session;
            prepare_idem(session, "1000");
            int sum = 0;
            while (const int count = idem_batch(session, ignore)) sum += count;
            return sum;
        });
    int sum = 0;
    for (auto& worker : drained) sum += worker.get();
    if (sum != messages) throw std::runtime_error{"came " + std::to_string(sum) + " messages"};
    std::printf("tps = %.1f\n", messages / seconds_since(began));
}

// ---- latency: from the publisher's reply to COMMIT until the consumer has the message ----

using times = std::map<long long, clock_type::time_point>; // by the message's number

constexpr const char* wait_arguments = "100, '5 s'";
constexpr const char* payload = R"('{"n": ' || $1 || ', "item": "white hanging heart"}')";

std::string publish_statement(const std::string& contestant) {
    const std::string json = payload;
    if (contestant == "idem") return "SELECT idem_publish('orders', (" + json + ")::jsonb, $1, 'created')";
    if (contestant == "pgq") return "SELECT pgq.insert_event('orders', 'created', " + json + ", $1, NULL, NULL, NULL)";
    return "WITH made AS (INSERT INTO plain_outbox (topic, key, type, payload) VALUES ('orders', $1, 'created', (" +
           json + ")::jsonb) RETURNING id) SELECT id, pg_notify('orders', '') FROM made";
}

// Every nth of the messages, each when it is due: not later because an earlier one was late.
times publish(const std::string& contestant, clock_type::time_point began, int first, int step, int messages) {
    connection session;
    session.prepare("publish", publish_statement(contestant).c_str());
    times committed;
    for (int n = first; n < messages; n += step) {
        std::this_thread::sleep_until(began + std::chrono::milliseconds{n});
        session.run("publish", {std::to_string(n).c_str()});
        committed.emplace(n, clock_type::now());
    }
    return committed;
}

constexpr int pgq_key = 6; // ev_extra1

// The message's number, of its key.
long long number(PGresult* batch, int row, int column) { return std::stoll(PQgetvalue(batch, row, column)); }

// Without idem or PgQ: woken by NOTIFY, take what is there and not somebody else's.
int notify_batch(connection& session, const std::function<void(PGresult*, int)>& with_messages) {
    session.forget_notifications();
    const result messages = session.run("take");
    with_messages(messages.get(), PQntuples(messages.get()));
    if (PQntuples(messages.get()) == 0) session.wait_notified();
    return PQntuples(messages.get());
}

times consume(connection& session, const std::string& contestant, int messages) {
    times delivered;
    const auto note = [&](int key_column) {
        return [&delivered, key_column](PGresult* batch, int rows) {
            const auto now = clock_type::now();
            for (int i = 0; i < rows; ++i) delivered.emplace(number(batch, i, key_column), now);
        };
    };
    while (static_cast<int>(delivered.size()) < messages) {
        if (contestant == "idem") {
            if (idem_batch(session, note(2)) == 0) throw std::runtime_error{"no message came for 5 s"};
        } else if (contestant == "notify") {
            notify_batch(session, note(1));
        } else if (pgq_batch(session, note(pgq_key)) == 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds{1}); // it has nothing to wait for
        }
    }
    return delivered;
}

void latency(const std::string& contestant, int clients, int messages) {
    connection session;
    if (contestant == "idem") {
        prepare_idem(session, wait_arguments, "batch, id, key");
    } else if (contestant == "notify") {
        session.command("LISTEN orders");
        session.prepare(
            "take", "DELETE FROM plain_outbox WHERE id = ANY (ARRAY(SELECT id FROM plain_outbox ORDER BY id LIMIT 100"
                    " FOR UPDATE SKIP LOCKED)) RETURNING id, key");
    } else {
        prepare_pgq(session);
    }
    const auto began = clock_type::now() + std::chrono::milliseconds{500};
    std::vector<std::future<times>> publishers(static_cast<std::size_t>(clients));
    int first = 0;
    for (auto& publisher : publishers)
        publisher = std::async(std::launch::async, publish, contestant, began, first++, clients, messages);
    const times delivered = consume(session, contestant, messages);

    std::vector<double> ms;
    auto last = began;
    for (auto& publisher : publishers)
        for (const auto& [n, at] : publisher.get()) {
            ms.push_back(std::chrono::duration<double, std::milli>(delivered.at(n) - at).count());
            last = std::max(last, at);
        }
    std::ranges::sort(ms);
    std::printf("per_second = %.1f\n", messages / std::chrono::duration<double>(last - began).count());
    std::printf("p50_ms = %.3f\np99_ms = %.3f\n", ms.at(ms.size() / 2), ms.at(ms.size() * 99 / 100));
}

// ---- crowd ----

void crowd(const std::string& contestant, int publishers, int consumers, int messages) {
    constexpr std::chrono::milliseconds poll_period{50}; // half of PgQ's tick
    const bool pgq = contestant == "pgq";
    const bool polled = contestant == "idem_polled";
    const int each = messages / publishers;
    std::vector<std::future<void>> all;
    std::barrier connected{publishers + consumers + 1};
    for (int i = 0; i < publishers; ++i)
        all.push_back(std::async(std::launch::async, [&] {
            connection session;
            session.prepare("publish", publish_statement(pgq ? "pgq" : "idem").c_str());
            connected.arrive_and_wait();
            for (int n = 0; n < each; ++n) session.run("publish", {std::to_string(n).c_str()});
        }));
    for (int i = 1; i <= consumers; ++i)
        all.push_back(std::async(std::launch::async, [&, name = "c" + std::to_string(i)] {
            connection session;
            if (pgq)
                prepare_pgq(session, name);
            else
                prepare_idem(session, polled ? "1000" : "1000, '5 s'", "*", name);
            connected.arrive_and_wait();
            for (int left = each * publishers; left > 0;) {
                const int count = pgq ? pgq_batch(session, ignore) : idem_batch(session, ignore);
                left -= count;
                if (pgq ? count == 0 : polled && count < 1000) std::this_thread::sleep_for(poll_period);
            }
        }));
    connected.arrive_and_wait();
    const auto began = clock_type::now();
    for (auto& one : all) one.get();
    std::printf("tps = %.1f\n", each * publishers / seconds_since(began));
}

// ---- idle: what waiting costs the server ----

double cpu_seconds(int pid) {
    std::ifstream file{"/proc/" + std::to_string(pid) + "/stat"};
    const std::string text{std::istreambuf_iterator<char>{file}, {}};
    std::istringstream fields{text.substr(text.rfind(')') + 1)}; // the command before it may have spaces
    std::string skipped;
    for (int i = 3; i < 14; ++i) fields >> skipped;
    double user = 0;
    double kernel = 0;
    if (!(fields >> user >> kernel)) throw std::runtime_error{"no /proc/PID/stat of the server process"};
    return (user + kernel) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void idle() {
    connection session;
    prepare_idem(session, wait_arguments);
    const double before = cpu_seconds(session.pid());
    const auto began = clock_type::now();
    for (int i = 0; i < 2; ++i)
        if (idem_batch(session, ignore) > 0) throw std::runtime_error{"a message came"};
    std::printf("idle_percent = %.2f\n", 100 * (cpu_seconds(session.pid()) - before) / seconds_since(began));
}

} // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string> args(argv + 1, argv + argc);
        const std::string what = args.empty() ? "" : args[0];
        if (args.size() == 2 && (what == "idem" || what == "pgq" || what == "idem_held"))
            drain(what, std::stoi(args[1]));
        else if (args.size() == 3 && what == "lanes")
            drain_lanes(std::stoi(args[1]), std::stoi(args[2]));
        else if (args.size() == 4 && what == "latency")
            latency(args[1], std::stoi(args[2]), std::stoi(args[3]));
        else if (args.size() == 5 && what == "crowd")
            crowd(args[1], std::stoi(args[2]), std::stoi(args[3]), std::stoi(args[4]));
        else if (args.size() == 1 && what == "idle")
            idle();
        else {
            std::fputs(
                "usage: consumer_loop idem|pgq|idem_held MESSAGES | lanes WORKERS MESSAGES | latency CONTESTANT CLIENTS"
                " MESSAGES | crowd CONTESTANT PUBLISHERS CONSUMERS MESSAGES | idle\n",
                stderr);
            return 2;
        }
    } catch (const std::exception& e) {
        std::fprintf(stderr, "consumer_loop: %s\n", e.what());
        return 1;
    }
}
