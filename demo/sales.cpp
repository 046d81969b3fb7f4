// The consumer: keeps a table of daily sales from the messages that orders publish. Where the server is, libpq's
// environment says. Ends when told to by SIGTERM.
#include <idem/consumer.hpp>

#include <csignal>
#include <exception>
#include <iostream>

namespace {
idem::consumer* to_stop = nullptr;
}

int main() try {
    idem::client client{"options='-c search_path=demo_with_idem,public' application_name=sales"};
    idem::consumer sales{client,
                         "daily_sales",
                         [](idem::transaction& tx, const idem::message& m) {
                             tx.exec("INSERT INTO daily_sales AS s "
                                     "SELECT (sale->>'placed_at')::date, (sale->>'pence')::bigint "
                                     "FROM (SELECT $1::jsonb, nextval('taken_up')) AS m (sale) "
                                     "ON CONFLICT (day) DO UPDATE SET pence = s.pence + EXCLUDED.pence",
                                     {m.payload});
                         },
                         {.batch = 20}};
    to_stop = &sales;
    std::signal(SIGTERM, [](int) { to_stop->stop(); });
    sales.run();
} catch (const std::exception& e) {
    std::cerr << "sales: " << e.what() << '\n';
    return 1;
}
