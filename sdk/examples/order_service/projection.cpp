// The consumer: keeps the read model (projection.sql) from the messages that idem-relay has put into a stream of NATS
// JetStream. Several of these share the stream; kill them, the broker or the database as you like: each message is
// applied once, of every lane in the order of seq.
//
// A batch is one statement, and so one transaction and one round trip; what is acknowledged to the broker is committed.
// They take turns at fetching, or the broker would deal its messages out one by one, and all would wait for each
// other's. While one fetches, another applies what it has. What comes too early, before a neighbour has committed its
// batch or before the broker has taken that for dead, is kept and tried again.
#include <idem/idem.hpp>

#include <CLI/CLI.hpp>

#include <nats/nats.h>

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;

volatile std::sig_atomic_t stopped = 0;

constexpr int most_open = 100'000; // more than the relay's lanes × its --batch, or a gap could not be filled
constexpr std::chrono::nanoseconds ack_wait = 3s; // then the broker takes us for dead
constexpr auto patience = 100ms; // with neighbours: then what is missing comes from the broker, or not for a while

struct arguments {
    std::string nats = "nats://127.0.0.1:4222", stream = "SHOP", durable = "read-model", dsn{}, log = "info";
    int batch = 1'000;
};

void check(natsStatus status, const char* what) {
    if (status != NATS_OK) throw std::runtime_error{std::string{what} + ": " + natsStatus_GetText(status)};
}

// ---- a message ----

struct free_message {
    void operator()(natsMsg* m) const noexcept { natsMsg_Destroy(m); }
};

// Of its headers: control characters, blanks at either end and % come as %XX.
std::optional<std::string> header(natsMsg* m, const char* name) {
    const char* value = nullptr;
    if (natsMsgHeader_Get(m, name, &value) != NATS_OK) return {};
    std::string text{value};
    for (auto at = text.find('%'); at != std::string::npos && at + 2 < text.size(); at = text.find('%', at + 1))
        text.replace(at, 3, 1, static_cast<char>(std::stoi(text.substr(at + 1, 2), nullptr, 16)));
    return text;
}

struct delivery {
    // Throws what `value` and `stoll` do if it is not from idem-relay.
    explicit delivery(natsMsg* m)
        : source{header(m, "Idem-Source").value()},
          consumer{header(m, "Idem-Consumer").value()},
          message_id{header(m, "Idem-Message-Id").value()},
          key{header(m, "Idem-Key")},
          type{header(m, "Idem-Type")},
          lane{std::stoll(header(m, "Idem-Lane").value())},
          seq{std::stoll(header(m, "Idem-Seq").value())} {
        if (!header(m, "Idem-Tombstone"))
            payload.emplace(natsMsg_GetData(m), static_cast<std::size_t>(natsMsg_GetDataLength(m)));
        raw.reset(m);
    }

    // The id that the HTTP request came with, or was given: 00-TRACE-SPAN-FLAGS.
    [[nodiscard]] std::string_view trace() const {
        const char* value = nullptr;
        if (natsMsgHeader_Get(raw.get(), "traceparent", &value) != NATS_OK) return "-";
        const std::string_view all{value};
        return all.size() >= 35 ? all.substr(3, 32) : all;
    }

    std::unique_ptr<natsMsg, free_message> raw{};
    std::string source, consumer, message_id;
    std::optional<std::string> key, type, payload{};
    std::int64_t lane, seq;
    steady::time_point since = steady::now(); // when the broker heard of us last
    std::string status{};
};

// What is not applied yet, by source and lane, and seq.
using messages = std::map<std::pair<std::string, std::int64_t>, std::map<std::int64_t, delivery>>;
using batch = std::vector<delivery*>;

// From each lane what may be next: no more than `most` that follow each other, for behind a hole all would be too
// early.
batch next_of(messages& all, std::size_t most) {
    batch chosen;
    for (auto& [lane, waiting] : all) {
        std::int64_t next = waiting.empty() ? 0 : waiting.begin()->first;
        for (auto each = waiting.begin(); each != waiting.end() && each->first == next && chosen.size() < most;
             ++each) {
            chosen.push_back(&each->second);
            ++next;
        }
    }
    return chosen;
}

// ---- the database ----

// A parameter that is an array.
class array {
public:
    void add(std::int64_t n) { (text_ += separator()) += std::to_string(n); }
    void add(const std::string& value) {
        (text_ += separator()) += '"';
        for (const char c : value) {
            if (c == '"' || c == '\\') text_ += '\\';
            text_ += c;
        }
        text_ += '"';
    }
    void add(const std::optional<std::string>& value) { value ? add(*value) : void(text_ += separator() + "NULL"); }

    [[nodiscard]] std::string text() const { return text_.empty() ? "{}" : text_ + '}'; }

private:
    [[nodiscard]] std::string separator() const { return text_.empty() ? "{" : ","; }

    std::string text_{};
};

// All of them in one transaction; tells of each its status.
void apply(idem::client& database, std::span<delivery* const> some) {
    array sources, lanes, seqs, consumers, ids, types, keys, payloads;
    for (const delivery* m : some) {
        sources.add(m->source);
        lanes.add(m->lane);
        seqs.add(m->seq);
        consumers.add(m->consumer);
        ids.add(m->message_id);
        types.add(m->type);
        keys.add(m->key);
        payloads.add(m->payload);
    }
    idem::transaction tx{database.connection(), 30s};
    const idem::result rows = tx.exec("SELECT unnest(apply_messages($1, $2, $3, $4, $5, $6, $7, $8))",
                                      {sources.text(), lanes.text(), seqs.text(), consumers.text(), ids.text(),
                                       types.text(), keys.text(), payloads.text()});
    for (int i = 0; i < rows.rows(); ++i) some[static_cast<std::size_t>(i)]->status = rows.text(i, 0);
}

void refuse(idem::client& database, delivery& m, const std::string& why) {
    idem::transaction tx{database.connection(), 30s};
    m.status = tx.exec("SELECT refuse_message($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                       {m.source, std::to_string(m.lane), std::to_string(m.seq), m.consumer, m.message_id, m.type,
                        m.key, m.payload, why})
                   .text(0, 0);
    if (m.status == "refused") spdlog::error("message {} is refused: {}", m.message_id, why);
}

bool passes(std::string_view code) {
    return code.starts_with("08") || code.starts_with("57P") || code.starts_with("53") || code.starts_with("40");
}

bool is_of_a_message(std::string_view code) { return code.starts_with("22") || code.starts_with("23"); }

// Does the work, for as long as it takes. Nothing is acknowledged meanwhile, so nothing is lost; a commit of which we
// do not know makes duplicates of all.
template <typename Work>
void until_done(idem::client& database, Work&& work) {
    for (;;) {
        try {
            if (!database.connected()) database.reconnect(10s);
            return work();
        } catch (const idem::error& failure) {
            const std::string_view code = failure.sqlstate();
            if (stopped != 0 || !passes(code)) throw;
            spdlog::warn("{}; trying again", failure.what());
            if (!code.starts_with("40")) database.disconnect();
            std::this_thread::sleep_for(code.starts_with("40") ? 10ms : 200ms);
        }
    }
}

void apply_when_possible(idem::client& database, std::span<delivery* const> some) {
    try {
        until_done(database, [&] { apply(database, some); });
    } catch (const idem::error& failure) {
        if (!is_of_a_message(failure.sqlstate())) throw;
        if (some.size() == 1) return until_done(database, [&] { refuse(database, *some[0], failure.what()); });
        for (std::size_t i = 0; i < some.size(); ++i) apply_when_possible(database, some.subspan(i, 1));
    }
}

// One of all processes has its turn at a time; who loses its connection loses that too.
template <typename Work>
void in_turn(idem::client& database, const std::string& durable, Work&& work) {
    const auto lock = [&](const char* function) {
        until_done(database, [&] {
            idem::transaction{database.connection(), 30s}.exec(
                "SELECT " + std::string{function} + "(hashtextextended($1, 0))", {durable});
        });
    };
    lock("pg_advisory_lock");
    work();
    lock("pg_advisory_unlock");
}

// ---- the stream ----

class stream {
public:
    explicit stream(const arguments& given) : batch_{given.batch} {
        check(natsOptions_Create(&options_), "options");
        check(natsOptions_SetURL(options_, given.nats.c_str()), given.nats.c_str());
        check(natsOptions_SetMaxReconnect(options_, 1'000'000'000), "options");
        check(natsOptions_SetReconnectWait(options_, 250), "options");
        until_it_is_there([&] { return natsConnection_Connect(&connection_, options_); }, given.nats);
        check(natsConnection_JetStream(&js_, connection_, nullptr), "JetStream");

        jsConsumerConfig config;
        jsConsumerConfig_Init(&config);
        config.Durable = given.durable.c_str();
        config.AckPolicy = js_AckExplicit;
        config.AckWait = ack_wait.count();
        config.MaxAckPending = most_open;
        until_it_is_there([&] { return js_AddConsumer(nullptr, js_, given.stream.c_str(), &config, nullptr, nullptr); },
                          given.stream);
        jsSubOptions bind;
        jsSubOptions_Init(&bind);
        bind.Stream = given.stream.c_str();
        bind.Consumer = config.Durable;
        until_it_is_there(
            [&] { return js_PullSubscribe(&subscription_, js_, nullptr, config.Durable, nullptr, &bind, nullptr); },
            given.durable);
    }
    ~stream() {
        natsSubscription_Destroy(subscription_);
        jsCtx_Destroy(js_);
        natsConnection_Destroy(connection_);
        natsOptions_Destroy(options_);
    }
    stream(const stream&) = delete;
    stream& operator=(const stream&) = delete;

    // Adds what there is within this time.
    void fetch(messages& to, std::chrono::milliseconds within) {
        natsMsgList list{};
        const natsStatus status = natsSubscription_Fetch(&list, subscription_, batch_, within.count(), nullptr);
        if (status != NATS_OK) {
            if (status != NATS_TIMEOUT) std::this_thread::sleep_for(100ms); // it is away
            return;
        }
        for (natsMsg*& m : std::span{list.Msgs, static_cast<std::size_t>(list.Count)}) {
            try {
                delivery got{m};
                m = nullptr;
                to[{got.source, got.lane}].insert_or_assign(got.seq, std::move(got)); // another copy is as good
            } catch (const std::exception&) {
                spdlog::error("a message on {} is not from idem-relay: dropped", natsMsg_GetSubject(m));
                natsMsg_Term(m, nullptr);
            }
        }
        natsMsgList_Destroy(&list);
    }

private:
    template <typename Try>
    static void until_it_is_there(Try&& attempt, const std::string& what) {
        natsStatus status{};
        while ((status = attempt()) != NATS_OK) {
            if (stopped != 0) check(status, what.c_str());
            spdlog::warn("{}: {}; trying again", what, natsStatus_GetText(status));
            std::this_thread::sleep_for(500ms);
        }
    }

    int batch_;
    natsOptions* options_ = nullptr;
    natsConnection* connection_ = nullptr;
    jsCtx* js_ = nullptr;
    natsSubscription* subscription_ = nullptr;
};

// ---- the whole ----

// Acknowledges what is done with; an answer that is lost makes a duplicate. False: all came too early.
bool acknowledge(messages& all, const batch& tried) {
    bool progress = false;
    for (const delivery* m : tried) {
        if (m->status == "gap") continue;
        progress = true;
        natsMsg_Ack(m->raw.get(), nullptr);
        spdlog::info("status={} lane={} seq={} type={} key={} trace={}", m->status, m->lane, m->seq,
                     m->type.value_or("-"), m->key.value_or("-"), m->trace());
        all.at({m->source, m->lane}).erase(m->seq); // m is gone
    }
    std::erase_if(all, [](const auto& lane) { return lane.second.empty(); });
    return progress;
}

// So that the broker does not take us for dead while they wait.
void keep(messages& all) {
    const auto now = steady::now();
    for (auto& [lane, waiting] : all)
        for (auto& [seq, m] : waiting)
            if (now - m.since > ack_wait / 3) {
                natsMsg_InProgress(m.raw.get(), nullptr);
                m.since = now;
            }
}

void run(const arguments& given) {
    std::signal(SIGTERM, [](int) { stopped = 1; });
    std::signal(SIGINT, [](int) { stopped = 1; });
    stream from{given};
    idem::client database{given.dsn + " options='-c idle_session_timeout=10s'"}; // one that is frozen loses its turn
    messages all;
    auto progress = steady::now();
    auto pause = 5ms;
    while (stopped == 0) {
        if (all.empty() || steady::now() - progress > patience)
            in_turn(database, given.durable, [&] { from.fetch(all, all.empty() ? 1'000ms : patience / 2); });
        if (all.empty()) continue;
        const batch some = next_of(all, static_cast<std::size_t>(given.batch));
        apply_when_possible(database, some);
        if (acknowledge(all, some)) {
            progress = steady::now();
            pause = 5ms;
        } else {
            keep(all);
            std::this_thread::sleep_for(pause);
            pause = std::min(2 * pause, patience);
        }
    }
}

arguments parse(int argc, char** argv) {
    arguments given;
    CLI::App app{"Keeps the read model from what idem-relay has put into a stream of NATS JetStream.", "projection"};
    app.add_option("--nats", given.nats, "The broker")->type_name("URL")->capture_default_str();
    app.add_option("--stream", given.stream, "The relay's stream")->type_name("NAME")->capture_default_str();
    app.add_option("--durable", given.durable, "The stream's consumer, shared by all processes of one read model")
        ->type_name("NAME")
        ->capture_default_str();
    app.add_option("--dsn", given.dsn, "The read model's database; for what it leaves out, PGHOST and so on")
        ->type_name("CONNINFO");
    app.add_option("--batch", given.batch, "How many messages at most to a transaction")
        ->type_name("N")
        ->check(CLI::Range(1, 5'000).description(""))
        ->capture_default_str();
    app.add_option("--log", given.log, "info: a line for each message; warn: only what is wrong")
        ->check(CLI::IsMember({"info", "warn"}).description(""))
        ->capture_default_str();
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& wrong) {
        std::exit(app.exit(wrong) == 0 ? 0 : 2); // it may be --help
    }
    return given;
}

// Lines are written by a thread of their own. When they come faster than that, the oldest are lost, not the time.
void open_log(const std::string& level) {
    spdlog::init_thread_pool(32'768, 1);
    const auto log =
        std::make_shared<spdlog::async_logger>("projection", std::make_shared<spdlog::sinks::stdout_sink_mt>(),
                                               spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
    log->set_pattern("time=%Y-%m-%dT%H:%M:%S.%fZ level=%l %v", spdlog::pattern_time_type::utc);
    log->set_level(spdlog::level::from_str(level));
    log->flush_on(spdlog::level::warn);
    spdlog::set_default_logger(log);
    spdlog::flush_every(1s);
}

} // namespace

int main(int argc, char** argv) {
    const arguments given = parse(argc, argv);
    open_log(given.log);
    int status = 0;
    try {
        run(given);
    } catch (const std::exception& failure) {
        spdlog::critical("{}", failure.what());
        status = 1;
    }
    spdlog::shutdown();
    return status;
}
