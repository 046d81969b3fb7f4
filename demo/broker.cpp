#include "broker.hpp"

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace intake {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

constexpr const char* consumer_name = "reports";

std::optional<std::string> find_server() {
    std::string places = std::string{std::getenv("PATH")} + ":/usr/sbin:/usr/local/sbin";
    for (std::size_t from = 0, to = 0; to != std::string::npos; from = to + 1) {
        to = places.find(':', from);
        const fs::path program = fs::path{places.substr(from, to - from)} / "nats-server";
        if (access(program.c_str(), X_OK) == 0) return program.string();
    }
    return {};
}

std::string free_port() {
    const int s = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    const bool bound = bind(s, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                       getsockname(s, reinterpret_cast<sockaddr*>(&address), &size) == 0;
    close(s);
    if (!bound) throw std::runtime_error("no free port on loopback");
    return std::to_string(ntohs(address.sin_port));
}

// The other database: its table, and what is done with a message.
void make_reports(database& db) {
    db.exec("DROP DATABASE IF EXISTS demo_reports WITH (FORCE)");
    db.exec("CREATE DATABASE demo_reports");
    database reports{"dbname=demo_reports"};
    reports.exec("CREATE EXTENSION idem; "
                 "CREATE TABLE daily_sales (day date PRIMARY KEY, pence bigint NOT NULL); "
                 "CREATE TABLE received (topic text, key text, type text, sale jsonb); "
                 "CREATE FUNCTION book(topic text, key text, type text, sale jsonb) RETURNS void LANGUAGE sql AS $$ "
                 "INSERT INTO received VALUES (topic, key, type, sale); "
                 "INSERT INTO daily_sales AS s VALUES ((sale->>'placed_at')::date, (sale->>'pence')::bigint) "
                 "ON CONFLICT (day) DO UPDATE SET pence = s.pence + EXCLUDED.pence $$");
}

} // namespace

bool broker::is_here() {
    return find_server() && fs::exists(beside("idem-relay")) && fs::exists(beside("nats_consumer"));
}

broker::broker(database& db, std::uint64_t seed) {
    make_reports(db);
    db.exec("SELECT public.idem_unsubscribe(consumer) FROM public.idem_subscriptions WHERE consumer = $1",
            {consumer_name});
    db.exec("SELECT public.idem_subscribe($1, ARRAY['sales'], lanes => 2, external => true)", {consumer_name});

    const fs::path home = fs::path{beside("broker")};
    fs::remove_all(home);
    fs::create_directories(home);
    const std::string port = free_port(), url = "nats://127.0.0.1:" + port;
    const auto log = [&](const char* name) { return (home / name).string(); };
    server_ = std::make_unique<killed>(
        std::vector<std::string>{*find_server(), "-a", "127.0.0.1", "-p", port, "-js", "-sd", home.string()}, 1000ms,
        seed, log("nats-server.log"));
    relay_ = std::make_unique<killed>(
        std::vector<std::string>{beside("idem-relay"), "--consumer", consumer_name, "--sink", url + "/demo"}, 500ms,
        seed + 1, log("idem-relay.log"));
    receiver_ = std::make_unique<killed>(std::vector<std::string>{beside("nats_consumer"), url, "demo", "reports",
                                                                  "dbname=demo_reports", "SELECT book($1, $2, $3, $4)"},
                                         500ms, seed + 2, log("nats_consumer.log"));
}

void broker::finish(database& db) {
    for (const auto* each : {&server_, &relay_, &receiver_}) (*each)->spare();
    database reports{"dbname=demo_reports"};
    const std::string published =
        db.value("SELECT count(*) FROM public.idem_outbox WHERE topic = 'sales' AND created_at > "
                 "(SELECT since FROM public.idem_subscriptions WHERE consumer = 'reports')");
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (reports.value("SELECT count(*) FROM received") != published) {
        if (std::chrono::steady_clock::now() > until) throw std::runtime_error("the other database does not catch up");
        std::this_thread::sleep_for(20ms);
    }
    relay_->finish();
    receiver_->finish();

    db.exec("DROP SCHEMA IF EXISTS demo_reported CASCADE; CREATE SCHEMA demo_reported; "
            "CREATE TABLE demo_reported.daily_sales (LIKE demo_with_idem.daily_sales)");
    const auto rows = reports.exec("SELECT day, pence FROM daily_sales");
    for (int i = 0; i < rows.rows(); ++i)
        db.exec("INSERT INTO demo_reported.daily_sales VALUES ($1, $2)", {rows.text(i, 0), rows.text(i, 1)});
}

} // namespace intake
