// The fault run: orders by eight workers through idem::run, while the server is killed, stopped and started and
// connections are cut; then every order is asked for once more, and the checker decides.
#include "chaos.hpp"
#include "checker.hpp"
#include "service.hpp"
#include "workload.hpp"

#include <idem/errors.hpp>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include <unistd.h>

namespace fault {
namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr unsigned workers = 8;
constexpr auto application = "fault"; // the sessions that may be killed

struct settings {
    std::string server, output = ".";
    std::uint64_t seed = std::random_device{}() % 1'000'000;
    unsigned seconds = 60;
    fault::door door = door::run; // or one that must be found out
};

std::atomic<bool> interrupted{false};

// ---- the parts that run at once ----

struct shared {
    std::atomic<bool> stop{false};
    std::atomic<std::size_t> asked{0}, turns{0};
    std::mutex guard{}; // of the rest
    history all{};
    std::vector<std::string> findings{};
    std::exception_ptr failure{};

    void fail() {
        const std::lock_guard lock{guard};
        failure = std::current_exception();
        stop = true;
    }
    void add(history part) {
        const std::lock_guard lock{guard};
        all.insert(all.end(), std::make_move_iterator(part.begin()), std::make_move_iterator(part.end()));
    }
};

// How callers differ: in how long they wait, in how soon they give up (some hear nothing of a commit in doubt), in
// isolation, and in whether they care for the disk.
manner any_manner(std::mt19937_64& random, door usual) {
    const auto one_in = [&](unsigned n) { return random() % n == 0; };
    manner m;
    m.door = usual == door::run && one_in(7) ? door::by_hand : usual;
    m.wait = std::array{0ms, 20ms, 300ms}[random() % 3];
    if (one_in(3)) m.deadline = 0ms;
    if (one_in(4)) m.isolation = one_in(2) ? idem::isolation::repeatable_read : idem::isolation::serializable;
    m.flushed = !one_in(10);
    return m;
}

void work(shared& s, workload& load, service& shop, door usual, std::uint64_t seed) try {
    std::mt19937_64 random{seed};
    history mine;
    while (!s.stop) {
        const auto what = load.next();
        mine.push_back(shop.ask(load.at(what.request), what.intent, any_manner(random, usual)));
        ++s.asked;
        if (mine.back().acknowledged()) load.acknowledge(what.request);
    }
    s.add(std::move(mine));
} catch (...) {
    s.fail();
}

// Turns the ring: briefly living keys in the first two thirds; then it is told to remember all keys for longer.
void maintain(shared& s, clock::time_point longer_from) try {
    insistent session{std::string{application} + "-maintenance"};
    std::string current;
    for (auto round = 0; !s.stop; ++round) {
        std::this_thread::sleep_for(50ms);
        try {
            session.once(clock::now() < longer_from ? "SET idem.key_ttl = 3" : "SET idem.key_ttl = 3600");
            session.once("CALL idem_maintain()");
            const auto at = std::string{session.once("SELECT current FROM idem_ring WHERE store = 'keys'").text(0, 0)};
            s.turns += !current.empty() && at != current;
            current = at;
            if (round % 50 == 49) {
                const auto found = session.once("SELECT invariant, object, detail FROM idem_verify()");
                const std::lock_guard lock{s.guard};
                for (int row = 0; row < found.rows(); ++row)
                    s.findings.push_back("during the run: " + std::string{found.text(row, 0)} + ": " +
                                         std::string{found.text(row, 1)} + ", " + std::string{found.text(row, 2)});
            }
        } catch (const idem::error& e) {
            if (e.sqlstate().starts_with("08") || e.sqlstate().starts_with("57P")) continue;
            const std::lock_guard lock{s.guard};
            s.findings.push_back("maintenance: " + std::string{e.sqlstate()} + ' ' + e.what());
        }
    }
} catch (...) {
    s.fail();
}

// Everybody whom it concerns asks until he is answered, for two minutes at most.
void settle(shared& s, const workload& load, std::vector<service>& shops, door usual) {
    const auto open = load.remaining();
    const auto until = clock::now() + 2min;
    std::atomic<std::size_t> next{0};
    const auto insist = [&](service& shop) {
        try {
            history mine;
            for (std::size_t i = next++; i < open.size() && !interrupted; i = next++) {
                for (bool waits = true; waits && !interrupted;) {
                    mine.push_back(shop.ask(load.at(open[i]), intent::honest, {.door = usual, .wait = 1s}));
                    mine.back().last = true;
                    const auto said = mine.back().answer;
                    waits = (said == answer::in_progress || said == answer::error) && clock::now() < until;
                    if (waits) std::this_thread::sleep_for(10ms);
                }
            }
            s.add(std::move(mine));
        } catch (...) {
            s.fail();
        }
    };
    std::vector<std::jthread> threads;
    threads.reserve(shops.size());
    for (service& shop : shops) threads.emplace_back([&] { insist(shop); });
}

// ---- before and after ----

tables read_tables(insistent& db) {
    const auto number = [](std::string_view text) {
        std::int64_t n = 0;
        std::from_chars(text.data(), text.data() + text.size(), n);
        return n;
    };
    tables end;
    const auto effects =
        db.exec("SELECT o.id, o.key, o.operation, o.amount, (extract(epoch FROM o.at) * 1000000)::bigint, "
                "count(l), coalesce(sum(l.amount), 0), response(o) "
                "FROM orders AS o LEFT JOIN ledger AS l ON l.order_id = o.id "
                "GROUP BY o.id, o.key, o.operation, o.amount, o.at, o.*");
    for (int row = 0; row < effects.rows(); ++row) {
        const auto text = [&](int column) { return std::string{effects.text(row, column)}; };
        const auto n = [&](int column) { return number(effects.text(row, column)); };
        end.effects.push_back({n(0), text(1), static_cast<std::size_t>(n(2)), n(3), n(4), n(5), n(6), text(7)});
    }
    const auto keys = db.exec("SELECT key, response::text FROM idem_keys");
    for (int row = 0; row < keys.rows(); ++row)
        end.keys.push_back({std::string{keys.text(row, 0)}, std::string{keys.text(row, 1)}});
    end.read_at = number(db.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"));
    end.ledger = number(db.value("SELECT coalesce(sum(amount), 0) FROM ledger"));
    end.balance = number(db.value("SELECT sum(balance) FROM accounts"));
    const auto found = db.exec("SELECT invariant || ': ' || object || ', ' || detail FROM idem_verify()");
    for (int row = 0; row < found.rows(); ++row) end.findings.emplace_back(found.text(row, 0));
    return end;
}

void write_files(const std::string& directory, const history& all, const tables& end) {
    std::ofstream operations{directory + "/history.tsv"};
    write(operations, all);
    std::ofstream effects{directory + "/effects.tsv"};
    effects << "order\tkey\toperation\tamount\tat\tentries\tbooked\tresponse\n";
    for (const auto& e : end.effects)
        effects << e.order << '\t' << e.key << '\t' << e.operation << '\t' << e.amount << '\t' << e.at << '\t'
                << e.entries << '\t' << e.booked << '\t' << e.response << '\n';
    std::ofstream keys{directory + "/keys.tsv"};
    keys << "key\tresponse\n";
    for (const auto& k : end.keys) keys << k.key << '\t' << k.response << '\n';
}

// 1234567 as 1,234,567
std::string grouped(std::size_t n) {
    auto text = std::to_string(n);
    for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
    return text;
}

void print_progress(clock::duration elapsed, const settings& set, const shared& s, const chaos& faults,
                    const idem::test::proxy& proxy) {
    static const bool terminal = ::isatty(STDOUT_FILENO) != 0;
    constexpr std::size_t width = 30;
    const auto second = std::min<std::size_t>(
        set.seconds, static_cast<std::size_t>(std::chrono::duration_cast<std::chrono::seconds>(elapsed).count()));
    static std::size_t shown = 0;
    const auto now = terminal ? second : second * 4 / set.seconds;
    if (now == shown) return;
    shown = now;
    const auto filled = width * second / set.seconds;
    const std::string bar = terminal ? "\r[" + std::string(filled, '#') + std::string(width - filled, '.') + "] " : "";
    std::printf("%s%zu of %u s, %s operations, %zu crashes, %s connections lost%s", bar.c_str(), second, set.seconds,
                grouped(s.asked).c_str(), faults.done().killed + faults.done().stopped,
                grouped(proxy.totals().lost()).c_str(), terminal && second < set.seconds ? "" : "\n");
    std::fflush(stdout);
}

void print_table(const history& all, const tables& end, const shared& s, const fault_counts& done,
                 const idem::test::counts& wire, std::size_t violations) {
    const auto row = [](const char* what, std::size_t n) { std::printf("%-42s %10s\n", what, grouped(n).c_str()); };
    const auto count = [&](auto which) {
        return static_cast<std::size_t>(std::count_if(all.begin(), all.end(), which));
    };
    const auto answered = [&](const char* what, answer a) {
        row(what, count([a](const operation& o) { return o.answer == a; }));
    };
    std::map<std::string, std::size_t> errors;
    std::size_t doubts = 0, attempts = 0;
    for (const operation& o : all) {
        if (o.answer == answer::error) ++errors[o.text.substr(0, 5)];
        doubts += static_cast<std::size_t>(o.in_doubt);
        attempts += static_cast<std::size_t>(o.attempts);
    }

    std::puts("");
    row("operations", all.size());
    answered("  executed", answer::executed);
    answered("  replayed", answer::replayed);
    answered("  mismatches", answer::mismatch);
    answered("  in progress", answer::in_progress);
    answered("  threw, as meant to", answer::threw);
    answered("  released, as meant to", answer::released);
    for (const auto& [sqlstate, n] : errors) row(("  error " + sqlstate).c_str(), n);
    row("work begun", attempts);
    row("commits in doubt", doubts);
    row("backends killed by -9", done.killed);
    row("immediate stops", done.stopped);
    row("backends terminated", done.terminated);
    row("times that all connections were refused", done.refusals);
    static constexpr std::array names{"before COMMIT", "after COMMIT", "in its reply", "elsewhere", "all at once"};
    for (std::size_t p = 0; p < names.size(); ++p)
        row((std::string{"connections cut "} + names[p]).c_str(), wire.dropped[p]);
    for (std::size_t p = 0; p < names.size(); ++p)
        if (wire.silenced[p] != 0) row((std::string{"connections silenced "} + names[p]).c_str(), wire.silenced[p]);
    row("ring turns", s.turns);
    row("effects", end.effects.size());
    row("keys remembered", end.keys.size());
    row("violations", violations);
    std::puts("");
}

void print_rules(const std::vector<violation>& violations) {
    for (std::size_t r = 0; r < rules; ++r) {
        const auto broken = [r](const violation& v) { return static_cast<std::size_t>(v.broken) == r; };
        const auto n = std::count_if(violations.begin(), violations.end(), broken);
        const std::string text{to_string(static_cast<rule>(r))};
        std::printf("%s %zu - %s\n", n == 0 ? "ok" : "not ok", r + 1, text.c_str());
        auto shown = 0;
        for (const violation& v : violations)
            if (broken(v) && shown++ < 5) std::printf("#   %s: %s\n", v.key.c_str(), v.what.c_str());
        if (n > 5) std::printf("#   … %ld in all\n", static_cast<long>(n));
    }
}

int run(const settings& set) {
    const auto env = [](const char* name, const char* otherwise) {
        const char* const value = std::getenv(name);
        return std::string{value != nullptr && *value != '\0' ? value : otherwise};
    };
    std::printf("%u s of faults, %u workers, seed %llu\n", set.seconds, workers,
                static_cast<unsigned long long>(set.seed));
    std::fflush(stdout);

    insistent db{"reader"};
    db.exec("CREATE EXTENSION idem");
    // A shorter idem.key_ttl counts from the next turn on, which would be in twelve hours.
    db.exec("UPDATE idem_ring SET ttl = '{3,0,0}' WHERE store = 'keys'");
    db.exec(schema);

    idem::test::proxy proxy{
        {.host = env("PGHOST", "/var/run/postgresql"), .port = env("PGPORT", "5432"), .seed = set.seed}};
    const auto conninfo =
        "host=127.0.0.1 hostaddr=127.0.0.1 sslmode=disable gssencmode=disable port=" + std::to_string(proxy.port()) +
        " application_name=" + application + " options='-c client_min_messages=error'";
    workload load{set.seed};
    chaos faults{proxy, set.server, application, set.seed};
    std::vector<service> shops;
    for (unsigned i = 0; i < workers; ++i) shops.emplace_back(conninfo);
    shared s;
    {
        const auto begin = clock::now();
        const std::chrono::seconds length{set.seconds};
        std::vector<std::jthread> threads;
        for (unsigned i = 0; i < workers; ++i)
            threads.emplace_back([&, i] { work(s, load, shops[i], set.door, set.seed * workers + i); });
        threads.emplace_back([&] { maintain(s, begin + length * 2 / 3); });
        threads.emplace_back([&] {
            try {
                faults.run(length, s.stop);
                s.stop = true;
            } catch (...) {
                s.fail();
            }
        });
        while (!s.stop) {
            std::this_thread::sleep_for(100ms);
            if (interrupted) s.stop = true;
            print_progress(clock::now() - begin, set, s, faults, proxy);
        }
    }
    if (!interrupted && !s.failure) {
        faults.crash(); // what was acknowledged up to the last moment must have reached the disk
        settle(s, load, shops, set.door);
    }
    if (interrupted) { // whatever failed for it, as when Ctrl-C ends a server that is about to start
        std::puts("\nstopped");
        return 130;
    }
    if (s.failure) std::rethrow_exception(s.failure);

    auto end = read_tables(db);
    end.findings.insert(end.findings.end(), s.findings.begin(), s.findings.end());
    write_files(set.output, s.all, end);
    const auto violations = check(s.all, end);
    print_table(s.all, end, s, faults.done(), proxy.totals(), violations.size());
    print_rules(violations);
    std::printf("\n%sexactly once: %s operations, %s effects, %s violations, seed %llu\n",
                violations.empty() ? "" : "NOT ", grouped(s.all.size()).c_str(), grouped(end.effects.size()).c_str(),
                grouped(violations.size()).c_str(), static_cast<unsigned long long>(set.seed));
    return violations.empty() ? 0 : 1;
}

bool parse(int argc, char** argv, settings& set) {
    const auto number = [](std::string_view text, auto& n) {
        return std::from_chars(text.data(), text.data() + text.size(), n).ptr == text.data() + text.size() &&
               !text.empty();
    };
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string_view option = argv[i], value = argv[i + 1];
        if (option == "--server" && !value.empty())
            set.server = value;
        else if (option == "--output")
            set.output = value;
        else if (option == "--break" && value == "outside")
            set.door = door::outside;
        else if (!(option == "--seconds" && number(value, set.seconds) && set.seconds > 0) &&
                 !(option == "--seed" && number(value, set.seed)))
            return false;
    }
    return argc % 2 == 1 && !set.server.empty();
}

} // namespace
} // namespace fault

int main(int argc, char** argv) try {
    fault::settings set;
    if (!fault::parse(argc, argv, set)) {
        std::cerr << "usage: fault --server NAME [--seconds N] [--seed N] [--output DIRECTORY] [--break outside]\n"
                     "NAME is a private server of scripts/server's, whose environment is set\n";
        return 2;
    }
    struct sigaction action {};
    action.sa_handler = [](int) { fault::interrupted = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND); // a second one kills
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    // libpq writes to standard error what dying servers say to idle connections.
    std::filesystem::create_directories(set.output);
    const auto notices = set.output + "/notices.txt";
    if (std::freopen(notices.c_str(), "w", stderr) == nullptr) return 1;
    return fault::run(set);
} catch (const std::exception& e) {
    std::cout << "not ok 1 - the fault run ends: " << e.what() << '\n';
    return 1;
}
