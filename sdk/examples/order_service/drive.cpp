// A week of real orders, twice over, by sixteen customers over HTTP who retry, also with changed bodies, pay and
// cancel; meanwhile one process of each kind is killed after the other. Then the read model, at the other end of the
// road, against the file.
#include "customer.hpp"

#include <database.hpp>
#include <deliveries.hpp>
#include <progress.hpp>
#include <requests.hpp>

#include <CLI/CLI.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace std::chrono_literals;
using intake::errand;
using intake::fate;
using intake::grouped;

constexpr unsigned customers = 16;
constexpr std::array kinds{"service-1", "relay", "projection-1", "nats", "database", "service-2", "projection-2"};

std::atomic<bool> interrupted{false};

struct arguments {
    int port = 8080;
    std::string api_key{}, shop = "dbname=shop", read_model = "dbname=read_model", home{}, kill{},
                           data = DEMO_DIR "/data/online_retail_week.csv";
    std::uint64_t seed = std::random_device{}() % 1'000'000;
};

struct told {
    std::string invoice_no, status;
};

// What the customers have seen.
struct tally {
    std::size_t executed = 0, replayed = 0, mismatches = 0, turned_away = 0, paid = 0, completed = 0;
    std::size_t misled = 0;    // changed bodies answered as if they had been executed
    std::size_t differing = 0; // answers unlike the first one to the same request
    std::size_t twice = 0;     // two answers to a request that are no replays
    std::vector<told> cancellations{};
    std::vector<std::string> unexpected{};
    shop::customer::counts wire{};
};

// What drive.sql found.
struct findings {
    std::size_t orders, credit_notes, duplicates, lost, wrong, cancelled, never_landed, refused;
    std::string pounds_standing;
    std::size_t states_wrong, days, days_wrong;
    std::string pounds;
};

std::string read(const std::string& path) {
    std::ifstream file{path, std::ios::binary};
    if (!file) throw std::runtime_error{"cannot read " + path};
    return {std::istreambuf_iterator<char>{file}, {}};
}

std::string body_of(const intake::request& r, bool changed) {
    nlohmann::json lines = nlohmann::json::array();
    for (const auto& each : r.lines)
        lines.push_back({{"sku", each.stock_code},
                         {"description", each.description},
                         {"quantity", each.quantity + (changed && lines.empty() ? 1 : 0)},
                         {"unit_pence", each.unit_pence}});
    nlohmann::json body{{"country", r.country}, {"placed_at", r.placed_at}, {"lines", std::move(lines)}};
    if (!r.customer_id.empty()) body["customer"] = r.customer_id;
    return body.dump();
}

// ---- the customers ----

class rehearsal {
public:
    rehearsal(const arguments& given, const std::vector<intake::request>& requests, std::vector<fate> fates)
        : given_{given},
          requests_{requests},
          fates_{std::move(fates)},
          answers_(requests.size()),
          executed_(requests.size()) {}

    // All that is planned; calls `meanwhile` with how much of it is done.
    template <typename Meanwhile>
    void run(const std::string& title, const std::vector<intake::delivery>& plan, Meanwhile&& meanwhile) {
        intake::mailbox mail{plan, requests_.size()};
        std::atomic<std::size_t> done{0};
        std::atomic<unsigned> at_work{customers};
        std::exception_ptr failure;
        const auto work = [&](std::uint64_t seed) {
            shop::customer me{given_.port, given_.api_key, seed};
            std::mt19937_64 random{seed};
            try {
                while (const auto d = mail.next()) {
                    do_errand(me, *d);
                    count(me.take_counts());
                    mail.acknowledge(*d);
                    ++done;
                    std::this_thread::sleep_for(std::chrono::milliseconds{random() % 40});
                }
            } catch (...) {
                const std::lock_guard lock{guard_};
                failure = std::current_exception();
                mail.stop();
            }
            --at_work;
        };
        {
            std::vector<std::jthread> threads;
            for (unsigned i = 0; i < customers; ++i) threads.emplace_back(work, given_.seed * customers + i);
            intake::progress bar{title, plan.size()};
            while (at_work > 0) {
                std::this_thread::sleep_for(20ms);
                if (interrupted) mail.stop();
                bar.show(done, cuts());
                meanwhile(done.load());
            }
            bar.end();
        }
        if (failure) std::rethrow_exception(failure);
    }

    [[nodiscard]] const tally& seen() const noexcept { return seen_; }
    // Of requests that were executed: what is to be found in the logs.
    [[nodiscard]] const std::vector<std::string>& traces() const noexcept { return traces_; }

private:
    [[nodiscard]] std::size_t cuts() {
        const std::lock_guard lock{guard_};
        return seen_.wire.cuts;
    }

    void do_errand(shop::customer& me, const intake::delivery& d) {
        const intake::request& r = requests_[d.request];
        const std::string order = "/orders/" + r.invoice_no;
        switch (d.what) {
        case errand::deliver:
        case errand::deliver_changed: {
            const bool changed = d.what == errand::deliver_changed;
            if (const auto got = me.send("POST", "/orders", r.invoice_no, body_of(r, changed), interrupted))
                judge(d.request, changed, *got);
            break;
        }
        case errand::pay: {
            const std::string body = R"({"pence":)" + std::to_string(r.total_pence()) + '}';
            if (const auto got = me.send("POST", order + "/pay", "pay-" + r.invoice_no, body, interrupted))
                count(*got, 200, &tally::paid, order + "/pay");
            if (fates_[d.request] != fate::sold) break;
            if (const auto got = me.send("POST", order + "/complete", "complete-" + r.invoice_no, "{}", interrupted))
                count(*got, 200, &tally::completed, order + "/complete");
            break;
        }
        case errand::cancel:
            if (const auto got =
                    me.send("POST", order + "/cancel", "", R"({"reason":"second thoughts"})", interrupted)) {
                const std::lock_guard lock{guard_};
                seen_.cancellations.push_back({r.invoice_no, got->status == 200   ? "cancelled"
                                                             : got->status == 202 ? "tombstoned"
                                                             : got->status == 409 ? "refused"
                                                                                  : std::to_string(got->status)});
            }
        }
    }

    void judge(std::size_t request, bool changed, const shop::customer::reply& got) {
        const std::lock_guard lock{guard_};
        switch (got.status) {
        case 201: {
            ++(got.replayed ? seen_.replayed : seen_.executed);
            seen_.misled += changed;
            std::string& first = answers_[request];
            if (first.empty()) first = got.essence;
            seen_.differing += first != got.essence;
            if (got.replayed) break;
            seen_.twice += executed_[request];
            executed_[request] = true;
            traces_.push_back(got.trace);
            break;
        }
        case 410: ++seen_.turned_away; break;
        case 422: changed ? ++seen_.mismatches : complain(got, requests_[request].invoice_no); break;
        default: complain(got, requests_[request].invoice_no);
        }
    }

    void count(const shop::customer::counts& on_the_wire) {
        const std::lock_guard lock{guard_};
        seen_.wire += on_the_wire;
    }

    void count(const shop::customer::reply& got, int status, std::size_t tally::*where, const std::string& what) {
        const std::lock_guard lock{guard_};
        if (got.status == status)
            ++(seen_.*where);
        else
            complain(got, what);
    }

    std::size_t complain(const shop::customer::reply& got, const std::string& what) {
        seen_.unexpected.push_back(what + ": " + std::to_string(got.status) + ' ' + got.body);
        return 0;
    }

    const arguments& given_;
    const std::vector<intake::request>& requests_;
    std::vector<fate> fates_;

    std::mutex guard_{};
    std::vector<std::string> answers_; // the first to each request
    std::vector<bool> executed_;
    std::vector<std::string> traces_{};
    tally seen_{};
};

// ---- killing ----

// One after the other, as the work goes on; each is back before the next.
class killer {
public:
    killer(std::string command, std::size_t work) : command_{std::move(command)}, work_{work} {}

    void look(std::size_t done) {
        if (command_.empty() || kills_ == kinds.size() || done * (kinds.size() + 1) < work_ * (kills_ + 1)) return;
        const std::string line = command_ + ' ' + kinds[kills_];
        if (std::system(line.c_str()) != 0) throw std::runtime_error{"failed: " + line};
        ++kills_;
    }
    [[nodiscard]] std::size_t kills() const noexcept { return kills_; }

private:
    std::string command_;
    std::size_t work_, kills_ = 0;
};

// ---- what there is in the end ----

struct expectation { // from file and seed
    std::size_t orders, credit_notes, lines, cancelled, paid;
    std::string pounds_standing;
};

std::size_t number(std::string_view text) { return static_cast<std::size_t>(std::stoull(std::string{text})); }

expectation expect(intake::database& db, const arguments& given) {
    db.exec("DROP SCHEMA IF EXISTS expected CASCADE; CREATE SCHEMA expected; SET search_path = expected, public");
    db.exec("SET demo.seed = " + std::to_string(given.seed));
    const auto r = db.copy(read(DEMO_DIR "/expected.sql"), read(given.data));
    const auto n = [&](int column) { return number(r.text(0, column)); };
    return {n(0), n(1), n(2), n(4), n(5), std::string{r.text(0, 6)}};
}

// Waits until there are as many messages in the read model as were published, and fetches it beside what is expected.
void fetch_read_model(intake::database& db, const arguments& given) {
    intake::database model{given.read_model};
    const std::string published = db.value("SELECT count(*) FROM idem_outbox WHERE topic = 'sales'");
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (model.value("SELECT coalesce(sum(messages), 0) FROM daily_sales") != published && !interrupted) {
        if (std::chrono::steady_clock::now() > until) throw std::runtime_error{"the read model does not catch up"};
        std::this_thread::sleep_for(50ms);
    }
    std::this_thread::sleep_for(500ms); // for what comes again
    const auto fetch = [&](const std::string& table, const std::string& columns, const std::string& types) {
        db.exec("CREATE TABLE " + table + " (" + types + ")");
        const auto rows = model.exec("SELECT " + columns + " FROM " + table);
        for (int i = 0; i < rows.rows(); ++i)
            db.exec("INSERT INTO " + table + " VALUES ($1, $2)", {rows.text(i, 0), rows.text(i, 1)});
    };
    fetch("daily_sales", "day, pence", "day date, pence bigint");
    fetch("order_states", "key, state", "key text, state text");
}

findings check(intake::database& db, const tally& seen) {
    db.exec("CREATE TABLE told (invoice_no text, status text)");
    for (const told& each : seen.cancellations)
        db.exec("INSERT INTO told VALUES ($1, $2)", {each.invoice_no, each.status});
    const auto r = db.exec(read(SERVICE_DIR "/drive.sql"));
    const auto n = [&](int column) { return number(r.text(0, column)); };
    return {n(0),
            n(1),
            n(2),
            n(3),
            n(4),
            n(5),
            n(6),
            n(7),
            std::string{r.text(0, 8)},
            n(9),
            n(10),
            n(11),
            std::string{r.text(0, 12)}};
}

// The lines that the service and the projection have logged of one request.
void print_trace(const arguments& given, const std::vector<std::string>& traces) {
    const auto line_with = [&](const std::string& trace, std::initializer_list<const char*> logs) {
        std::string found;
        for (const char* const log : logs) {
            std::ifstream file{given.home + '/' + log};
            for (std::string line; found.empty() && std::getline(file, line);)
                if (line.find(trace) != std::string::npos) found = line;
        }
        return found;
    };
    for (const std::string& trace : traces) { // what was killed has not written its last lines
        const std::string access = line_with(trace, {"service-1.log", "service-2.log"});
        const std::string projected = line_with(trace, {"projection-1.log", "projection-2.log"});
        if (access.empty() || projected.empty()) continue;
        std::printf("one request, in the log of the service and of the consumer:\n  %s\n  %s\n\n", access.c_str(),
                    projected.c_str());
        return;
    }
    std::puts("no request was found in both logs\n");
}

// ---- the whole ----

void row(const char* what, const std::string& figure) { std::printf("%-44s %14s\n", what, figure.c_str()); }
void row(const char* what, std::size_t figure) { row(what, grouped(figure)); }

int run(const arguments& given) {
    const auto requests = intake::read_requests(given.data);
    std::vector<fate> fates, none(requests.size());
    for (const auto& each : requests) fates.push_back(intake::fate_of(each.invoice_no, given.seed));
    const auto first = intake::plan(fates, given.seed), second = intake::plan(none, given.seed + 1);
    const auto count = [&](auto... what) {
        const auto is = [=](const auto& d) { return ((d.what == what) || ...); };
        return static_cast<std::size_t>(std::ranges::count_if(first, is) + std::ranges::count_if(second, is));
    };
    const std::size_t deliveries = count(errand::deliver, errand::deliver_changed),
                      changed = count(errand::deliver_changed), cancellations = count(errand::cancel);

    intake::database db{given.shop};
    const expectation expected = expect(db, given);
    std::printf("%s orders and %s credit notes in %s lines, %u customers\n", grouped(expected.orders).c_str(),
                grouped(expected.credit_notes).c_str(), grouped(expected.lines).c_str(), customers);
    std::printf("%s deliveries, %s of them with a changed body; %s orders are paid and %s cancelled; --seed %llu\n\n",
                grouped(deliveries).c_str(), grouped(changed).c_str(), grouped(expected.paid).c_str(),
                grouped(expected.cancelled).c_str(), static_cast<unsigned long long>(given.seed));

    rehearsal all{given, requests, fates};
    killer kills{given.kill, first.size() + second.size()};
    all.run("first time", first, [&](std::size_t done) { kills.look(done); });
    all.run("second time", second, [&](std::size_t done) { kills.look(first.size() + done); });
    kills.look(first.size() + second.size());
    if (interrupted) {
        std::puts("\nstopped");
        return 130;
    }

    intake::database after{given.shop};
    after.exec("SET search_path = expected, public");
    fetch_read_model(after, given);
    const tally& seen = all.seen();
    const findings got = check(after, seen);
    const std::string finds = "SELECT count(*) FROM idem_verify()";
    const std::size_t verified = number(after.value(finds)) + number(intake::database{given.read_model}.value(finds));

    std::puts("");
    row("deliveries", deliveries);
    row("  executed", seen.executed);
    row("  replayed", seen.replayed);
    row("  turned away, being cancelled (410)", seen.turned_away);
    row("  mismatches refused (422)", seen.mismatches);
    row("tries", seen.wire.tries);
    row("  cut or hung up, sent again", seen.wire.cuts);
    row("  503, sent again", seen.wire.unavailable);
    row("  409 in progress, sent again", seen.wire.in_progress);
    row("processes killed (-9), one of each kind", kills.kills());
    row("orders and credit notes", got.orders + got.credit_notes);
    row("  paid", seen.paid);
    row("  and completed", seen.completed);
    row("  cancelled", got.cancelled);
    row("  never landed, cancelled before", got.never_landed);
    row("  not cancelled, being paid", got.refused);
    row("duplicates", got.duplicates + seen.twice);
    row("lost", got.lost);
    row("unlike file and seed", got.wrong);
    row("replays unlike the first answer", seen.differing);
    row("days in the read model", got.days);
    row("days unlike the file", got.days_wrong);
    row("orders in another state there", got.states_wrong);
    row("pounds in the read model", got.pounds);
    row("pounds expected", expected.pounds_standing);
    row("idem_verify() findings, both databases", verified);
    std::puts("");
    for (const auto& each : seen.unexpected) std::printf("unexpected: %s\n", each.c_str());
    print_trace(given, all.traces());

    const bool answered = seen.executed + seen.replayed + seen.mismatches + seen.turned_away == deliveries &&
                          seen.paid == expected.paid && seen.cancellations.size() == cancellations &&
                          seen.misled + seen.differing + seen.twice + seen.unexpected.size() == 0;
    const bool booked = got.orders == expected.orders && got.credit_notes == expected.credit_notes &&
                        got.duplicates + got.lost + got.wrong == 0;
    const bool projected = got.states_wrong + got.days_wrong == 0 && got.pounds == expected.pounds_standing;
    const bool exact = answered && booked && projected && verified == 0;
    std::printf("%sexactly once: %zu orders, %zu credit notes, %zu cancellations, %zu deliveries, %zu duplicates, "
                "%zu lost\n",
                exact ? "" : "NOT ", got.orders, got.credit_notes, expected.cancelled, deliveries,
                got.duplicates + seen.twice, got.lost);
    return exact ? 0 : 1;
}

arguments parse(int argc, char** argv) {
    arguments given;
    CLI::App app{"Drives a week of real orders through the order service, and checks what comes out.", "drive"};
    const auto add = [&](const char* name, auto& value, const char* what, const char* type) {
        return app.add_option(name, value, what)->type_name(type)->capture_default_str();
    };
    add("--port", given.port, "Where nginx listens, on 127.0.0.1", "N");
    add("--api-key", given.api_key, "Of the client that orders", "KEY")->required();
    add("--shop", given.shop, "The service's database", "CONNINFO");
    add("--read-model", given.read_model, "The read model's", "CONNINFO");
    add("--home", given.home, "The directory with the logs", "DIRECTORY");
    add("--kill", given.kill, "Kill one of each kind on the way, by COMMAND KIND", "COMMAND");
    add("--data", given.data, "The orders", "FILE");
    add("--seed", given.seed, "Repeats a run, roughly", "N");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& wrong) {
        std::exit(app.exit(wrong) == 0 ? 0 : 2); // it may be --help
    }
    return given;
}

} // namespace

int main(int argc, char** argv) try {
    const arguments given = parse(argc, argv);
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND); // a second one kills
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    return run(given);
} catch (const std::exception& failure) {
    std::cerr << "drive: " << failure.what() << '\n';
    return 1;
}
