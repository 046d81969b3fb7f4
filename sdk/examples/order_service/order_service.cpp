// order-service: orders over HTTP, each done once. After orders.sql:
//     order-service --listen 127.0.0.1:8081 --dsn 'dbname=shop'
// docs/order-service.md says what it answers.
#include "access_log.hpp"
#include "api.hpp"
#include "batcher.hpp"
#include "cache.hpp"
#include "http.hpp"
#include "metrics.hpp"
#include "watch.hpp"

#include <CLI/CLI.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <spdlog/async.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <iostream>

namespace {

using namespace std::chrono_literals;

enum status { done, failed, misused };

struct arguments {
    std::string listen = "127.0.0.1:8081", access_log = "-";
    shop::http_options http{};
    shop::batcher_options database{};
    std::size_t cache_mb = 64;
    int drain_seconds = 20;
};

constexpr const char* footer =
    "SIGTERM and SIGINT end it, once the requests in hand are answered; a second one at once. SIGHUP has it read the\n"
    "clients again.\n\n"
    "Exit status: 0 told to stop, and all was answered; 1 it failed, or not all was answered in time; 2 wrong usage.\n";

// A path has a slash. What a killed service left there is in the way.
boost::asio::generic::stream_protocol::endpoint place_of(const std::string& where) {
    if (where.find('/') != std::string::npos) {
        if (where.size() >= sizeof(sockaddr_un::sun_path))
            throw CLI::ValidationError{"--listen", "the path is too long"};
        unlink(where.c_str());
        return boost::asio::local::stream_protocol::endpoint{where};
    }
    using boost::asio::ip::tcp;
    const auto colon = where.rfind(':');
    if (colon == std::string::npos) throw CLI::ValidationError{"--listen", "it is neither HOST:PORT nor a path"};
    boost::asio::io_context io;
    return tcp::resolver{io}
        .resolve(where.substr(0, colon), where.substr(colon + 1), tcp::resolver::passive)
        .begin()
        ->endpoint();
}

arguments parse(int argc, char** argv) {
    arguments given;
    CLI::App app{"Orders over HTTP, each done once.", "order-service"};
    app.footer(footer);
    app.get_formatter()->column_width(28);
    app.set_help_flag("-h,--help", "Show this");
    app.add_option("--listen", given.listen, "Where to serve: HOST:PORT, or the path of a Unix socket (127.0.0.1:8081)")
        ->type_name("WHERE");
    app.add_option("--dsn", given.database.conninfo,
                   "The database, a connection string or URI; for what it leaves out, PGHOST and so on")
        ->type_name("CONNINFO");
    app.add_option("--threads", given.database.threads, "So many connections to it (2)")
        ->type_name("N")
        ->check(CLI::Range(1, 64).description(""));
    app.add_option("--queue", given.database.most_waiting,
                   "So many requests may wait, more are told to come again (10000)")
        ->type_name("N")
        ->check(CLI::Range(1, 1'000'000).description(""));
    app.add_option("--connections", given.http.most_connections, "So many clients (20000)")
        ->type_name("N")
        ->check(CLI::Range(1, 1'000'000).description(""));
    app.add_option("--cache", given.cache_mb, "Keep responses in so much memory (64)")
        ->type_name("MB")
        ->check(CLI::Range(0, 65'536).description(""));
    app.add_option("--drain", given.drain_seconds, "How long the end may take (20)")
        ->type_name("SECONDS")
        ->check(CLI::Range(1, 3600).description(""));
    app.add_option("--access-log", given.access_log, "A file, - for standard output (-), or off")->type_name("FILE");
    try {
        app.parse(argc, argv);
        given.http.at = place_of(given.listen);
    } catch (const CLI::ParseError& wrong) {
        std::exit(app.exit(wrong) == 0 ? done : misused); // it may be --help
    }
    return given;
}

// A thread of its own writes it. When that cannot follow, lines are lost, and no request waits.
std::shared_ptr<spdlog::logger> access_logger(const std::string& name) {
    if (name == "off") return nullptr;
    spdlog::init_thread_pool(256, 1);
    std::shared_ptr<spdlog::sinks::sink> sink;
    if (name == "-")
        sink = std::make_shared<spdlog::sinks::stdout_sink_mt>();
    else
        sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(name);
    auto logger = std::make_shared<spdlog::async_logger>("access", sink, spdlog::thread_pool(),
                                                         spdlog::async_overflow_policy::overrun_oldest);
    logger->set_formatter(std::make_unique<spdlog::pattern_formatter>("%v", spdlog::pattern_time_type::utc, ""));
    logger->flush_on(spdlog::level::info);
    return logger;
}

void complain_to_stderr() {
    auto logger = spdlog::stderr_logger_mt("service");
    logger->set_formatter(std::make_unique<spdlog::pattern_formatter>("time=%Y-%m-%dT%H:%M:%S.%fZ level=%l %v",
                                                                      spdlog::pattern_time_type::utc));
    spdlog::set_default_logger(logger);
}

// A descriptor for each client.
void raise_limits() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

class service {
public:
    explicit service(const arguments& given)
        : given_{given},
          log_{access_logger(given.access_log)},
          http_{io_, given.http, [this](shop::http_connection& to) { return api_.exchange(to); }},
          watch_{io_, given.database.conninfo, calls_.connected(),
                 [this](shop::clients all) { api_.known = std::move(all); }} {
        // Whoever may enter its directory may connect, as anyone may to a port.
        if (given_.listen.find('/') != std::string::npos) chmod(given_.listen.c_str(), 0666);
        await_signal();
        tick();
    }

    status run() {
        io_.run();
        log_.flush();
        if (!ended_well_) {
            spdlog::error("not all was answered in time");
            spdlog::shutdown();
            std::_Exit(failed); // threads wait for the database
        }
        return done;
    }

private:
    void await_signal() {
        signals_.async_wait([this](const boost::system::error_code& wrong, int signal) {
            if (wrong) return;
            if (signal == SIGHUP)
                watch_.refresh();
            else if (!api_.draining)
                drain();
            else
                io_.stop();
            await_signal();
        });
    }

    void drain() {
        api_.draining = true;
        http_.drain([this] {
            ended_well_ = true;
            io_.stop();
        });
        end_.expires_after(std::chrono::seconds{given_.drain_seconds});
        end_.async_wait([this](const boost::system::error_code& wrong) {
            if (!wrong) io_.stop();
        });
    }

    void tick() {
        log_.flush();
        calls_.give_up_overdue();
        counts_.is_now({http_.connections(), calls_.waiting(), responses_.bytes(), calls_.connected()});
        timer_.expires_after(100ms);
        timer_.async_wait([this](const boost::system::error_code& wrong) {
            if (!wrong) tick();
        });
    }

    const arguments& given_;
    boost::asio::io_context io_{1};
    shop::metrics counts_{};
    shop::cache responses_{given_.cache_mb << 20};
    shop::access_log log_;
    shop::batcher calls_{io_, given_.database, counts_};
    shop::api api_{calls_, responses_, counts_, log_};
    shop::http_listener http_;
    shop::watch watch_;
    boost::asio::signal_set signals_{io_, SIGTERM, SIGINT, SIGHUP};
    boost::asio::steady_timer timer_{io_}, end_{io_};
    bool ended_well_ = false;
};

} // namespace

int main(int argc, char** argv) try {
    const arguments given = parse(argc, argv);
    complain_to_stderr();
    raise_limits();
    std::signal(SIGPIPE, SIG_IGN);
    setenv("PGCLIENTENCODING", "UTF8", 1); // as JSON is
    setenv("PGTZ", "UTC", 1);
    setenv("PGDATESTYLE", "ISO", 1);
    return service{given}.run();
} catch (const std::exception& failure) {
    std::cerr << "order-service: " << failure.what() << '\n';
    return failed;
}
