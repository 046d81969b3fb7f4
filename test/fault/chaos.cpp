#include "chaos.hpp"

#include <idem/errors.hpp>
#include <idem/transaction.hpp>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

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

bool is_alive(pid_t process) {
    char nothing = 0; // a zombie has no directory
    return ::readlink(("/proc/" + std::to_string(process) + "/cwd").c_str(), &nothing, 1) >= 0;
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
            if (!e.sqlstate().starts_with("08") && !e.sqlstate().starts_with("57P") && e.sqlstate() != "53100") throw;
            client_.disconnect();
            if (clock::now() >= until) throw no_server{std::string{"the server does not come back: "} + e.what()};
        }
    }
}

// ---- the faults ----

chaos::chaos(test::proxy& proxy, crew& consumers, std::string server, std::string disk, const std::string& application,
             std::uint64_t seed)
    : proxy_{proxy},
      consumers_{consumers},
      server_{std::move(server)},
      disk_{std::move(disk)},
      victims_{"backend_type = 'client backend' AND application_name LIKE '" + application + "%'"},
      random_{seed} {}

// One COMMIT in four is lost: before, after (or in mid-reply), or in silence before or after.
void chaos::lossy() {
    proxy_.at_commit([random = std::mt19937_64{random_()}](auto&) mutable {
        const auto dice = random();
        if (dice % 4 != 0) return test::pass();
        const auto after = (dice >> 32) % 2 == 0 ? test::place::after_commit : test::place::in_reply;
        switch (dice / 4 % 3) {
        case 0: return test::drop(test::place::before_commit);
        case 1: return test::drop(after);
        default: return test::silence((dice >> 33) % 2 == 0 ? test::place::before_commit : after);
        }
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
    for (const auto& [what, a_minute] : {std::pair{event::kill, 28},
                                         {event::stop, 3},
                                         {event::kill_postmaster, 3},
                                         {event::terminate, 6},
                                         {event::drop_all, 4},
                                         {event::silence_all, 3},
                                         {event::refuse, 2},
                                         {event::kill_consumer, 12},
                                         {event::fill_disk, disk_.empty() ? 0 : 2}})
        if (a_minute > 0)
            events.insert(events.end(), static_cast<std::size_t>(std::max<long>(1, a_minute * length.count() / 60)),
                          what);
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
    case event::stop: return crash(crash_kind::immediate);
    case event::kill_postmaster: return crash(crash_kind::kill_postmaster);
    case event::terminate: return terminate();
    case event::drop_all: return proxy_.drop_all();
    case event::silence_all: return proxy_.silence_all();
    case event::refuse:
        proxy_.refuse(true);
        std::this_thread::sleep_for(200ms);
        proxy_.refuse(false);
        ++done_.refusals;
        return;
    case event::kill_consumer:
        consumers_.kill_one(random_);
        ++done_.consumers;
        return;
    case event::fill_disk: return fill_disk();
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

void chaos::crash(crash_kind how) {
    if (how == crash_kind::immediate) {
        if (std::system(("'" IDEM_SERVER_SCRIPT "' crash " + server_).c_str()) != 0)
            throw no_server{"the server does not stop; see notices.txt and its log"};
        ++done_.stopped;
    } else {
        // the parent of our own session's process
        const auto session = control_.value("SELECT pg_backend_pid()");
        const pid_t server = parent_of(static_cast<pid_t>(std::stol(session)));
        if (server <= 1 || ::kill(server, SIGKILL) != 0) return;
        for (int i = 0; i < 1000 && is_alive(server); ++i) std::this_thread::sleep_for(10ms); // else it seems to run
        ++done_.postmasters;
    }
    start();
}

void chaos::start() {
    if (std::system(("'" IDEM_SERVER_SCRIPT "' start " + server_).c_str()) != 0)
        throw no_server{"the server does not start again; see notices.txt and its log"};
}

// Nothing more than half a megabyte, for a while: tables cannot grow. Every other time we see to it that WAL cannot
// either: the server panics, and may not even come back before there is room again.
void chaos::fill_disk() {
    control_.exec("SELECT 1");
    struct statvfs now {};
    if (::statvfs(disk_.c_str(), &now) != 0) throw no_server{"no disk " + disk_};
    const std::size_t block = now.f_frsize, all = now.f_blocks * block, used = (now.f_blocks - now.f_bfree) * block;
    try {
        resize_disk(used + 512 * 1024);
    } catch (const std::system_error&) { // it grew meanwhile
        return;
    }
    try {
        for (int i = 0; i < 40 && done_.full % 2 == 0; ++i) // there are spare segments
            control_.once("SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()");
    } catch (const idem::error&) { // as is meant to happen
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{500 + random_() % 1000});
    resize_disk(all);
    ++done_.full;
    // It comes back by itself, or it is gone.
    for (const auto until = clock::now() + 30s;; std::this_thread::sleep_for(100ms)) {
        start();
        try {
            control_.once("SELECT 1");
            return;
        } catch (const idem::error&) {
            if (clock::now() >= until) throw no_server{"the server does not come back from a full disk"};
        }
    }
}

void chaos::resize_disk(std::size_t bytes) const {
    const auto size = "size=" + std::to_string(bytes);
    if (::mount("tmpfs", disk_.c_str(), "tmpfs", MS_REMOUNT, size.c_str()) != 0)
        throw std::system_error{errno, std::generic_category(), "cannot resize " + disk_};
}

} // namespace fault
