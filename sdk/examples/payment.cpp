// Pays for an order through a provider elsewhere, once, whatever crashes on the way. The call to the provider cannot be
// rolled back, so this is no transaction but a lease, and a transaction for each step. After payment.sql here and
// provider.sql there:
//     payment 'dbname=shop' 'dbname=provider' order-4711 350
// Ask again after a crash, or let two ask at once: it goes on at the first step that was not done.
#include <idem/idem.hpp>

#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

namespace {

using namespace std::chrono_literals;

// How long others wait after a crash; for you rather 30 s.
constexpr std::chrono::milliseconds lease_length = 2s;

// Where a crash is tried: at the nth of these places the test has it die.
void here() {
    static int places = 0;
    static const char* const at = std::getenv("IDEM_EXAMPLE_DIES_AT");
    if (at != nullptr && std::atoi(at) == ++places) _exit(9);
}

class payment {
public:
    payment(PGconn* shop, PGconn* provider, const idem::lease& held) : shop_{shop}, provider_{provider}, held_{held} {}

    void go_on(const std::string& pence) {
        std::string done = held_.checkpoint() ? held_.checkpoint()->step : "";
        if (done.empty()) {
            step(done = "registered", "null", [&](idem::transaction& tx) {
                idem::compensate_with(tx, held_, "void_payment(jsonb)", R"({"key": ")" + held_.key() + R"("})", 30min);
            });
        }
        if (done == "registered") {
            const std::string charge = call("SELECT authorise($1, $2)", {held_.key().c_str(), pence.c_str()});
            step(done = "charged", charge, [&](idem::transaction& tx) {
                tx.exec("INSERT INTO payments VALUES ($1, $2, $3)", {held_.key(), pence, charge});
            });
        }
        if (done == "charged") {
            const std::string state = call("SELECT capture($1)", {held_.key().c_str()});
            step(done = "captured", "null", [&](idem::transaction& tx) {
                tx.exec("UPDATE payments SET state = $2 WHERE key = $1", {held_.key(), state});
            });
        }
    }

    // From here on it is not cancelled any more.
    std::string complete(const std::string& response) {
        std::string stored;
        commit([&](idem::transaction& tx) {
            stored = idem::complete(tx, held_, response);
            idem::confirm(tx, held_.key(), held_.scope());
        });
        return stored;
    }

private:
    // What a step does here commits with its checkpoint. If the lease is lost, that throws, and nothing was done.
    template <typename Work>
    void step(const std::string& name, const std::string& state, Work&& work) {
        commit([&](idem::transaction& tx) {
            work(tx);
            idem::checkpoint(tx, held_, name, state);
        });
    }
    template <typename Work>
    void commit(Work&& work) {
        idem::transaction tx{shop_, 10s};
        tx.exec("BEGIN");
        work(tx);
        here();
        tx.exec("COMMIT");
        here();
    }

    // Asks the provider, and renews the lease for as long as the answer takes.
    std::string call(const char* sql, std::initializer_list<const char*> parameters) {
        here();
        if (PQsendQueryParams(provider_, sql, static_cast<int>(parameters.size()), nullptr, parameters.begin(), nullptr,
                              nullptr, 0) == 0)
            throw std::runtime_error{PQerrorMessage(provider_)};
        here();
        while (PQconsumeInput(provider_) != 0 && PQisBusy(provider_) != 0) {
            pollfd readable{PQsocket(provider_), POLLIN, 0};
            if (poll(&readable, 1, lease_length.count() / 4) == 0) idem::renew(shop_, held_, lease_length);
        }
        const idem::result answer{PQgetResult(provider_)};
        if (PQresultStatus(answer.get()) != PGRES_TUPLES_OK) throw std::runtime_error{PQerrorMessage(provider_)};
        while (idem::result{PQgetResult(provider_)}.get() != nullptr) {}
        here();
        if (answer.is_null(0, 0) || answer.text(0, 0) == "void") throw std::runtime_error{"the payment is void"};
        return std::string{answer.text(0, 0)};
    }

    PGconn *shop_, *provider_;
    const idem::lease& held_;
};

} // namespace

int main(int argc, char** argv) try {
    if (argc != 5) throw std::runtime_error{"payment SHOP PROVIDER KEY PENCE"};
    idem::client shop{argv[1]}, provider{argv[2]};
    const std::string key = argv[3], pence = argv[4];

    const auto held =
        idem::claim_lease(shop.connection(), key, R"({"pence": )" + pence + "}", lease_length, {.wait = 30s});
    here();
    std::string response = held.status() == idem::claim_status::completed ? held.response() : "";
    if (held) {
        payment paying{shop.connection(), provider.connection(), held};
        paying.go_on(pence);
        response = paying.complete(R"({"paid": )" + pence + "}");
    }
    std::cout << to_string(held.status()) << ' ' << response << '\n';
} catch (const std::exception& failure) {
    std::cerr << failure.what() << '\n';
    return 1;
}
