// What the tests share: names, direct access to the server, and the two ways to run.
#pragma once

#include <idem/idem.hpp>
#include <idem/pqxx.hpp>

#include <gtest/gtest.h>

#include <proxy.hpp>

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

namespace test {

using namespace std::chrono_literals;

inline std::string environment(const char* name, const char* otherwise) {
    const char* const value = std::getenv(name);
    return value != nullptr ? value : otherwise;
}

// A key that no earlier run of the tests has used.
inline std::string fresh_key(std::string_view what = "key") {
    static std::atomic<int> count{0};
    static const auto start = std::chrono::system_clock::now().time_since_epoch().count();
    return std::string{what} + '-' + std::to_string(getpid()) + '-' + std::to_string(start) + '-' +
           std::to_string(++count);
}

// Past idem: a plain connection to look at the server with.
class session {
public:
    explicit session(const std::string& conninfo = "") : raw_{PQconnectdb(conninfo.c_str())} {
        if (PQstatus(get()) != CONNECTION_OK) throw std::runtime_error{PQerrorMessage(get())};
    }

    [[nodiscard]] PGconn* get() const { return raw_.get(); }
    idem::result exec(const std::string& sql) { return idem::transaction{get(), 60s}.exec(sql); }
    std::string value(const std::string& sql) { return std::string{exec(sql).text(0, 0)}; }
    std::string literal(const std::string& text) { // for texts that tests make up
        return "'" + text + "'";
    }
    std::string status(const std::string& key) { return value("SELECT status FROM idem_status(" + literal(key) + ")"); }

private:
    struct finish {
        void operator()(PGconn* connection) const { PQfinish(connection); }
    };
    std::unique_ptr<PGconn, finish> raw_; // also when there is no server
};

inline std::string through(const idem::test::proxy& proxy) {
    return "host=127.0.0.1 sslmode=disable gssencmode=disable port=" + std::to_string(proxy.port());
}

inline idem::test::proxy::options upstream() {
    return {.host = environment("PGHOST", "127.0.0.1"), .port = environment("PGPORT", "5432")};
}

// The sqlstate of what `call` throws, "none" if it throws nothing, "other" for an exception not from the database.
template <typename Call>
std::string thrown(Call&& call) {
    try {
        call();
    } catch (...) {
        return idem::detail::pqxx_sqlstate_of_current().value_or("other");
    }
    return "none";
}

// The two ways to run, for typed tests.
struct libpq {
    using client = idem::client;
    static PGconn* raw(client& on) { return on.connection(); }
    static std::string value(idem::transaction& tx, const std::string& sql) {
        return std::string{tx.exec(sql).text(0, 0)};
    }
};
struct libpqxx {
    using client = idem::pqxx_client;
    static PGconn* raw(client& on) { return on.base().connection(); }
    static std::string value(pqxx::transaction_base& tx, const std::string& sql) {
        const pqxx::result rows = tx.exec(sql);
        return rows[0][0].c_str();
    }
};
using both = testing::Types<libpq, libpqxx>;

// A transaction of the caller's, in the two ways, for typed tests.
class over_libpq {
public:
    over_libpq() { open_.exec("BEGIN"); }
    PGconn* operator*() { return open_.get(); }
    std::string value(const std::string& sql) { return open_.value(sql); }
    void commit() { open_.exec("COMMIT"); }

private:
    session open_;
};

class over_libpqxx {
public:
    pqxx::transaction_base& operator*() { return tx_; }
    std::string value(const std::string& sql) { return libpqxx::value(tx_, sql); }
    void commit() { tx_.commit(); }

private:
    pqxx::connection connection_{};
    pqxx::work tx_{connection_};
};
using transactions = testing::Types<over_libpq, over_libpqxx>;

} // namespace test
