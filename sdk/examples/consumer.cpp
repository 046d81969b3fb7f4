// Keeps the takings of each item from messages about orders, each counted once: kill it with -9 as you like. After
//     CREATE TABLE takings (item text PRIMARY KEY, pence bigint NOT NULL);
//     SELECT idem_subscribe('takings', ARRAY['orders']);
// it counts what whoever books orders publishes in the same transaction:
//     SELECT idem_publish('orders', '{"item": "tea", "pence": 350}');
#include <idem/idem.hpp>

#include <csignal>
#include <exception>
#include <iostream>

namespace {
idem::consumer* to_stop = nullptr;
}

int main(int argc, char** argv) try {
    idem::client client{argc > 1 ? argv[1] : ""};
    idem::consumer takings{client, "takings", [](idem::transaction& tx, const idem::message& m) {
                               tx.exec("INSERT INTO takings AS t "
                                       "SELECT m->>'item', (m->>'pence')::bigint FROM CAST($1 AS jsonb) AS m "
                                       "ON CONFLICT (item) DO UPDATE SET pence = t.pence + EXCLUDED.pence",
                                       {m.payload});
                           }};
    to_stop = &takings;
    std::signal(SIGTERM, [](int) { to_stop->stop(); });
    std::signal(SIGINT, [](int) { to_stop->stop(); });
    takings.run();
} catch (const std::exception& failure) {
    std::cerr << failure.what() << '\n';
    return 1;
}
