// idem-relay: a consumer that writes its messages to standard output, for pipes and scripts.
#include <idem/idem.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <system_error>

namespace {

enum status { done, failed, misused, disconnected };

struct arguments {
    std::string dsn{}, consumer{}, topics{};
    int batch = 100;
    bool once = false;
};

constexpr const char* description =
    "Writes the messages of a consumer to standard output as JSON, one to a line, in the order of delivery, and waits\n"
    "for more. A batch is written out before it is acknowledged, in one transaction.\n\n"
    "Standard output is AT LEAST ONCE: when idem-relay, the server or the connection dies between the two, the batch "
    "is\n"
    "written again. Let the reader drop what it has seen, by \"id\"; ids are not in order of delivery, so remember\n"
    "them, not the highest. Work in the same database can be exactly once: see idem::consumer and idem_fetch().\n";

constexpr const char* footer =
    "Each line has id, topic, key, type, created_at, headers and payload; key, type and headers may be null.\n\n"
    "SIGTERM and SIGINT end it after the batch in hand, a second one at once. Lost connections are made again.\n\n"
    "Exit status: 0 done, or told to stop; 1 the server refused something, or standard output is gone; 2 wrong usage;\n"
    "3 no connection to the database.\n\n"
    "Examples:\n"
    "  idem-relay --dsn 'dbname=shop' --consumer mail --topics orders,refunds | ./send-mail\n"
    "  idem-relay --dsn postgresql://shop@db/shop --consumer audit --once >> audit.jsonl\n";

arguments parse(int argc, char** argv) {
    arguments given;
    CLI::App app{description, "idem-relay"};
    app.footer(footer);
    app.get_formatter()->column_width(28);
    app.set_help_flag("-h,--help", "Show this");
    app.set_version_flag("--version", "idem-relay " IDEM_VERSION, "Show the version");
    app.add_option("--dsn", given.dsn, "Connection string or URI; for what it leaves out, PGHOST and so on")
        ->type_name("CONNINFO");
    app.add_option("--consumer", given.consumer, "Whose messages; idem_subscribe() or --topics makes it known")
        ->type_name("NAME")
        ->required();
    app.add_option("--topics", given.topics, "If there is no such consumer yet, subscribe it to these, from now on")
        ->type_name("TOPIC,...");
    app.add_option("--batch", given.batch, "How many messages at most to a transaction (100)")
        ->type_name("N")
        ->check(CLI::Range(1, 100'000).description(""));
    app.add_flag("--once", given.once, "Write what there is, and end");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& wrong) {
        std::exit(app.exit(wrong) == 0 ? done : misused); // it may be --help
    }
    return given;
}

std::string quoted(std::string_view text) { return nlohmann::json(text).dump(); }
std::string quoted(const std::optional<std::string>& text) { return text ? quoted(std::string_view{*text}) : "null"; }

// Payload and headers go as they come, numbers digit by digit.
std::string line(const idem::message& m) {
    return R"({"id":)" + std::to_string(m.id) + R"(,"topic":)" + quoted(std::string_view{m.topic}) + R"(,"key":)" +
           quoted(m.key) + R"(,"type":)" + quoted(m.type) + R"(,"created_at":")" + m.created_at + R"(","headers":)" +
           m.headers.value_or("null") + R"(,"payload":)" + m.payload + "}\n";
}

void write_out(std::string_view text) {
    while (!text.empty()) {
        const auto written = write(STDOUT_FILENO, text.data(), text.size());
        if (written >= 0)
            text.remove_prefix(static_cast<std::size_t>(written));
        else if (errno != EINTR)
            throw std::system_error{errno, std::generic_category(), "standard output"};
    }
}

idem::consumer* to_stop = nullptr;

void stop_on_signals(idem::consumer& relay) {
    to_stop = &relay;
    struct sigaction action {};
    action.sa_handler = [](int) { to_stop->stop(); };
    action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
}

void relay(const arguments& given) {
    // Else the connection to the server would get its number.
    if (fcntl(STDOUT_FILENO, F_GETFD) < 0) throw std::system_error{errno, std::generic_category(), "standard output"};
    setenv("PGCLIENTENCODING", "UTF8", 1); // as JSON is
    idem::client client{given.dsn};
    if (!given.topics.empty())
        idem::transaction{client.connection(), std::chrono::seconds{10}}.exec(
            "SELECT idem_subscribe($1, string_to_array($2, ','))", {given.consumer, given.topics});

    std::string complaint; // the last one
    const auto on_retry = [&](const std::exception& failure) {
        const auto* const refused = dynamic_cast<const idem::error*>(&failure);
        if (given.once && refused != nullptr && refused->sqlstate() == idem::sqlstate::cannot_connect) throw *refused;
        if (complaint != failure.what()) std::cerr << "idem-relay: " << failure.what() << "; trying again\n";
        complaint = failure.what();
    };
    const auto write_batch = [&](idem::transaction&, std::span<const idem::message> batch) {
        std::string lines;
        for (const idem::message& each : batch) lines += line(each);
        write_out(lines);
        complaint.clear();
    };
    // A reader may pause for long.
    idem::consumer consumer{client,
                            given.consumer,
                            write_batch,
                            {.batch = given.batch, .idle_timeout = std::chrono::minutes{5}, .on_retry = on_retry}};
    stop_on_signals(consumer);
    if (given.once)
        consumer.drain();
    else
        consumer.run();
}

} // namespace

int main(int argc, char** argv) try {
    relay(parse(argc, argv));
    return done;
} catch (const idem::error& refused) {
    std::cerr << "idem-relay: " << refused.what() << '\n';
    if (refused.sqlstate() == "42704") std::cerr << "--topics makes a consumer known.\n";
    return refused.sqlstate() == idem::sqlstate::cannot_connect ? disconnected : failed;
} catch (const std::exception& failure) {
    std::cerr << "idem-relay: " << failure.what() << '\n';
    return failed;
}
