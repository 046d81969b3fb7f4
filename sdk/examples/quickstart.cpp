// Books an order once, however often it is asked for. Run it twice with the same key, after
//     CREATE TABLE orders (id bigserial PRIMARY KEY, item text, pence bigint);
//
//     c++ -std=c++20 quickstart.cpp $(pkg-config --cflags --libs idem) && ./a.out 'dbname=shop' order-4711
#include <idem/idem.hpp>

#include <iostream>

int main(int argc, char** argv) {
    idem::client client{argc > 1 ? argv[1] : ""};
    const std::string key = argc > 2 ? argv[2] : "order-4711";

    auto outcome = idem::run(client, key, R"({"item": "tea", "pence": 350})", [&](idem::transaction& tx) {
        auto order = tx.exec("INSERT INTO orders (item, pence) VALUES ($1, $2) RETURNING id", {"tea", "350"});
        return R"({"order": )" + std::string{order.text(0, 0)} + "}";
    });
    std::cout << to_string(outcome.status()) << ' ' << outcome.response() << '\n';
}
