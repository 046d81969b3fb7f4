// The load test: ten thousand clients (swarm.hpp) through nginx, then what they were told against what the database
// and the read model have. Prints a table; ends with status 0 if nothing was doubled, lost or answered otherwise the
// second time.
#include "processes.hpp"
#include "swarm.hpp"

#include <idem/idem.hpp>

#include <CLI/CLI.hpp>

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;

volatile std::sig_atomic_t interrupted = 0;

struct arguments {
    shop::swarm_options load{};
    std::string home{}, kill{}, json{}, shop = "dbname=shop", read_model{};
};

// ---- what the databases have ----

struct booked {
    std::uint64_t orders = 0, duplicates = 0, lost = 0, unasked = 0, wrong = 0;
};

struct projected {
    bool looked = false;
    std::int64_t published = 0, messages = 0; // in the outbox, in the read model
    std::int64_t pence = 0, projected_pence = 0;
    double seconds_behind = 0; // from the last answer until it had all

    [[nodiscard]] bool exact() const { return messages == published && projected_pence == pence; }
};

std::int64_t number(std::string_view text) { return text.empty() ? 0 : std::stoll(std::string{text}); }

// Each order that was sent is there at most once, and each that was acknowledged once; nothing else is.
booked check_orders(const arguments& given, const shop::swarm_report& told) {
    booked found;
    idem::client database{given.shop};
    std::vector<std::uint8_t> times(told.orders);
    idem::transaction tx{database.connection(), 120s};
    tx.exec("BEGIN");
    tx.exec("DECLARE all_orders CURSOR FOR SELECT substr(id, length($1) + 1), total_pence FROM orders "
            "WHERE starts_with(id, $1)",
            {given.load.keys});
    for (;;) {
        const idem::result rows = tx.exec("FETCH 50000 FROM all_orders");
        if (rows.rows() == 0) break;
        for (int i = 0; i < rows.rows(); ++i) {
            const auto n = static_cast<std::uint64_t>(number(rows.text(i, 0)));
            ++found.orders;
            if (n >= told.orders) {
                ++found.unasked;
                continue;
            }
            found.duplicates += times[n]++ > 0;
            found.wrong += number(rows.text(i, 1)) != shop::pence_of_order(n, given.load.seed);
        }
    }
    tx.exec("COMMIT");
    for (std::uint64_t n = 0; n < told.orders; ++n) found.lost += told.is_acknowledged[n] && times[n] == 0;
    return found;
}

// Waits until the read model has all messages that were published, for two minutes at most.
projected check_read_model(const arguments& given) {
    projected found;
    if (given.read_model.empty()) return found;
    found.looked = true;
    const auto ask = [](idem::client& database, const char* sql) {
        return number(idem::transaction{database.connection(), 120s}.exec(sql).text(0, 0));
    };
    const auto began = std::chrono::steady_clock::now();
    idem::client shop{given.shop}, model{given.read_model};
    found.published = ask(shop, "SELECT count(*) FROM idem_outbox WHERE topic = 'sales'");
    found.pence = ask(shop, "SELECT sum(total_pence) FROM orders WHERE state <> 'cancelled'");
    for (;;) {
        found.messages = ask(model, "SELECT sum(messages) FROM daily_sales");
        found.seconds_behind = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        if (found.messages >= found.published || found.seconds_behind > 120 || interrupted != 0) break;
        std::this_thread::sleep_for(200ms);
    }
    std::this_thread::sleep_for(500ms); // for what comes again
    found.messages = ask(model, "SELECT sum(messages) FROM daily_sales");
    found.projected_pence = ask(model, "SELECT sum(pence) FROM daily_sales");
    return found;
}

// ---- killing ----

// One of each kind, spread over the time, by `command KIND`.
class killer {
public:
    killer(std::string command, double seconds) : command_{std::move(command)}, seconds_{seconds} {}
    ~killer() {
        for (const pid_t each : running_) waitpid(each, nullptr, 0);
    }
    killer(const killer&) = delete;
    killer& operator=(const killer&) = delete;

    void look(double second) {
        std::erase_if(running_, [](pid_t each) { return waitpid(each, nullptr, WNOHANG) == each; });
        if (command_.empty() || done_ == kinds.size() ||
            second < seconds_ * static_cast<double>(done_ + 1) / static_cast<double>(kinds.size() + 1))
            return;
        const std::string kind = kinds[done_++], line = command_ + ' ' + kind;
        std::printf("%6.0f s  killing: %s\n", second, kind.c_str());
        std::array<const char*, 4> words{"sh", "-c", line.c_str(), nullptr};
        pid_t pid = 0;
        if (posix_spawnp(&pid, "sh", nullptr, nullptr, const_cast<char* const*>(words.data()), environ) == 0)
            running_.push_back(pid);
    }
    [[nodiscard]] std::size_t kills() const { return done_; }

private:
    static constexpr std::array<const char*, 5> kinds{"service-1", "relay", "projection-1", "nats", "database"};

    std::string command_;
    double seconds_;
    std::size_t done_ = 0;
    std::vector<pid_t> running_{};
};

// ---- what is printed ----

std::string grouped(std::uint64_t n) {
    std::string text = std::to_string(n);
    for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
    return text;
}

void row(const char* what, const std::string& figure) { std::printf("%-44s %16s\n", what, figure.c_str()); }
void row(const char* what, std::uint64_t figure) { row(what, grouped(figure)); }

std::string decimal(double value, int digits) {
    std::array<char, 64> text;
    std::snprintf(text.data(), text.size(), "%.*f", digits, value);
    return text.data();
}

nlohmann::json latency(const char* what, const shop::histogram& h) {
    const auto ms = [](std::uint64_t microseconds) { return static_cast<double>(microseconds) / 1000; };
    std::printf("%-28s %11s %9.1f %9.1f %9.1f %9.1f\n", what, grouped(h.count()).c_str(), ms(h.at(0.5)), ms(h.at(0.99)),
                ms(h.at(0.999)), ms(h.max()));
    return {{"count", h.count()},
            {"p50_ms", ms(h.at(0.5))},
            {"p99_ms", ms(h.at(0.99))},
            {"p99_9_ms", ms(h.at(0.999))},
            {"max_ms", ms(h.max())}};
}

nlohmann::json print_usage(const shop::processes& all, double seconds, double requests) {
    nlohmann::json json;
    std::printf("\n%-28s %14s %14s %14s\n", "process", "of a processor", "us a request", "memory, peak");
    double sum = 0;
    for (const auto& [name, used] : all.rows()) {
        sum += used.seconds;
        std::printf("%-28s %13.1f%% %14.1f %14s\n", name.c_str(), 100 * used.seconds / seconds,
                    1e6 * used.seconds / requests,
                    used.peak_memory == 0 ? "" : (grouped(used.peak_memory / 1'000'000) + " MB").c_str());
        json[name] = {{"cpu_share", used.seconds / seconds}, {"peak_bytes", used.peak_memory}};
    }
    std::printf("%-28s %13.1f%% %14.1f\n", "all", 100 * sum / seconds, 1e6 * sum / requests);
    return json;
}

// ---- the whole ----

int run(const arguments& given) {
    std::printf("%s connections, %s, %.0f %% of the requests with a key that was sent before; --seed %llu\n",
                grouped(static_cast<std::uint64_t>(given.load.connections)).c_str(),
                given.load.rate > 0
                    ? (grouped(static_cast<std::uint64_t>(given.load.rate)) + " requests/s offered").c_str()
                    : "each client sends as soon as it is answered",
                100 * given.load.retry_share, static_cast<unsigned long long>(given.load.seed));

    shop::swarm clients{given.load};
    shop::processes used{given.home};
    killer kills{given.kill, given.load.seconds};
    std::uint64_t before = 0;
    double used_seconds = 0;
    clients.run([&] { used.reset(); },
                [&](double second, const shop::swarm_report& r) {
                    used.look();
                    used_seconds = used.seconds();
                    kills.look(second);
                    std::printf("%6.0f s  %s answers/s, %s in all, 503 and the like %s, cuts %s\n", second,
                                grouped(r.answered - before).c_str(), grouped(r.answered).c_str(),
                                grouped(r.unavailable).c_str(), grouped(r.cuts).c_str());
                    std::fflush(stdout);
                    before = r.answered;
                },
                [] { return interrupted != 0; });
    const shop::swarm_report& r = clients.report();
    const auto usage = used; // of what follows, nothing
    std::puts("");

    const booked orders = check_orders(given, r);
    const projected sales = check_read_model(given);

    nlohmann::json json;
    std::printf("%-28s %11s %9s %9s %9s %9s\n", "latency, ms", "answers", "p50", "p99", "p99.9", "max");
    json["latency"] = latency("all", r.all);
    json["latency_first"] = latency("  sent for the first time", r.first);
    json["latency_repeated"] = latency("  sent again", r.repeated);
    std::puts("");
    const double rate = r.measured > 0 ? static_cast<double>(r.measured_answers) / r.measured : 0;
    const double share = static_cast<double>(r.answered) / static_cast<double>(std::max<std::uint64_t>(r.requests, 1));
    row("answers per second", grouped(static_cast<std::uint64_t>(rate)));
    row("requests", r.requests);
    row("  with a key that was sent before", r.repeats);
    row("  finally answered within 30 s", r.answered);
    row("    of all", decimal(100 * share, 4) + " %");
    row("tries", r.tries);
    row("  503 and the like, sent again", r.unavailable);
    row("  409 with Retry-After, sent again", r.in_progress);
    row("  cut, sent again", r.cuts);
    row("  silent, sent again", r.silences);
    row("seconds with a 503", decimal(r.seconds_unavailable, 1));
    row("orders sent", r.orders);
    row("  acknowledged", r.acknowledged);
    row("  booked", orders.orders);
    row("duplicates", orders.duplicates + r.executed_twice);
    row("lost", orders.lost);
    row("booked without being sent", orders.unasked);
    row("booked with another amount", orders.wrong);
    row("replays unlike the first answer", r.wrong_replays);
    row("replays not marked", r.unmarked_replays);
    std::uint64_t others = 0;
    for (const auto& [status, count] : r.others) {
        row(("answers with " + std::to_string(status)).c_str(), count);
        others += count;
    }
    if (sales.looked) {
        row("messages published", static_cast<std::uint64_t>(sales.published));
        row("  in the read model", static_cast<std::uint64_t>(sales.messages));
        row("  seconds until it had all", decimal(sales.seconds_behind, 1));
        row("pounds in the read model", decimal(static_cast<double>(sales.projected_pence) / 100, 2));
        row("pounds booked", decimal(static_cast<double>(sales.pence) / 100, 2));
    }
    if (!given.kill.empty()) row("killed on the way", kills.kills());
    json["processes"] = print_usage(usage, used_seconds, static_cast<double>(std::max<std::uint64_t>(r.requests, 1)));

    const bool exact = orders.duplicates + r.executed_twice + orders.lost + orders.unasked + orders.wrong +
                               r.wrong_replays + r.unmarked_replays + others ==
                           0 &&
                       (!sales.looked || sales.exact());
    for (const auto& each : r.samples) std::printf("\n%s\n", each.c_str());
    std::printf("\n%sexactly once: %llu requests, %llu orders, %llu duplicates, %llu lost, %llu wrong replays\n",
                exact ? "" : "NOT ", static_cast<unsigned long long>(r.requests),
                static_cast<unsigned long long>(orders.orders),
                static_cast<unsigned long long>(orders.duplicates + r.executed_twice),
                static_cast<unsigned long long>(orders.lost), static_cast<unsigned long long>(r.wrong_replays));

    if (!given.json.empty()) {
        json["connections"] = given.load.connections;
        json["offered_rate"] = given.load.rate;
        json["answers_per_second"] = rate;
        json["requests"] = r.requests;
        json["repeats"] = r.repeats;
        json["answered_share"] = share;
        json["unavailable"] = r.unavailable;
        json["seconds_unavailable"] = r.seconds_unavailable;
        json["cuts"] = r.cuts;
        json["orders"] = orders.orders;
        json["duplicates"] = orders.duplicates + r.executed_twice;
        json["lost"] = orders.lost;
        json["wrong_replays"] = r.wrong_replays;
        json["kills"] = kills.kills();
        json["read_model_seconds_behind"] = sales.seconds_behind;
        json["exact"] = exact;
        json["seed"] = given.load.seed;
        std::ofstream{given.json} << json.dump(2) << '\n';
    }
    return interrupted != 0 ? 130 : exact ? 0 : 1;
}

arguments parse(int argc, char** argv) {
    arguments given;
    given.load.seed = std::random_device{}() % 1'000'000;
    CLI::App app{"Sends orders to the order service from many connections, and checks what has become of them.",
                 "load"};
    const auto add = [&](const char* name, auto& value, const char* what, const char* type) {
        return app.add_option(name, value, what)->type_name(type)->capture_default_str();
    };
    add("--port", given.load.port, "Where nginx listens, on 127.0.0.1", "N");
    add("--connections", given.load.connections, "So many clients", "N")->check(CLI::Range(1, 19'000).description(""));
    add("--rate", given.load.rate,
        "Requests per second, however fast they are answered; 0: each client sends as soon "
        "as it has its answer",
        "N");
    add("--seconds", given.load.seconds, "How long; 0: as long as --requests last", "N");
    add("--requests", given.load.requests, "How many; 0: as many as --seconds allow", "N");
    add("--warm-up", given.load.warm_up, "Seconds before latencies count", "N");
    add("--retry-share", given.load.retry_share, "Of all requests, those with a key that was sent before", "SHARE")
        ->check(CLI::Range(0.0, 0.95).description(""));
    add("--api-key", given.load.api_keys, "Each order is of one of these clients", "KEY")->required();
    add("--seed", given.load.seed, "Repeats a run, roughly", "N");
    add("--home", given.home, "The directory with the processes' NAME.pid", "DIRECTORY");
    add("--shop", given.shop, "The service's database", "CONNINFO");
    add("--read-model", given.read_model, "The read model's, which is waited for", "CONNINFO");
    add("--kill", given.kill, "Kill one of each kind on the way, by COMMAND KIND", "COMMAND");
    add("--json", given.json, "Write the result there, too", "FILE");
    try {
        app.parse(argc, argv);
        if (given.load.seconds <= 0 && given.load.requests == 0)
            throw CLI::ValidationError{"either --seconds or --requests is needed"};
        if (!given.kill.empty() && given.load.seconds <= 0) throw CLI::ValidationError{"--kill needs --seconds"};
    } catch (const CLI::ParseError& wrong) {
        std::exit(app.exit(wrong) == 0 ? 0 : 2); // it may be --help
    }
    given.load.keys = "load-" + std::to_string(given.load.seed) + '-' +
                      std::to_string(std::chrono::system_clock::now().time_since_epoch().count() / 1'000'000) + '-';
    return given;
}

// A descriptor for each connection, as far as we may.
void allow_files() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

} // namespace

int main(int argc, char** argv) try {
    const arguments given = parse(argc, argv);
    allow_files();
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND); // a second one kills
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    return run(given);
} catch (const std::exception& failure) {
    std::cerr << "load: " << failure.what() << '\n';
    return 1;
}
