// The same order loop four times: sdk_loop plain|idiom|idem|idem_last CLIENTS REQUESTS
// "plain" is the order alone with libpq, "idiom" has the key written by hand with libpqxx, "idem" is idem::run, and
// "idem_last" leaves it the order as its last statement, which makes the response.
// Connects as libpq's environment says, prints requests a second.
#include <idem/idem.hpp>

#include <libpq-fe.h>
#include <pqxx/pqxx>

#include <algorithm>
#include <array>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr const char* insert_order = "INSERT INTO orders (customer, item, amount) VALUES ($1, $2, $3)";

void plain(PGconn* connection, const std::string& customer) {
    const auto expect = [&](PGresult* result, ExecStatusType status) {
        const std::unique_ptr<PGresult, decltype(&PQclear)> owner{result, PQclear};
        if (PQresultStatus(result) != status) throw std::runtime_error{PQerrorMessage(connection)};
    };
    const std::array values{customer.c_str(), "white hanging heart", "15.30"};
    expect(PQexec(connection, "BEGIN"), PGRES_COMMAND_OK);
    expect(PQexecParams(connection, insert_order, static_cast<int>(values.size()), nullptr, values.data(), nullptr,
                        nullptr, 0),
           PGRES_COMMAND_OK);
    expect(PQexec(connection, "COMMIT"), PGRES_COMMAND_OK);
}

// As it is usually written, on a connection with prepared statements.
void prepare_idiom(pqxx::connection& connection) {
    connection.prepare("claim",
                       "INSERT INTO idiom_keys (key, status) VALUES ($1, 'started') ON CONFLICT (key) DO NOTHING");
    connection.prepare("order", insert_order);
    connection.prepare("complete", "UPDATE idiom_keys SET status = 'completed', response = $2 WHERE key = $1");
}

void idiom(pqxx::connection& connection, const std::string& customer) {
    const std::string key = customer + "-91b7-c2a60f3e-sdk";
    pqxx::work tx{connection};
    if (tx.exec_prepared("claim", key).affected_rows() != 1) throw std::runtime_error{"a new key was there"};
    tx.exec_prepared("order", customer, "white hanging heart", "15.30");
    tx.exec_prepared("complete", key, R"({"order": 4711, "status": "created"})");
    tx.commit();
}

void with_idem(idem::client& client, const std::string& customer, bool last) {
    const std::string key = customer + "-91b7-c2a60f3e-sdk";
    const std::string request = R"({"customer": )" + customer + R"(, "item": "white hanging heart", "amount": 15.30})";
    const auto outcome = idem::run(client, key, request, [&](idem::transaction& tx) -> idem::work_result {
        if (last)
            return idem::last_statement{std::string{insert_order} +
                                            " RETURNING jsonb_build_object('order', id, 'status', 'created')",
                                        {customer, "white hanging heart", "15.30"}};
        tx.exec(insert_order, {customer, "white hanging heart", "15.30"});
        return R"({"order": 4711, "status": "created"})";
    });
    if (outcome.status() != idem::run_status::executed) throw std::runtime_error{"a new key was not executed"};
}

// What each contestant does for one customer, on a connection of its own.
std::function<void(const std::string&)> worker(const std::string& contestant) {
    if (contestant == "idiom") {
        auto connection = std::make_shared<pqxx::connection>();
        prepare_idiom(*connection);
        return [connection](const std::string& customer) { idiom(*connection, customer); };
    }
    auto client = std::make_shared<idem::client>(std::string{});
    if (contestant.starts_with("idem")) {
        const bool last = contestant == "idem_last";
        return [client, last](const std::string& customer) { with_idem(*client, customer, last); };
    }
    return [client](const std::string& customer) { plain(client->connection(), customer); };
}

double requests_per_second(const std::string& contestant, int clients, int requests) {
    using clock = std::chrono::steady_clock;
    clock::time_point began;
    std::barrier connected{clients, [&]() noexcept { began = clock::now(); }};
    std::exception_ptr failure;
    std::mutex failing;
    {
        std::vector<std::jthread> threads;
        for (int i = 0; i < clients; ++i)
            threads.emplace_back([&] {
                try {
                    std::mt19937_64 random{std::random_device{}()};
                    std::uniform_int_distribution<long long> customer{100'000'000'000'000'000, 999'999'999'999'999'999};
                    const auto work = worker(contestant);
                    connected.arrive_and_wait();
                    for (int n = 0; n < requests / clients; ++n) work(std::to_string(customer(random)));
                } catch (...) {
                    connected.arrive_and_drop();
                    const std::scoped_lock lock{failing};
                    failure = std::current_exception();
                }
            });
    }
    if (failure) std::rethrow_exception(failure);
    return requests / std::chrono::duration<double>(clock::now() - began).count();
}

} // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string> args(argv + 1, argv + argc);
        constexpr std::array contestants{"plain", "idiom", "idem", "idem_last"};
        if (args.size() != 3 || std::ranges::find(contestants, args[0]) == contestants.end()) {
            std::fputs("usage: sdk_loop plain|idiom|idem|idem_last CLIENTS REQUESTS\n", stderr);
            return 2;
        }
        std::printf("tps = %.1f\n", requests_per_second(args[0], std::stoi(args[1]), std::stoi(args[2])));
    } catch (const std::exception& e) {
        std::fprintf(stderr, "sdk_loop: %s\n", e.what());
        return 1;
    }
}
