// A week of real orders, each delivered several times by eight workers over connections that die, also in mid-commit:
// first to a service without idem, then to the same service with it, whose messages a consumer makes into a table while
// its process is killed all the time; and so does one in another database, which they reach through a broker. With it,
// orders are also paid, and a tenth of them is cancelled. Where the server is, libpq's environment says.
#include "broker.hpp"
#include "database.hpp"
#include "killed.hpp"
#include "progress.hpp"
#include "rehearsal.hpp"

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <random>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace intake {
namespace {

struct expectation { // from file and seed
    std::size_t orders, credit_notes, lines, cancelled, paid;
    std::string pounds, pounds_standing;
};

struct booked {
    std::size_t orders, credit_notes, duplicates, lost, wrong;
    std::string pounds;
};

// What those who cancelled were told, and what has become of the orders.
struct cancellations {
    std::size_t compensated, already, tombstoned, refused, live, cancelled, never_landed, wrong;
    std::string captured, refunded, kept, live_pounds, less_credit_notes;
};

// What a consumer has made of the messages.
struct sales {
    std::size_t days = 0, wrong = 0;
    std::string pounds{};
};

// What the consumers were put through, and came to.
struct consumed {
    std::size_t published = 0, taken_up_again = 0, kills = 0;
    sales here{};
    struct broker::kills on_the_way {};
    std::optional<sales> there{}; // through the broker, if there is one
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

cancellations check_cancellations(database& db, const std::vector<told>& all) {
    db.exec("SET search_path = demo_with_idem, demo_expected");
    for (const told& each : all)
        db.exec("INSERT INTO told VALUES ($1, $2, $3)", {each.invoice_no, to_string(each.status), each.response});
    const auto r = db.exec(read(DEMO_DIR "/cancellations.sql"));
    const auto n = [&](int column) { return number(r.text(0, column)); };
    const auto pounds = [&](int column) { return std::string{r.text(0, column)}; };
    return {n(0), n(1), n(2), n(3), n(4), n(5), n(6), n(7), pounds(8), pounds(9), pounds(10), pounds(11), pounds(12)};
}

sales check_sales(database& db, const std::string& schema) {
    db.exec("SET search_path = " + schema + ", demo_expected");
    const auto r = db.exec(read(DEMO_DIR "/sales.sql"));
    return {number(r.text(0, 0)), number(r.text(0, 1)), std::string{r.text(0, 2)}};
}

// Lets the consumer in the database catch up and end.
void finish(killed& daily, database& db) {
    daily.spare();
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{30};
    while (db.value("SELECT depth + parked FROM public.idem_consumers WHERE consumer = 'daily_sales'") != "0") {
        if (std::chrono::steady_clock::now() > until) throw std::runtime_error("the consumer does not catch up");
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
    }
    daily.finish();
}

void make_schema(database& db, const std::string& name) {
    db.exec("DROP SCHEMA IF EXISTS " + name + " CASCADE; CREATE SCHEMA " + name + "; SET search_path = " + name +
            ", public, pg_temp");
}

expectation expect(database& db, const std::string& data, std::uint64_t seed) {
    make_schema(db, "demo_expected");
    db.exec("SET demo.seed = " + std::to_string(seed));
    const auto r = db.copy(read(DEMO_DIR "/expected.sql"), read(data));
    const auto n = [&](int column) { return number(r.text(0, column)); };
    return {n(0), n(1), n(2), n(4), n(5), std::string{r.text(0, 3)}, std::string{r.text(0, 6)}};
}

// ---- the whole ----

void print_table(const half& naive, const half& safe, const expectation& expected, std::size_t deliveries,
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
    both("deliveries", [&](auto&) { return deliveries; });
    both("executed", [](auto& r) { return r.run.seen.executed; });
    only("replayed", safe.run.seen.replayed);
    only("turned away, being cancelled", safe.run.seen.turned_away);
    only("mismatches refused", safe.run.seen.mismatches);
    only("in progress, asked again", safe.run.seen.in_progress);
    both("connections cut", [](auto& r) { return r.run.wire.lost(); });
    both("commits in doubt", [](auto& r) { return r.run.seen.in_doubt; });
    only("  resolved", safe.run.seen.resolved);
    both("orders booked", [](auto& r) { return r.result.orders; });
    both("credit notes booked", [](auto& r) { return r.result.credit_notes; });
    both("duplicates", [](auto& r) { return r.result.duplicates; });
    both("lost", [](auto& r) { return r.result.lost; });
    both("booked with other amounts", [](auto& r) { return r.result.wrong; });
    row("pounds booked and not cancelled", naive.result.pounds, safe.result.pounds);
    row("pounds expected", expected.pounds, expected.pounds_standing);
    only("replays unlike the first answer", safe.run.differing);
    only("idem_verify() findings", findings);
    std::puts("");
}

void print_row(const char* what, const std::string& figure) { std::printf("%-34s %14s\n", what, figure.c_str()); }
void print_row(const char* what, std::size_t figure) { print_row(what, grouped(figure)); }

void print_cancellations(const cancellations& got, const expectation& expected, std::size_t asked) {
    print_row("", "cancellations");
    print_row("", "-------------");
    print_row("orders to cancel, as seeded", expected.cancelled);
    print_row("cancellations sent", asked);
    print_row("  compensated", got.compensated);
    print_row("  already (twice, or answer lost)", got.already);
    print_row("  tombstoned, before the order", got.tombstoned);
    print_row("  refused, the order was paid", got.refused);
    print_row("orders", got.live + got.cancelled + got.never_landed);
    print_row("  live", got.live);
    print_row("  cancelled and refunded", got.cancelled);
    print_row("  never landed", got.never_landed);
    print_row("orders unlike the seed", got.wrong);
    print_row("pounds captured", got.captured);
    print_row("  refunded", got.refunded);
    print_row("  captured - refunded", got.kept);
    print_row("pounds of live orders", got.live_pounds);
    print_row("  less credit notes", got.less_credit_notes);
    std::puts("");
}

void print_sales(const consumed& got, const expectation& expected) {
    print_row("", "daily sales");
    print_row("", "-----------");
    print_row("messages published", got.published);
    print_row("consumer killed (-9), restarted", got.kills);
    print_row("messages taken up again", got.taken_up_again);
    print_row("days", got.here.days);
    print_row("days unlike the file", got.here.wrong);
    print_row("pounds in the consumer's table", got.here.pounds);
    print_row("pounds expected", expected.pounds_standing);
    std::puts("");
    if (!got.there) {
        std::puts("There is no nats-server here: no broker, and no other database.\n");
        return;
    }
    print_row("", "through NATS");
    print_row("", "------------");
    print_row("relay killed (-9), restarted", got.on_the_way.relay);
    print_row("nats-server killed (-9), restarted", got.on_the_way.server);
    print_row("receiver killed (-9), restarted", got.on_the_way.receiver);
    print_row("days in the other database", got.there->days);
    print_row("days unlike the file", got.there->wrong);
    print_row("pounds in the other database", got.there->pounds);
    print_row("pounds expected", expected.pounds_standing);
    std::puts("");
}

int main(const std::string& data, std::uint64_t seed) {
    const auto requests = read_requests(data);
    std::vector<fate> fates;
    for (const auto& r : requests) fates.push_back(fate_of(r.invoice_no, seed));
    // Without idem there is no cancelling by key: the same deliveries, and nothing else.
    const workload plain{requests, plan(std::vector<fate>(requests.size()), seed), seed};
    const workload load{requests, plan(fates, seed), seed};
    const auto changed = load.count(errand::deliver_changed), deliveries = load.count(errand::deliver) + changed;

    database db;
    db.exec("CREATE EXTENSION IF NOT EXISTS idem SCHEMA public");
    const auto expected = expect(db, data, seed);
    for (const auto schema : {"demo_without_idem", "demo_with_idem"}) {
        make_schema(db, schema);
        db.exec(read(DEMO_DIR "/schema.sql"));
    }
    db.exec("SELECT idem_attach('demo_with_idem.orders', 'state', 'order')");
    // Messages outlive it too: the consumer starts with those to come.
    db.exec("SELECT public.idem_unsubscribe(consumer) FROM public.idem_subscriptions WHERE consumer = 'daily_sales'; "
            "SELECT public.idem_subscribe('daily_sales', ARRAY['sales'])");
    // Keys outlive this run, the tables above do not: a scope of its own for each.
    const shop safe_shop{db.value("SELECT 'intake ' || clock_timestamp()")};

    std::printf("%s invoices and %s credit notes in %s lines, %u workers\n", grouped(expected.orders).c_str(),
                grouped(expected.credit_notes).c_str(), grouped(expected.lines).c_str(), workers);
    std::printf("%s deliveries, %s of them with a changed body; with idem, %s orders are paid and %s cancelled; "
                "--seed %llu\n\n",
                grouped(deliveries).c_str(), grouped(changed).c_str(), grouped(expected.paid).c_str(),
                grouped(expected.cancelled).c_str(), static_cast<unsigned long long>(seed));

    half naive, safe;
    naive.run = rehearse("without idem", "demo_without_idem", plain,
                         [](auto& client, auto&, auto& r, auto& seen) { return without_idem(client, r, seen); });
    consumed sold;
    if (!interrupted) {
        std::optional<broker> way;
        if (broker::is_here()) way.emplace(db, seed);
        killed daily{{beside("sales")}, std::chrono::milliseconds{150}, seed};
        safe.run = rehearse("with idem", "demo_with_idem", load,
                            [&](auto& client, auto& d, auto& r, auto& seen) -> std::optional<std::string> {
                                switch (d.what) {
                                case errand::deliver:
                                case errand::deliver_changed: return safe_shop.book(client, r, seen);
                                case errand::pay: safe_shop.pay(client, r, fates[d.request] == fate::sold, seen); break;
                                case errand::cancel: safe_shop.cancel(client, r, seen); break;
                                }
                                return {};
                            });
        if (!interrupted) {
            finish(daily, db);
            sold.kills = daily.kills();
            const auto messages =
                db.exec("SELECT count(*), nextval('demo_with_idem.taken_up') - 1 - count(*) FROM "
                        "public.idem_outbox WHERE topic = 'sales' AND created_at > "
                        "(SELECT since FROM public.idem_subscriptions WHERE consumer = 'daily_sales')");
            sold.published = number(messages.text(0, 0));
            sold.taken_up_again = number(messages.text(0, 1));
            sold.here = check_sales(db, "demo_with_idem");
            if (way) {
                way->finish(db);
                sold.on_the_way = way->kills();
                sold.there = check_sales(db, "demo_reported");
            }
        }
    }
    if (interrupted) {
        std::puts("\nstopped");
        return 130;
    }
    const auto& seen = safe.run.seen;
    const auto undone = check_cancellations(db, seen.cancellations);
    naive.result = check(db, "demo_without_idem");
    safe.result = check(db, "demo_with_idem");
    const auto findings = number(db.value("SELECT count(*) FROM public.idem_verify()"));
    print_table(naive, safe, expected, deliveries, findings);
    print_cancellations(undone, expected, load.count(errand::cancel));
    print_sales(sold, expected);

    const auto& got = safe.result;
    const auto orders = undone.live + undone.cancelled + undone.never_landed; // all accounted for
    const bool booked = orders == expected.orders && got.orders == undone.live + undone.cancelled &&
                        got.credit_notes == expected.credit_notes && got.duplicates == 0 && got.lost == 0 &&
                        got.wrong == 0 && got.pounds == expected.pounds_standing;
    const bool answered = seen.executed + seen.replayed + seen.mismatches + seen.turned_away == deliveries &&
                          safe.run.misled == 0 && safe.run.differing == 0 && seen.paid == expected.paid;
    const bool cancelled = undone.wrong == 0 && undone.kept == undone.live_pounds &&
                           seen.cancellations.size() == load.count(errand::cancel);
    const bool consumed = sold.published == got.orders + got.credit_notes + undone.cancelled && sold.here.wrong == 0 &&
                          (!sold.there || sold.there->wrong == 0);
    const bool exact = booked && answered && cancelled && consumed && findings == 0;
    std::printf("%sexactly once: %zu orders, %zu credit notes, %zu cancellations, %zu deliveries, %zu duplicates, "
                "%zu lost\n",
                exact ? "" : "NOT ", orders, got.credit_notes, expected.cancelled, deliveries, got.duplicates,
                got.lost);
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
