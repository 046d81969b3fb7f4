// idem-relay: hands the messages of an external consumer on to a broker, or to standard output.
#include "metrics.hpp"
#include "relay.hpp"
#include "sink.hpp"

#include <idem/errors.hpp>
#include <idem/version.hpp>

#include <CLI/CLI.hpp>

#include <libpq-fe.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>

namespace {

enum status { done, failed, misused, disconnected };

struct arguments {
    idem::relay::options relay{};
    std::string sink = "stdout://", metrics{};
};

constexpr const char* description =
    "Hands the messages of an external consumer on, in the order of each key, and waits for more: to a stream of NATS\n"
    "JetStream, or to standard output as JSON, one to a line. A batch is acknowledged when it is safe on the other "
    "side.\n\n"
    "That is AT LEAST ONCE: when idem-relay, a server or a connection dies between the two, the batch comes again. "
    "Let\n"
    "the receiver drop what it has seen: by source, lane and seq with idem_consume_seq() if it works in PostgreSQL, "
    "or\n"
    "by message_id. id is not in order of delivery: do not remember the highest.\n";

constexpr const char* footer =
    "Sinks:\n"
    "  stdout://\n"
    "  nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/STREAM][?subject=PREFIX&creds=FILE]\n"
    "      or tls://...; STREAM (idem) is made if there is none; subjects are PREFIX.TOPIC, PREFIX is STREAM by "
    "default\n\n"
    "A JSON line has id, lane, seq, source, message_id, topic, key, type, created_at, headers and payload; key, type "
    "and\n"
    "headers may be null. The seq of a message that was given up comes with \"payload\":null,\"tombstone\":true.\n\n"
    "Several processes may serve a consumer: a lane that one has in hand, the others leave alone.\n"
    "SIGTERM and SIGINT end it after the batches in hand, a second one at once. Lost connections are made again.\n\n"
    "Exit status: 0 done, or told to stop; 1 the server refused something, or standard output is gone; 2 wrong usage;\n"
    "3 no connection to the database, or with --once to the sink.\n\n"
    "Examples:\n"
    "  idem-relay --dsn 'dbname=shop' --consumer mail --topics orders,refunds | ./send-mail\n"
    "  idem-relay --dsn postgresql://shop@db/shop --consumer audit --once >> audit.jsonl\n"
    "  idem-relay --dsn 'dbname=shop' --consumer events --sink nats://broker/SHOP --metrics 127.0.0.1:9187\n";

arguments parse(int argc, char** argv) {
    arguments given;
    CLI::App app{description, "idem-relay"};
    app.footer(footer);
    app.get_formatter()->column_width(28);
    app.set_help_flag("-h,--help", "Show this");
    app.set_version_flag("--version", "idem-relay " IDEM_VERSION, "Show the version");
    app.add_option("--dsn", given.relay.dsn, "Connection string or URI; for what it leaves out, PGHOST and so on")
        ->type_name("CONNINFO");
    app.add_option("--consumer", given.relay.consumer, "Whose messages; it is external, see idem_subscribe()")
        ->type_name("NAME")
        ->required();
    app.add_option("--sink", given.sink, "Where to (stdout://), see below")->type_name("URL");
    app.add_option("--topics", given.relay.topics,
                   "If there is no such consumer yet, subscribe it to these, from now on")
        ->type_name("TOPIC,...");
    app.add_option("--lanes", given.relay.lanes, "Give it so many lanes, if it has fewer; each has a connection")
        ->type_name("N")
        ->check(CLI::Range(1, 256).description(""));
    app.add_option("--batch", given.relay.batch, "How many messages at most to a transaction (1000)")
        ->type_name("N")
        ->check(CLI::Range(1, 100'000).description(""));
    int linger = 0;
    app.add_option("--linger", linger, "Wait so long after a batch that was not full: fewer, larger ones (0)")
        ->type_name("MS")
        ->check(CLI::Range(0, 60'000).description(""));
    app.add_option("--metrics", given.metrics, "Serve Prometheus from there")->type_name("HOST:PORT");
    app.add_flag("--once", given.relay.once, "Hand on what there is, and end");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& wrong) {
        std::exit(app.exit(wrong) == 0 ? done : misused); // it may be --help
    }
    given.relay.linger = std::chrono::milliseconds{linger};
    return given;
}

idem::relay::relay* to_stop = nullptr;

void stop_on_signals(idem::relay::relay& relay) {
    to_stop = &relay;
    struct sigaction action {};
    action.sa_handler = [](int) { to_stop->stop(); };
    action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
}

std::unique_ptr<idem::relay::metrics> metrics_for(const arguments& given) {
    if (given.metrics.empty()) return std::make_unique<idem::relay::metrics>();
#ifdef IDEM_RELAY_METRICS
    return idem::relay::serve_metrics(given.metrics, given.relay.consumer);
#else
    throw idem::relay::bad_address{"idem-relay was built without prometheus-cpp"};
#endif
}

// What no time will mend.
void check_conninfo(const std::string& text) {
    char* why = nullptr;
    PQconninfoOption* const parsed = PQconninfoParse(text.c_str(), &why);
    const std::string what = why != nullptr ? why : "";
    PQconninfoFree(parsed);
    PQfreemem(why);
    if (!what.empty()) throw idem::error{"--dsn: " + what, idem::sqlstate::cannot_connect};
}

void run(const arguments& given) {
    check_conninfo(given.relay.dsn);
    setenv("PGCLIENTENCODING", "UTF8", 1); // as JSON is
    setenv("PGTZ", "UTC", 1);
    const idem::relay::sinks sinks = idem::relay::open_sinks(given.sink, given.relay.consumer);
    const auto metrics = metrics_for(given);
    idem::relay::relay relay{given.relay, sinks, *metrics};
    stop_on_signals(relay);
    relay.run();
}

status complain(const std::string& what, status as) {
    std::cerr << "idem-relay: " << what << '\n';
    return as;
}

} // namespace

int main(int argc, char** argv) try {
    run(parse(argc, argv));
    return done;
} catch (const idem::relay::bad_url& wrong) {
    return complain(std::string{"--sink: "} + wrong.what(), misused);
} catch (const idem::relay::bad_address& wrong) {
    return complain(std::string{"--metrics: "} + wrong.what(), misused);
} catch (const idem::relay::away& gone) {
    return complain(gone.what(), disconnected);
} catch (const idem::error& refused) {
    return complain(refused.what(), refused.sqlstate() == idem::sqlstate::cannot_connect ? disconnected : failed);
} catch (const std::exception& failure) {
    return complain(failure.what(), failed);
}
