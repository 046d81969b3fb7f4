// A week of real orders, each delivered several times by eight workers over connections that die, also in mid-commit:
// first to a service without idem, then to the same service with it, whose messages a consumer makes into a table while
// its process is killed all the time. Where the server is, libpq's environment says.
#include "consumer.hpp"
#include "database.hpp"
#include "progress.hpp"
#include "rehearsal.hpp"

#include <charconv>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string_view>

namespace intake {
namespace {

struct booked {
    std::size_t orders, credit_notes, duplicates, lost, wrong;
    std::string pounds;
};

// What the consumer was put through, and what it has made of the messages.
struct sales {
    std::size_t published = 0, kills = 0, taken_up_again = 0, days = 0, wrong = 0;
    std::string pounds;
};

struct half { // of the comparison
    report run{};
    booked result{};
};

std::string read(const std::string& path) {
    std::ifstream file{path, std::ios::binary};
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>{file}, {}};
}

std::size_t number(std::string_view text) {
    std::size_t n = 0;
    std::from_chars(text.data(), text.data() + text.size(), n);
    return n;
}

booked check(database& db, const std::string& schema) {
    db.exec("SET search_path = " + schema + ", demo_expected");
    const auto r = db.exec(read(DEMO_DIR "/check.sql"));
    const auto n = [&](int column) { return number(r.text(0, column)); };
    return {n(0), n(1), n(2), n(3), n(4), std::string{r.text(0, 5)}};
}

sales check_sales(database& db, std::size_t kills) {
    const auto messages = db.exec("SELECT count(*), nextval('demo_with_idem.taken_up') - 1 - count(*) FROM "
                                  "public.idem_outbox WHERE topic = 'sales' AND created_at > "
                                  "(SELECT since FROM public.idem_subscriptions WHERE consumer = 'daily_sales')");
    db.exec("SET search_path = demo_with_idem, demo_expected");
    const auto r = db.exec(read(DEMO_DIR "/sales.sql"));
    return {number(messages.text(0, 0)), kills, number(messages.text(0, 1)), number(r.text(0, 0)), number(r.text(0, 1)),
            std::string{r.text(0, 2)}};
}

void make_schema(database& db, const std::string& name) {
    db.exec("DROP SCHEMA IF EXISTS " + name + " CASCADE; CREATE SCHEMA " + name + "; SET search_path = " + name);
}

// ---- the whole ----

void print_table(const half& naive, const half& safe, const booked& expected, const workload& load,
                 std::size_t findings) {
    const auto row = [](const std::string& what, const std::string& left, const std::string& right) {
        std::printf("%-34s %14s %14s\n", what.c_str(), left.c_str(), right.c_str());
    };
    const auto both = [&](const std::string& what, auto figure) {
        row(what, grouped(figure(naive)), grouped(figure(safe)));
    };
    const auto only = [&](const std::string& what, std::size_t n) { row(what, "-", grouped(n)); };

    std::puts("");
    row("", "without idem", "with idem");
    row("", "------------", "---------");
    both("deliveries", [&](auto&) { return load.deliveries.size(); });
    both("executed", [](auto& r) { return r.run.seen.executed; });
    only("replayed", safe.run.seen.replayed);
    only("in progress, asked again", safe.run.seen.in_progress);
    only("mismatches refused", safe.run.seen.mismatches);
    both("connections cut", [](auto& r) { return r.run.wire.lost(); });
    both("commits in doubt", [](auto& r) { return r.run.seen.in_doubt; });
    only("  resolved", safe.run.seen.resolved);
    both("orders", [](auto& r) { return r.result.orders; });
    both("credit notes", [](auto& r) { return r.result.credit_notes; });
    both("duplicates", [](auto& r) { return r.result.duplicates; });
    both("lost", [](auto& r) { return r.result.lost; });
    both("booked with other amounts", [](auto& r) { return r.result.wrong; });
    row("pounds booked", naive.result.pounds, safe.result.pounds);
    row("pounds expected", expected.pounds, expected.pounds);
    only("replays unlike the first answer", safe.run.differing);
    only("idem_verify() findings", findings);
    std::puts("");
}

void print_sales(const sales& got, const booked& expected) {
    const auto row = [](const char* what, const std::string& figure) {
        std::printf("%-34s %14s\n", what, figure.c_str());
    };
    row("", "daily sales");
    row("", "-----------");
    row("messages published", grouped(got.published));
    row("consumer killed (-9), restarted", grouped(got.kills));
    row("messages taken up again", grouped(got.taken_up_again));
    row("days", grouped(got.days));
    row("days unlike the file", grouped(got.wrong));
    row("pounds in the consumer's table", got.pounds);
    row("pounds expected", expected.pounds);
    std::puts("");
}

int main(const std::string& data, std::uint64_t seed) {
    workload load{read_requests(data), {}, seed};
    load.deliveries = plan(load.requests.size(), seed);
    std::size_t changed = 0;
    for (const auto& d : load.deliveries) changed += d.changed;

    database db;
    db.exec("CREATE EXTENSION IF NOT EXISTS idem SCHEMA public");
    make_schema(db, "demo_expected");
    const auto e = db.copy(read(DEMO_DIR "/expected.sql"), read(data));
    const booked expected{number(e.text(0, 0)), number(e.text(0, 1)), 0, 0, 0, std::string{e.text(0, 3)}};
    for (const auto schema : {"demo_without_idem", "demo_with_idem"}) {
        make_schema(db, schema);
        db.exec(read(DEMO_DIR "/schema.sql"));
    }
    // Messages outlive it too: the consumer starts with those to come.
    db.exec("SELECT public.idem_unsubscribe(consumer) FROM public.idem_consumers WHERE consumer = 'daily_sales'; "
            "SELECT public.idem_subscribe('daily_sales', ARRAY['sales'])");
    // Keys outlive this run, the tables above do not: a scope of its own for each.
    const auto scope = db.value("SELECT 'intake ' || clock_timestamp()");

    std::printf("%s invoices and %s credit notes in %s lines, %u workers\n", grouped(expected.orders).c_str(),
                grouped(expected.credit_notes).c_str(), grouped(number(e.text(0, 2))).c_str(), workers);
    std::printf("%s deliveries, %s of them with a changed body; --seed %llu\n\n",
                grouped(load.deliveries.size()).c_str(), grouped(changed).c_str(),
                static_cast<unsigned long long>(seed));

    half naive, safe;
    naive.run = rehearse("without idem", "demo_without_idem", load, without_idem);
    sales told;
    if (!interrupted) {
        consumer daily{seed};
        safe.run = rehearse("with idem", "demo_with_idem", load,
                            [&](auto& client, auto& r, auto& seen) { return with_idem(client, r, seen, scope); });
        if (!interrupted) daily.finish(db);
        told = check_sales(db, daily.kills());
    }
    if (interrupted) {
        std::puts("\nstopped");
        return 130;
    }
    naive.result = check(db, "demo_without_idem");
    safe.result = check(db, "demo_with_idem");
    const auto findings = number(db.value("SELECT count(*) FROM public.idem_verify()"));
    print_table(naive, safe, expected, load, findings);
    print_sales(told, expected);

    const auto& got = safe.result;
    const bool exact = got.orders == expected.orders && got.credit_notes == expected.credit_notes &&
                       got.duplicates == 0 && got.lost == 0 && got.wrong == 0 && got.pounds == expected.pounds &&
                       safe.run.seen.mismatches == changed && safe.run.differing == 0 && findings == 0 &&
                       told.published == load.requests.size() && told.wrong == 0;
    std::printf("%sexactly once: %zu orders, %zu credit notes, %zu deliveries, %zu duplicates, %zu lost\n",
                exact ? "" : "NOT ", got.orders, got.credit_notes, load.deliveries.size(), got.duplicates, got.lost);
    return exact ? 0 : 1;
}

} // namespace
} // namespace intake

int main(int argc, char** argv) try {
    std::string data = DEMO_DIR "/data/online_retail_week.csv";
    std::uint64_t seed = std::random_device{}() % 1'000'000;
    for (int i = 1; i < argc; ++i) {
        const std::string_view option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
        const auto end = value.data() + value.size();
        if (option == "--seed" && !value.empty() && std::from_chars(value.data(), end, seed).ptr == end)
            ++i;
        else if (option == "--data" && !value.empty())
            data = argv[++i];
        else {
            std::cerr << "usage: intake [--seed NUMBER] [--data FILE]\n";
            return 2;
        }
    }
    struct sigaction action {};
    action.sa_handler = [](int) { intake::interrupted = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND); // a second one kills
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    return intake::main(data, seed);
} catch (const std::exception& e) {
    std::cerr << "intake: " << e.what() << '\n';
    return 1;
}
