// Applies what idem-relay has put into a stream of NATS JetStream to a database, each message once, of every lane in
// the order of seq: kill it, the broker or the database as you like.
//     nats_consumer nats://localhost:4222 idem sales 'dbname=reports' 'SELECT book($1, $2, $3, $4)'
// reads the stream "idem" as its durable consumer "sales". The statement gets topic, key, type and payload; the
// database has the extension, for idem_consume_seq and idem_consume. It must be the consumer of all of the relay's
// subjects: what it does not get to see would be a gap.
#include <idem/idem.hpp>

#include <nats/nats.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <iostream>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

namespace {

using namespace std::chrono_literals;

volatile std::sig_atomic_t stopped = 0;

constexpr int batch = 500;
constexpr int most_open = 100'000; // more than the relay's lanes × its --batch, or a gap could not be filled
constexpr std::int64_t ack_wait_ns = 5'000'000'000; // then the broker takes us for dead
constexpr std::int64_t come_again_ms = 200;

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
    std::string text;
    for (const char* c = value; *c != '\0'; ++c) {
        if (*c == '%' && c[1] != '\0' && c[2] != '\0') {
            text += static_cast<char>(std::stoi(std::string{c + 1, 2}, nullptr, 16));
            c += 2;
        } else {
            text += *c;
        }
    }
    return text;
}

struct delivery {
    explicit delivery(natsMsg* m)
        : raw{m},
          source{header(m, "Idem-Source").value()},
          consumer{header(m, "Idem-Consumer").value()},
          message_id{header(m, "Idem-Message-Id").value()},
          topic{header(m, "Idem-Topic").value()},
          key{header(m, "Idem-Key")},
          type{header(m, "Idem-Type")},
          lane{std::stoll(header(m, "Idem-Lane").value())},
          seq{std::stoll(header(m, "Idem-Seq").value())},
          tombstone{header(m, "Idem-Tombstone").has_value()} {}

    [[nodiscard]] std::string payload() const {
        return {natsMsg_GetData(raw.get()), static_cast<std::size_t>(natsMsg_GetDataLength(raw.get()))};
    }

    std::unique_ptr<natsMsg, free_message> raw;
    std::string source, consumer, message_id, topic;
    std::optional<std::string> key, type;
    std::int64_t lane, seq;
    bool tombstone;
    bool gap = false;
};

// ---- the database ----

struct counts {
    long applied = 0, duplicates = 0, gaps = 0, tombstones = 0;
};

// All of them in one transaction; what is not for now is marked as a gap.
counts apply(idem::client& database, const std::string& statement, std::span<delivery> messages) {
    counts now;
    idem::transaction tx{database.connection(), 30s};
    tx.exec("BEGIN");
    for (delivery& m : messages) {
        const idem::consume_status status = idem::consume_seq(tx, m.source, m.lane, m.seq);
        m.gap = status == idem::consume_status::gap;
        if (m.gap) {
            ++now.gaps;
        } else if (status == idem::consume_status::first && m.tombstone) { // given up, and perhaps to come again later
            ++now.tombstones;
        } else if (status == idem::consume_status::duplicate ||
                   !idem::consume(tx, m.consumer, m.message_id)) { // of a failover, or a seek
            ++now.duplicates;
        } else {
            tx.exec(statement, {m.topic, m.key, m.type, m.payload()});
            ++now.applied;
        }
    }
    tx.exec("COMMIT");
    return now;
}

// As above, for as long as it takes. Nothing is acknowledged meanwhile, so nothing is lost; a COMMIT of which we do not
// know makes duplicates of all.
counts apply_when_possible(idem::client& database, const std::string& statement, std::span<delivery> messages) {
    for (;;) {
        try {
            if (!database.connected()) database.reconnect(10s);
            return apply(database, statement, messages);
        } catch (const idem::error& failure) {
            const std::string_view code = failure.sqlstate();
            const bool away = code.starts_with("08") || code.starts_with("57P");
            if (stopped != 0 ||
                (!away && code != idem::sqlstate::serialization_failure && code != idem::sqlstate::deadlock_detected))
                throw;
            std::cerr << "nats_consumer: " << failure.what() << "; trying again\n";
            database.disconnect(); // and so end the transaction
            std::this_thread::sleep_for(200ms);
        }
    }
}

// ---- the stream ----

class stream {
public:
    stream(const char* url, const char* name, const char* durable) {
        check(natsOptions_Create(&options_), "options");
        check(natsOptions_SetURL(options_, url), url);
        check(natsOptions_SetMaxReconnect(options_, 1'000'000'000), "options");
        check(natsOptions_SetReconnectWait(options_, 250), "options");
        until_it_is_there([&] { return natsConnection_Connect(&connection_, options_); }, url);
        check(natsConnection_JetStream(&js_, connection_, nullptr), "JetStream");

        jsConsumerConfig config;
        jsConsumerConfig_Init(&config);
        config.Durable = durable;
        config.AckPolicy = js_AckExplicit;
        config.AckWait = ack_wait_ns;
        config.MaxAckPending = most_open;
        until_it_is_there([&] { return js_AddConsumer(nullptr, js_, name, &config, nullptr, nullptr); }, name);
        jsSubOptions bind;
        jsSubOptions_Init(&bind);
        bind.Stream = name;
        bind.Consumer = durable;
        until_it_is_there(
            [&] { return js_PullSubscribe(&subscription_, js_, nullptr, durable, nullptr, &bind, nullptr); }, durable);
    }
    ~stream() {
        natsSubscription_Destroy(subscription_);
        jsCtx_Destroy(js_);
        natsConnection_Destroy(connection_);
        natsOptions_Destroy(options_);
    }
    stream(const stream&) = delete;
    stream& operator=(const stream&) = delete;

    // What there is within a second. In the order of seq, so that what is redelivered out of order makes no gaps.
    std::vector<delivery> fetch() {
        natsMsgList list{};
        std::vector<delivery> found;
        if (natsSubscription_Fetch(&list, subscription_, batch, 1'000, nullptr) != NATS_OK) {
            if (natsConnection_Status(connection_) != NATS_CONN_STATUS_CONNECTED) std::this_thread::sleep_for(100ms);
            return found;
        }
        for (int i = 0; i < list.Count; ++i) found.emplace_back(std::exchange(list.Msgs[i], nullptr));
        natsMsgList_Destroy(&list);
        std::ranges::stable_sort(found, {}, [](const delivery& m) { return std::tie(m.source, m.lane, m.seq); });
        return found;
    }

    // An answer that is lost makes a duplicate.
    static void answer(std::span<delivery> messages) {
        for (delivery& m : messages)
            static_cast<void>(m.gap ? natsMsg_NakWithDelay(m.raw.get(), come_again_ms, nullptr)
                                    : natsMsg_Ack(m.raw.get(), nullptr));
    }

private:
    template <typename Try>
    static void until_it_is_there(Try&& attempt, const char* what) {
        natsStatus status{};
        while ((status = attempt()) != NATS_OK) {
            if (stopped != 0) check(status, what);
            std::cerr << "nats_consumer: " << what << ": " << natsStatus_GetText(status) << "; trying again\n";
            std::this_thread::sleep_for(500ms);
        }
    }

    natsOptions* options_ = nullptr;
    natsConnection* connection_ = nullptr;
    jsCtx* js_ = nullptr;
    natsSubscription* subscription_ = nullptr;
};

} // namespace

int main(int argc, char** argv) try {
    if (argc != 6) {
        std::cerr << "usage: nats_consumer NATS-URL STREAM DURABLE CONNINFO STATEMENT\n";
        return 2;
    }
    std::signal(SIGTERM, [](int) { stopped = 1; });
    std::signal(SIGINT, [](int) { stopped = 1; });
    stream from{argv[1], argv[2], argv[3]};
    idem::client database{argv[4]};
    counts all;
    while (stopped == 0) {
        std::vector<delivery> messages = from.fetch();
        if (messages.empty()) continue;
        const counts now = apply_when_possible(database, argv[5], messages);
        stream::answer(messages);
        all.applied += now.applied;
        all.duplicates += now.duplicates;
        all.gaps += now.gaps;
        all.tombstones += now.tombstones;
    }
    std::cout << "applied " << all.applied << ", duplicates " << all.duplicates << ", gaps " << all.gaps
              << ", tombstones " << all.tombstones << '\n';
} catch (const std::exception& failure) {
    std::cerr << "nats_consumer: " << failure.what() << '\n';
    return 1;
}
