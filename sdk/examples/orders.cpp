// Books an order, takes it for paid, or cancels it, each once, however often and in whatever order one asks: a
// cancelled order is never booked again, nor a paid one cancelled. After orders.sql:
//     orders 'dbname=shop' order-4711 book|pay|cancel
#include <idem/idem.hpp>

#include <iostream>

int main(int argc, char** argv) try {
    idem::client client{argc > 1 ? argv[1] : ""};
    const std::string key = argc > 2 ? argv[2] : "order-4711", what = argc > 3 ? argv[3] : "book";

    if (what == "book") {
        const std::string order = R"({"id": ")" + key + R"(", "pence": 350})";
        const auto booked = idem::run(client, key, order, [&](idem::transaction& tx) {
            tx.exec("INSERT INTO orders VALUES ($1, 350)", {key});
            idem::compensate_with(tx, key, "undo_order(jsonb)", order);
            return order;
        });
        std::cout << to_string(booked.status()) << '\n';
    } else if (what == "pay") {
        const auto paid = idem::transition(client.connection(), {.table = "orders", .machine = "order"}, key, "paid");
        std::cout << to_string(paid.status()) << ", is " << paid.state().value_or("nowhere") << ", may become";
        for (const std::string& next : paid.allowed()) std::cout << ' ' << next;
        std::cout << '\n';
    } else {
        const auto cancelled = idem::cancel(client.connection(), key, {.reason = "second thoughts"});
        std::cout << to_string(cancelled.status());
        if (const auto& step = cancelled.step())
            std::cout << ", no way from " << step->from.value_or("") << " to " << step->to;
        std::cout << '\n';
    }
} catch (const std::exception& failure) {
    std::cerr << failure.what() << '\n';
    return 1;
}
