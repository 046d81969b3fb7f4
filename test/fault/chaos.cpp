#include "chaos.hpp"

#include <idem/errors.hpp>
#include <idem/transaction.hpp>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

namespace fault {

namespace test = idem::test;
using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

namespace {

// The parent of a process, 0 if there is no such process.
pid_t parent_of(pid_t process) {
    std::ifstream file{"/proc/" + std::to_string(process) + "/status"};
    for (std::string line; std::getline(file, line);)
        if (line.starts_with("PPid:")) return static_cast<pid_t>(std::stol(line.substr(5)));
    return 0;
}

} // namespace

// ---- the connection ----

idem::result insistent::once(const std::string& sql) {
    if (!client_.connected()) client_.reconnect(1s);
    return idem::transaction{client_.connection(), 60s}.exec(sql);
}

idem::result insistent::exec(const std::string& sql) {
    const auto until = clock::now() + 60s;
    for (;; std::this_thread::sleep_for(20ms)) {
        try {
            return once(sql);
        } catch (const idem::error& e) {
            if (!e.sqlstate().starts_with("08") && !e.sqlstate().starts_with("57P")) throw;
            client_.disconnect();
            if (clock::now() >= until) throw no_server{std::string{"the server does not come back: "} + e.what()};
        }
    }
}

// ---- the faults ----

chaos::chaos(test::proxy& proxy, std::string server, const std::string& application, std::uint64_t seed)
    : proxy_{proxy},
      server_{std::move(server)},
      victims_{"backend_type = 'client backend' AND application_name LIKE '" + application + "%'"},
      random_{seed} {}

// One COMMIT in 25 is lost, before, after, or in mid-reply; of these, one in 12 in silence.
void chaos::lossy() {
    proxy_.at_commit([random = std::mt19937_64{random_()}](auto&) mutable {
        const auto dice = random();
        const auto where = static_cast<test::place>((dice >> 32) % 3);
        if (dice % 25 != 0) return test::pass();
        return dice / 25 % 12 != 0 ? test::drop(where) : test::silence(where);
    });
    proxy_.drop_probability(1.0 / 500);
}

void chaos::calm() {
    proxy_.at_commit({});
    proxy_.drop_probability(0);
    proxy_.half_open(false);
    proxy_.let_go();
}

void chaos::run(std::chrono::seconds length, const std::atomic<bool>& stop) {
    // So many a minute, in any order.
    std::vector<event> events;
    for (const auto& [what, a_minute] : {std::pair{event::kill, 15},
                                         {event::crash, 8},
                                         {event::terminate, 8},
                                         {event::drop_all, 6},
                                         {event::silence_all, 4},
                                         {event::refuse, 4}})
        events.insert(events.end(), static_cast<std::size_t>(std::max<long>(1, a_minute * length.count() / 60)), what);
    std::shuffle(events.begin(), events.end(), random_);

    lossy();
    const auto begin = clock::now();
    const std::chrono::duration<double> share{static_cast<double>(length.count()) / static_cast<double>(events.size())};
    std::uniform_real_distribution<double> within{0, 1};
    for (std::size_t i = 0; i < events.size() && !stop; ++i) {
        // Between two events some work gets done, however long the server took to come back.
        const auto due =
            begin + std::chrono::duration_cast<clock::duration>(share * (static_cast<double>(i) + within(random_)));
        std::this_thread::sleep_until(std::max(due, clock::now() + 200ms));
        if (stop) break;
        cause(events[i]);
        // Half of the time, what went silent stays open towards the server, with its locks.
        proxy_.let_go();
        proxy_.half_open(random_() % 2 != 0);
    }
    if (!stop) std::this_thread::sleep_until(begin + length);
    calm();
}

void chaos::cause(event what) {
    switch (what) {
    case event::kill: return kill();
    case event::crash: return crash();
    case event::terminate: return terminate();
    case event::drop_all: return proxy_.drop_all();
    case event::silence_all: return proxy_.silence_all();
    case event::refuse:
        proxy_.refuse(true);
        std::this_thread::sleep_for(200ms);
        proxy_.refuse(false);
        ++done_.refusals;
    }
}

// Only a child of the very server that we are connected to.
void chaos::kill() {
    std::istringstream found{
        control_.value("SELECT format('%s %s', pid, split_part(pg_read_file('postmaster.pid'), E'\\n', 1)) "
                       "FROM pg_stat_activity WHERE " +
                       victims_ + " ORDER BY state = 'idle', random() LIMIT 1")};
    pid_t victim = 0, server = 0;
    if (!(found >> victim >> server) || victim <= 1 || parent_of(victim) != server) return;
    if (::kill(victim, SIGKILL) == 0) ++done_.killed;
    control_.exec("SELECT 1");
}

void chaos::terminate() {
    const auto gone = control_.value(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE random() < 0.5 AND " + victims_);
    done_.terminated += std::stoul(gone);
}

void chaos::crash() {
    const std::string script = "'" IDEM_SERVER_SCRIPT "' ";
    if (std::system((script + "crash " + server_).c_str()) != 0)
        throw no_server{"the server does not stop; see notices.txt and its log"};
    ++done_.stopped;
    if (std::system((script + "start " + server_).c_str()) != 0)
        throw no_server{"the server does not start again; see notices.txt and its log"};
}

} // namespace fault
