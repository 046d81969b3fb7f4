#include <idem/idem.hpp>

#include <iostream>

int main() {
    try {
        idem::client client{""};
        const auto outcome = idem::run(client, "outside", idem::unchecked, [](idem::transaction& tx) {
            return std::string{tx.exec("SELECT to_json(version())").text(0, 0)};
        });
        std::cout << to_string(outcome.status()) << ": " << outcome.response() << ", idem " << IDEM_VERSION << '\n';
    } catch (const idem::error& failure) {
        std::cerr << failure.sqlstate() << ": " << failure.what() << '\n';
        return 1;
    }
}
