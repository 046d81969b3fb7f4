// Keeps the takings of each item from messages about orders, each counted once: kill it with -9 as you like. After
//     CREATE TABLE takings (item text PRIMARY KEY, pence bigint NOT NULL);
//     SELECT idem_subscribe('takings', ARRAY['orders'], lanes => 8);
// it counts what whoever books orders publishes in the same transaction:
//     SELECT idem_publish('orders', '{"item": "tea", "pence": 350}', key => 'tea');
// consumer [CONNINFO [WORKERS]]: so many threads share the lanes.
#include <idem/idem.hpp>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <list>
#include <string>
#include <thread>
#include <vector>

namespace {

void count(idem::transaction& tx, const idem::message& m) {
    tx.exec("INSERT INTO takings AS t SELECT m->>'item', (m->>'pence')::bigint FROM CAST($1 AS jsonb) AS m "
            "ON CONFLICT (item) DO UPDATE SET pence = t.pence + EXCLUDED.pence",
            {m.payload});
}

// It comes again, a few times; then it is in idem_dead_letters.
void complain(const idem::message& m, const std::exception& failure) {
    std::cerr << "message " << m.id << ", attempt " << m.attempt << ": " << failure.what() << '\n';
}

} // namespace

int main(int argc, char** argv) try {
    const std::string conninfo = argc > 1 ? argv[1] : "";
    sigset_t signals; // of which the threads know nothing
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);

    std::list<idem::client> clients;
    std::list<idem::consumer> consumers;
    std::vector<std::jthread> workers;
    for (int i = 0; i < (argc > 2 ? std::atoi(argv[2]) : 1); ++i) {
        clients.emplace_back(conninfo);
        consumers.emplace_back(clients.back(), "takings", count, idem::consumer_options{.on_failure = complain});
        workers.emplace_back([&one = consumers.back()] { one.run(); });
    }
    int signal = 0;
    sigwait(&signals, &signal);
    for (idem::consumer& each : consumers) each.stop();
} catch (const std::exception& failure) {
    std::cerr << failure.what() << '\n';
    return 1;
}
