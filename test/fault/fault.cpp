// The fault run: orders through every door, sagas, consumers and a relay, while the server is killed, stopped and
// started, its disk is full, connections are cut and processes die; then every order is asked for once more, what is in
// line is worked off, and the checkers decide.
#include "chaos.hpp"
#include "checker.hpp"
#include "crew.hpp"
#include "invariants.hpp"
#include "messages.hpp"
#include "saga.hpp"
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
#include <iterator>
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

constexpr unsigned workers = 14, bulk_workers = 1, saga_workers = 4;
constexpr std::size_t bulk = 100;     // orders a call
constexpr auto application = "fault"; // the sessions that may be killed

struct settings {
    std::string server, output = ".";
    std::string disk, log, seeded; // its own file system; the server's log; a bug of the consumers'
    std::uint64_t seed = std::random_device{}() % 1'000'000;
    unsigned seconds = 60;
    fault::door door = door::run; // or one that must be found out
};

std::atomic<bool> interrupted{false};

// ---- the parts that run at once ----

struct shared {
    std::atomic<bool> stop{false};
    std::atomic<std::size_t> asked{0}, turns{0}, sagas{0};
    std::mutex guard{}; // of the rest
    history all{};
    std::vector<told> all_told{};
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
    m.door = usual != door::run ? usual : one_in(5) ? door::by_hand : one_in(4) ? door::execute : usual;
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
        const auto request = load.at(what.request);
        auto m = any_manner(random, usual);
        if (request.kind == kind::leased && what.intent != intent::changed) m.door = door::lease;
        mine.push_back(shop.ask(
            request, m.door == door::execute && what.intent == intent::releases ? intent::throws : what.intent, m));
        ++s.asked;
        if (mine.back().acknowledged()) load.acknowledge(what.request);
    }
    s.add(std::move(mine));
} catch (...) {
    s.fail();
}

void work_in_bulk(shared& s, workload& load, service& shop, std::uint64_t seed) try {
    std::mt19937_64 random{seed};
    history mine;
    while (!s.stop) {
        const auto what = load.next_many(bulk);
        std::vector<std::pair<request, intent>> requests;
        requests.reserve(what.size());
        for (const auto& d : what) requests.emplace_back(load.at(d.request), d.intent);
        auto answers = shop.ask_many(requests, any_manner(random, door::execute));
        for (std::size_t i = 0; i < what.size(); ++i)
            if (answers[i].acknowledged()) load.acknowledge(what[i].request);
        s.asked += answers.size();
        std::this_thread::sleep_for(answers.front().answer == answer::error ? 100ms : 20ms); // for others
        std::move(answers.begin(), answers.end(), std::back_inserter(mine));
    }
    s.add(std::move(mine));
} catch (...) {
    s.fail();
}

void order_and_cancel(shared& s, const std::string& conninfo, std::uint64_t seed) try {
    saga_client client{conninfo, seed};
    while (!s.stop) {
        client.call(++s.sagas / 10);
        ++s.asked;
    }
    const std::lock_guard lock{s.guard};
    s.all_told.insert(s.all_told.end(), client.all().begin(), client.all().end());
} catch (...) {
    s.fail();
}

// What was committed asynchronously and then replayed is safe, though nobody else writes who would flush it along.
void replay_and_crash(shared& s, workload& load, std::vector<service>& shops, chaos& faults) {
    history mine;
    for (int times = 0; times < 3;) {
        const auto what = load.next();
        const auto request = load.at(what.request);
        if (request.kind != kind::ordinary || what.intent != intent::honest) continue;
        ++times;
        mine.push_back(shops[0].ask(request, intent::honest, {.flushed = false}));
        mine.push_back(shops[1].ask(request, intent::honest, {}));
        if (mine.back().acknowledged()) load.acknowledge(what.request);
        faults.crash(crash_kind::immediate);
    }
    s.add(std::move(mine));
}

// Turns the ring: briefly living keys in the first two thirds; then it is told to remember all keys for longer.
void maintain(shared& s, clock::time_point longer_from) try {
    insistent session{std::string{application} + "-maintenance"};
    std::string current;
    auto verified = clock::now();
    auto verifying = clock::duration::zero();
    while (!s.stop) {
        std::this_thread::sleep_for(50ms);
        try {
            session.once(clock::now() < longer_from ? "SET idem.key_ttl = 3" : "SET idem.key_ttl = 3600");
            session.once("CALL idem_maintain()");
            const auto at = std::string{session.once("SELECT current FROM idem_ring WHERE store = 'keys'").text(0, 0)};
            s.turns += !current.empty() && at != current;
            current = at;
            if (clock::now() - verified > std::max<clock::duration>(2s, 30 * verifying)) {
                verified = clock::now();
                const auto found = session.once("SELECT invariant, object, detail FROM idem_verify()");
                const std::lock_guard lock{s.guard};
                for (int row = 0; row < found.rows(); ++row)
                    s.findings.push_back("during the run: " + std::string{found.text(row, 0)} + ": " +
                                         std::string{found.text(row, 1)} + ", " + std::string{found.text(row, 2)});
                verifying = clock::now() - verified;
            }
        } catch (const idem::error& e) {
            if (e.sqlstate().starts_with("08") || e.sqlstate().starts_with("57P") || e.sqlstate() == "53100") continue;
            const std::lock_guard lock{s.guard};
            s.findings.push_back("maintenance: " + std::string{e.sqlstate()} + ' ' + e.what());
        }
    }
} catch (...) {
    s.fail();
}

// Everybody whom it concerns asks until he is answered, for two minutes at most; bulk orders first, by the hundred.
void settle(shared& s, const workload& load, std::vector<service>& shops, door usual) {
    std::vector<std::size_t> open;
    std::vector<std::vector<std::pair<request, intent>>> hundreds;
    for (const std::size_t i : load.remaining()) {
        const auto request = load.at(i);
        if (request.kind != kind::bulk) {
            open.push_back(i);
            continue;
        }
        if (hundreds.empty() || hundreds.back().size() == bulk) hundreds.emplace_back();
        hundreds.back().emplace_back(request, intent::honest);
    }
    const auto until = clock::now() + 2min;
    std::atomic<std::size_t> next{0}, next_hundred{0};
    const auto insist = [&](service& shop) {
        try {
            history mine;
            for (std::size_t i = next_hundred++; i < hundreds.size() && !interrupted; i = next_hundred++) {
                for (bool waits = true; waits && !interrupted;) {
                    auto answers = shop.ask_many(hundreds[i], {.wait = 1s});
                    waits = false;
                    for (operation& o : answers) {
                        o.last = true;
                        waits = waits || ((o.answer == answer::in_progress || o.answer == answer::error) &&
                                          clock::now() < until);
                    }
                    std::move(answers.begin(), answers.end(), std::back_inserter(mine));
                }
            }
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

// What is in line is worked off, and what is past its deadline is cancelled; two minutes at most.
void work_off(insistent& db) {
    for (const auto until = clock::now() + 2min; clock::now() < until && !interrupted;) {
        db.exec("CALL idem_maintain()");
        if (db.value("SELECT (SELECT sum(depth) + sum(parked) = 0 FROM idem_consumers) AND NOT EXISTS (SELECT FROM "
                     "idem_compensations WHERE deadline IS NOT NULL AND state IN ('held', 'overdue', 'leased'))") ==
            "t")
            return;
        std::this_thread::sleep_for(100ms);
    }
}

// ---- before and after ----

// What callers of sagas were told, where the checks find it.
void write_told(insistent& db, const std::vector<told>& all) {
    for (std::size_t i = 0; i < all.size();) {
        std::string rows;
        for (const auto end = std::min(all.size(), i + 1000); i < end; ++i) {
            const told& t = all[i];
            rows += (rows.empty() ? "" : ", ");
            char separator = '(';
            for (const std::string* text : {&t.saga, &t.call, &t.answer, &t.response}) {
                rows += separator;
                rows += '\'';
                for (const char c : *text) rows += c == '\'' ? "''" : std::string{c};
                rows += '\'';
                separator = ',';
            }
            rows += ')';
        }
        db.exec("INSERT INTO told VALUES " + rows);
    }
}

// How often the server's log says so.
std::size_t logged(const std::string& file, std::string_view what) {
    std::ifstream log{file};
    std::size_t n = 0;
    for (std::string line; std::getline(log, line);) n += line.find(what) != std::string::npos;
    return n;
}

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
    const auto keys = db.exec("SELECT key, response::text FROM idem_keys WHERE scope = ''");
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
                grouped(s.asked).c_str(), faults.done().killed + faults.done().stopped + faults.done().postmasters,
                grouped(proxy.totals().lost()).c_str(), terminal && second < set.seconds ? "" : "\n");
    std::fflush(stdout);
}

// To standard output, and for whoever adds up runs to totals.tsv. Returns how many operations were checked.
std::size_t print_table(const settings& set, const history& all, const tables& end, const shared& s,
                        const fault_counts& done, const idem::test::counts& wire, std::size_t applied,
                        std::size_t violations) {
    std::ofstream totals{set.output + "/totals.tsv"};
    const auto row = [&totals](const std::string& what, std::size_t n) {
        std::printf("%-42s %10s\n", what.c_str(), grouped(n).c_str());
        totals << what << '\t' << n << '\n';
    };
    const auto answered = [&](const char* what, answer a) {
        row(what, static_cast<std::size_t>(
                      std::count_if(all.begin(), all.end(), [a](const operation& o) { return o.answer == a; })));
    };
    std::map<std::string, std::size_t> errors, calls;
    std::size_t doubts = 0, attempts = 0;
    for (const operation& o : all) {
        if (o.answer == answer::error) ++errors[o.text.substr(0, 5)];
        doubts += static_cast<std::size_t>(o.in_doubt);
        attempts += static_cast<std::size_t>(o.attempts);
    }
    std::size_t unheard = errors["08001"]; // no connection: nothing was asked
    for (const told& t : s.all_told) {
        ++calls[t.call + ": " + t.answer];
        unheard += t.answer == "08001";
    }

    std::puts("");
    row("operations checked", all.size() + s.all_told.size() + applied - unheard);
    row("requests", all.size());
    answered("  executed", answer::executed);
    answered("  replayed", answer::replayed);
    answered("  mismatches", answer::mismatch);
    answered("  in progress", answer::in_progress);
    answered("  threw, as meant to", answer::threw);
    answered("  released, as meant to", answer::released);
    for (const auto& [sqlstate, n] : errors) row("  error " + sqlstate, n);
    row("work begun", attempts);
    row("requests whose commit was in doubt", doubts);
    row("calls on sagas", s.all_told.size());
    for (const auto& [what, n] : calls) row("  " + what, n);
    row("messages applied", applied);
    row("backends killed by -9", done.killed);
    row("servers stopped as by a crash", done.stopped);
    row("servers killed by -9", done.postmasters);
    row("times that the disk was full", done.full);
    row("  errors of it (53100)", logged(set.log, " 53100 ERROR:"));
    row("  panics of it", logged(set.log, "PANIC:"));
    row("recoveries from a crash", logged(set.log, "database system was not properly shut down"));
    row("backends terminated", done.terminated);
    row("consumers killed by -9", done.consumers);
    row("times that all connections were refused", done.refusals);
    using idem::test::place;
    const auto silenced = [&](place p) { return wire.silenced_at(p); };
    row("in doubt: cut before COMMIT", wire.dropped_at(place::before_commit));
    row("in doubt: cut after COMMIT", wire.dropped_at(place::after_commit) + wire.dropped_at(place::in_reply));
    row("in doubt: silenced at COMMIT",
        silenced(place::before_commit) + silenced(place::after_commit) + silenced(place::in_reply));
    row("connections cut elsewhere", wire.dropped_at(place::at_random) + wire.dropped_at(place::on_demand));
    row("connections silenced elsewhere", silenced(place::on_demand));
    row("ring turns", s.turns);
    row("effects", end.effects.size());
    row("keys remembered", end.keys.size());
    row("violations", violations);
    std::puts("");
    return all.size() + s.all_told.size() + applied - unheard;
}

std::size_t print_rules(const std::vector<violation>& violations, const std::vector<invariant>& others) {
    std::size_t number = 0, all = violations.size();
    const auto print = [&number](const std::string& text, const std::vector<std::string>& broken) {
        std::printf("%s %zu - %s\n", broken.empty() ? "ok" : "not ok", ++number, text.c_str());
        for (std::size_t i = 0; i < broken.size() && i < 5; ++i) std::printf("#   %s\n", broken[i].c_str());
        if (broken.size() > 5) std::printf("#   … %zu in all\n", broken.size());
    };
    for (std::size_t r = 0; r < rules; ++r) {
        std::vector<std::string> broken;
        for (const violation& v : violations)
            if (static_cast<std::size_t>(v.broken) == r) broken.push_back(v.key + ": " + v.what);
        print(std::string{to_string(static_cast<rule>(r))}, broken);
    }
    for (const invariant& i : others) {
        print(i.text, i.broken);
        all += i.broken.size();
    }
    return all;
}

int run(const settings& set) {
    const auto env = [](const char* name, const char* otherwise) {
        const char* const value = std::getenv(name);
        return std::string{value != nullptr && *value != '\0' ? value : otherwise};
    };
    std::printf("%u s of faults%s, seed %llu\n", set.seconds, set.disk.empty() ? ", none of the disk" : "",
                static_cast<unsigned long long>(set.seed));
    std::fflush(stdout);

    insistent db{"reader"};
    db.exec("CREATE EXTENSION idem");
    // A shorter idem.key_ttl counts from the next turn on, which would be in twelve hours.
    db.exec("UPDATE idem_ring SET ttl = '{3,0,0}'");
    for (const char* const part : {schema, saga_schema, messages_schema}) db.exec(part);
    db.exec("CREATE DATABASE there");
    insistent there{"reader", "there"};
    there.exec("CREATE EXTENSION idem");
    there.exec(receiver_schema);

    idem::test::proxy proxy{
        {.host = env("PGHOST", "/var/run/postgresql"), .port = env("PGPORT", "5432"), .seed = set.seed}};
    const auto conninfo =
        "host=127.0.0.1 hostaddr=127.0.0.1 sslmode=disable gssencmode=disable port=" + std::to_string(proxy.port()) +
        " application_name=" + application +
        " options='-c client_min_messages=error -c idem.key_ttl=3600'"; // how long an abandoned lease is remembered
    workload load{set.seed};
    crew consumers{conninfo, set.seeded};
    chaos faults{proxy, consumers, set.server, set.disk, application, set.seed};
    std::vector<service> shops;
    for (unsigned i = 0; i < workers + bulk_workers; ++i) shops.emplace_back(conninfo);
    shared s;
    replay_and_crash(s, load, shops, faults);
    for (const auto* const name : {"sales", "sales", "audit", "audit", "history", "relay"}) consumers.hire(name);
    {
        const auto begin = clock::now();
        const std::chrono::seconds length{set.seconds};
        std::vector<std::jthread> threads;
        for (unsigned i = 0; i < workers; ++i)
            threads.emplace_back([&, i] { work(s, load, shops[i], set.door, set.seed * workers + i); });
        for (unsigned i = 0; i < bulk_workers; ++i)
            threads.emplace_back(
                [&, i] { work_in_bulk(s, load, shops[workers + i], set.seed * workers + workers + i); });
        for (unsigned i = 0; i < saga_workers; ++i)
            threads.emplace_back([&, i] { order_and_cancel(s, conninfo, set.seed * workers + i); });
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
        faults.crash(crash_kind::immediate); // what was acknowledged up to the last moment must have reached the disk
        settle(s, load, shops, set.door);
        work_off(db);
    }
    consumers.dismiss();
    if (interrupted) { // whatever failed for it, as when Ctrl-C ends a server that is about to start
        std::puts("\nstopped");
        return 130;
    }
    if (s.failure) std::rethrow_exception(s.failure);

    auto end = read_tables(db);
    end.findings.insert(end.findings.end(), s.findings.begin(), s.findings.end());
    write_files(set.output, s.all, end);
    write_told(db, s.all_told);
    const auto violations = check(s.all, end);
    const auto others = check_messages_and_sagas(db, there);
    const std::size_t applied =
        std::stoul(db.value("SELECT (SELECT count(*) FROM applied) + (SELECT count(*) FROM history)")) +
        std::stoul(there.value("SELECT count(*) FROM applied"));
    const std::size_t broken = print_rules(violations, others);
    const auto operations = print_table(set, s.all, end, s, faults.done(), proxy.totals(), applied, broken);
    std::printf("%sexactly once: %s operations, %s effects, %s violations, seed %llu\n", broken == 0 ? "" : "NOT ",
                grouped(operations).c_str(), grouped(end.effects.size()).c_str(), grouped(broken).c_str(),
                static_cast<unsigned long long>(set.seed));
    return broken == 0 ? 0 : 1;
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
        else if (option == "--break" && (value == "lost" || value == "undelivered"))
            set.seeded = value;
        else if (option == "--disk")
            set.disk = value;
        else if (option == "--log")
            set.log = value;
        else if (!(option == "--seconds" && number(value, set.seconds) && set.seconds > 0) &&
                 !(option == "--seed" && number(value, set.seed)))
            return false;
    }
    return argc % 2 == 1 && !set.server.empty();
}

} // namespace
} // namespace fault

int main(int argc, char** argv) try {
    if (argc == 5 && std::string_view{argv[1]} == "--consume") return fault::consume(argv[2], argv[3], argv[4]);
    fault::settings set;
    if (!fault::parse(argc, argv, set)) {
        std::cerr << "usage: fault --server NAME [--seconds N] [--seed N] [--output DIRECTORY] [--disk DIRECTORY]\n"
                     "             [--log FILE] [--break outside|lost|undelivered]\n"
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
