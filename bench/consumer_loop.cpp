// Consumers, as one writes them with libpq alone; prints "figure = value" lines. Connects as libpq's environment says.
//   consumer_loop idem|pgq|idem_held MESSAGES   drains so many; "held": while another session holds an old snapshot
//   consumer_loop lanes WORKERS MESSAGES        drains so many, by several workers at a time
//   consumer_loop latency CLIENTS MESSAGES      they publish 1,000/s together, one consumer waits for them
//   consumer_loop idle                          one consumer waits for 10 s in vain
#include <libpq-fe.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
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

// Makes ready for idem_batch.
void prepare_idem(connection& session, const char* fetch) {
    session.prepare("fetch", fetch);
    session.prepare("ack", "SELECT idem_ack('one', $1)");
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

void prepare_pgq(connection& session) {
    session.prepare("next", "SELECT pgq.next_batch('orders', 'one')");
    session.prepare("events", "SELECT * FROM pgq.get_batch_events($1)");
    session.prepare("finish", "SELECT pgq.finish_batch($1)");
}

int pgq_batch(connection& session) {
    session.command("BEGIN");
    const result next = session.run("next");
    const bool found = !PQgetisnull(next.get(), 0, 0);
    int count = 0;
    if (found) {
        const char* batch = PQgetvalue(next.get(), 0, 0);
        count = PQntuples(session.run("events", {batch}).get());
        session.run("finish", {batch});
    }
    session.command("COMMIT");
    return count;
}

void drain(const std::string& contestant, int messages) {
    connection other; // there in every run, so that the snapshot is the only difference
    connection session;
    const bool pgq = contestant == "pgq";
    if (pgq)
        prepare_pgq(session);
    else
        prepare_idem(session, "SELECT * FROM idem_fetch('one', 1000)");
    other.command(contestant == "idem_held" ? "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1" : "SELECT 1");

    const auto began = clock_type::now();
    for (int drained = 0; drained < messages; drained += 1000)
        if ((pgq ? pgq_batch(session) : idem_batch(session, [](PGresult*, int) {})) != 1000)
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
            prepare_idem(session, "SELECT * FROM idem_fetch('one', 1000)");
            int sum = 0;
            while (const int count = idem_batch(session, [](PGresult*, int) {})) sum += count;
            return sum;
        });
    int sum = 0;
    for (auto& worker : drained) sum += worker.get();
    if (sum != messages) throw std::runtime_error{"came " + std::to_string(sum) + " messages"};
    std::printf("tps = %.1f\n", messages / seconds_since(began));
}

// ---- latency: from the publisher's reply to COMMIT until the consumer has the message ----

constexpr const char* fetch_and_wait = "SELECT batch, id, payload FROM idem_fetch('one', 100, '5 s')";

using times = std::map<long long, clock_type::time_point>; // by message

// Every nth of the messages, each when it is due: not later because an earlier one was late.
times publish(clock_type::time_point began, int first, int step, int messages) {
    connection session;
    session.prepare("publish", R"(SELECT idem_publish('orders', '{"item": "white hanging heart"}', $1, 'created'))");
    times committed;
    for (int n = first; n < messages; n += step) {
        std::this_thread::sleep_until(began + std::chrono::milliseconds{n});
        const result id = session.run("publish", {std::to_string(n).c_str()});
        committed.emplace(std::stoll(PQgetvalue(id.get(), 0, 0)), clock_type::now());
    }
    return committed;
}

times consume(connection& session, int messages) {
    times delivered;
    while (static_cast<int>(delivered.size()) < messages) {
        const int count = idem_batch(session, [&](PGresult* batch, int rows) {
            const auto now = clock_type::now();
            for (int i = 0; i < rows; ++i) delivered.emplace(std::stoll(PQgetvalue(batch, i, 1)), now);
        });
        if (count == 0) throw std::runtime_error{"no message came for 5 s"};
    }
    return delivered;
}

void latency(int clients, int messages) {
    connection session;
    prepare_idem(session, fetch_and_wait);
    const auto began = clock_type::now() + std::chrono::milliseconds{500};
    std::vector<std::future<times>> publishers(static_cast<std::size_t>(clients));
    int first = 0;
    for (auto& publisher : publishers)
        publisher = std::async(std::launch::async, publish, began, first++, clients, messages);
    const times delivered = consume(session, messages);

    std::vector<double> ms;
    auto last = began;
    for (auto& publisher : publishers)
        for (const auto& [id, at] : publisher.get()) {
            ms.push_back(std::chrono::duration<double, std::milli>(delivered.at(id) - at).count());
            last = std::max(last, at);
        }
    std::ranges::sort(ms);
    std::printf("per_second = %.1f\n", messages / std::chrono::duration<double>(last - began).count());
    std::printf("p50_ms = %.3f\np99_ms = %.3f\n", ms.at(ms.size() / 2), ms.at(ms.size() * 99 / 100));
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
    prepare_idem(session, fetch_and_wait);
    const double before = cpu_seconds(session.pid());
    const auto began = clock_type::now();
    for (int i = 0; i < 2; ++i)
        if (idem_batch(session, [](PGresult*, int) {}) > 0) throw std::runtime_error{"a message came"};
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
        else if (args.size() == 3 && what == "latency")
            latency(std::stoi(args[1]), std::stoi(args[2]));
        else if (args.size() == 1 && what == "idle")
            idle();
        else {
            std::fputs("usage: consumer_loop idem|pgq|idem_held MESSAGES | lanes WORKERS MESSAGES"
                       " | latency CLIENTS MESSAGES | idle\n",
                       stderr);
            return 2;
        }
    } catch (const std::exception& e) {
        std::fprintf(stderr, "consumer_loop: %s\n", e.what());
        return 1;
    }
}
