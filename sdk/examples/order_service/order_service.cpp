// order-service: orders over HTTP, each done once. See docs/order-service.md.
#include "api.hpp"
#include "batcher.hpp"
#include "http.hpp"
#include "watch.hpp"

#include <idem/errors.hpp>
#include <idem/version.hpp>

#include <CLI/CLI.hpp>

#include <boost/asio/signal_set.hpp>

#include <csignal>
#include <cstdlib>
#include <iostream>

namespace {

struct arguments {
    std::string listen = "127.0.0.1:8081";
    shop::http_options http{};
    shop::batcher_options database{};
};

arguments parse(int argc, char** argv) {
    arguments given;
    CLI::App app{"Orders over HTTP, each done once", "order-service"};
    app.add_option("--listen", given.listen, "Where (127.0.0.1:8081)")->type_name("HOST:PORT");
    app.add_option("--dsn", given.database.conninfo, "The database; for what it leaves out, PGHOST and so on")
        ->type_name("CONNINFO");
    app.add_option("--threads", given.database.threads, "Connections to the database (2)")
        ->type_name("N")
        ->check(CLI::Range(1, 64));
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& wrong) {
        std::exit(app.exit(wrong) == 0 ? 0 : 2);
    }
    return given;
}

} // namespace

int main(int argc, char** argv) try {
    arguments given = parse(argc, argv);
    const auto colon = given.listen.rfind(':');
    given.http.host = given.listen.substr(0, colon);
    given.http.port = given.listen.substr(colon + 1);
    setenv("PGCLIENTENCODING", "UTF8", 1); // as JSON is
    setenv("PGTZ", "UTC", 1);

    boost::asio::io_context io{1};
    shop::batcher calls{io, given.database};
    shop::api api{calls};
    shop::watch watch{io, given.database.conninfo, calls.connected(),
                      [&api](shop::clients known) { api.known = std::move(known); }};
    shop::http_listener http{io, given.http, [&api](shop::http_connection& to) { return api.exchange(to); }};
    boost::asio::signal_set signals{io, SIGTERM, SIGINT};
    signals.async_wait([&](const auto&, int) {
        api.draining = true;
        http.drain([&io] { io.stop(); });
    });
    io.run();
} catch (const std::exception& failure) {
    std::cerr << "order-service: " << failure.what() << '\n';
    return 1;
}
