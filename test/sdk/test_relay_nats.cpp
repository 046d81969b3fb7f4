// The whole road: outbox, idem-relay, a stream of NATS JetStream, and an idempotent consumer in a database elsewhere;
// real processes, killed for real.
#include "comes_true.hpp"
#include "nats.hpp"
#include "process.hpp"
#include "server.hpp"
#include "support.hpp"

#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <regex>
#include <thread>

namespace {

using namespace std::chrono_literals;

std::string contents(const std::string& file) {
    std::ifstream from{file};
    return {std::istreambuf_iterator<char>{from}, {}};
}

struct road : testing::Test {
    static void SetUpTestSuite() {
        source = std::make_unique<test::server>("relay-source");
        target = std::make_unique<test::server>("relay-target");
        at_source = source->conninfo(); // a restart keeps the port
        at_target = target->conninfo();
        test::session{at_source}.exec("CREATE EXTENSION idem");
        test::session{at_target}.exec(
            "CREATE EXTENSION idem;"
            "CREATE TABLE applied (at bigint GENERATED ALWAYS AS IDENTITY, topic text, key text, n int);"
            "CREATE FUNCTION book(topic text, key text, type text, payload jsonb) RETURNS void LANGUAGE sql "
            "BEGIN ATOMIC INSERT INTO applied (topic, key, n) VALUES (topic, key, (payload->>'n')::int); END");
    }
    static void TearDownTestSuite() {
        source.reset();
        target.reset();
    }
    static inline std::unique_ptr<test::server> source, target;
    static inline std::string at_source, at_target;

    const std::string name = test::fresh_key("road"), topic = name;
    const std::string relay_log = testing::TempDir() + name + "-relay",
                      receiver_log = testing::TempDir() + name + "-in";
    test::nats_server broker{};
    std::optional<test::process> relay, receiver;

    void TearDown() override {
        relay.reset();
        receiver.reset();
        if (HasFailure()) std::cerr << contents(relay_log) << contents(receiver_log);
        test::session{at_source}.exec("SELECT idem_unsubscribe('" + name + "')");
    }
    void subscribe(int lanes) {
        test::session{at_source}.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + topic + "'], " +
                                      std::to_string(lanes) + ", external => true)");
    }
    void start_relay(const std::string& stream = "S", const std::vector<std::string>& more = {}) {
        std::vector<std::string> command{
            IDEM_RELAY, "--dsn", at_source, "--consumer", name, "--batch", "100", "--sink", broker.url("/" + stream)};
        command.insert(command.end(), more.begin(), more.end());
        relay.emplace(command, relay_log);
    }
    void start_receiver() {
        receiver.emplace(std::vector<std::string>{IDEM_NATS_CONSUMER, broker.url(), "S", "receiver", at_target,
                                                  "SELECT book($1, $2, $3, $4)"},
                         receiver_log);
    }
    // Numbers from..to, of one key or another, a few to a transaction. What a crash takes back is published anew.
    void publish(int from, int to, std::chrono::milliseconds pause = 0ms) const {
        for (int n = from; n <= to; n += 20) {
            for (;;) {
                try {
                    test::session{at_source}.exec("SELECT idem_publish('" + topic +
                                                  "', jsonb_build_object('n', n), (n % 13)::text) FROM "
                                                  "generate_series(" +
                                                  std::to_string(n) + ", " + std::to_string(std::min(n + 19, to)) +
                                                  ") AS n");
                    break;
                } catch (const std::exception&) {
                    std::this_thread::sleep_for(50ms);
                }
            }
            std::this_thread::sleep_for(pause);
        }
    }
    static std::string ask(const std::string& conninfo, const std::string& sql) {
        try {
            return test::session{conninfo}.value(sql);
        } catch (const std::exception& failure) {
            return failure.what();
        }
    }
    [[nodiscard]] std::string published() const {
        return ask(at_source, "SELECT count(*) FROM idem_outbox WHERE topic = '" + topic + "'");
    }
    [[nodiscard]] std::string applied() const {
        return ask(at_target, "SELECT count(*) FROM applied WHERE topic = '" + topic + "'");
    }
    // What was published is applied: each once, and of each key in the order of publishing. A transaction whose COMMIT
    // was lost has published twice: then a number is there twice.
    void expect_all() {
        EXPECT_TRUE(test::comes_true([&] { return applied() == published(); }, 60s))
            << applied() << " of " << published();
        std::this_thread::sleep_for(500ms); // for what comes again
        EXPECT_EQ(applied(), published());
        const std::string all = "SELECT md5(string_agg(concat(key, ':', n), ' ' ORDER BY key, at)) FROM ";
        EXPECT_EQ(ask(at_target, all + "applied WHERE topic = '" + topic + "'"),
                  ask(at_source, all + "(SELECT key, payload->>'n' AS n, id AS at FROM idem_outbox WHERE topic = '" +
                                     topic + "') AS t"));
    }
    // By the receiver when it ends.
    std::string counted() {
        EXPECT_EQ(receiver->end(SIGTERM), 0);
        const std::string said = contents(receiver_log);
        return said.substr(said.rfind("applied"));
    }
};

} // namespace

TEST_F(road, leads_to_the_end) {
    broker.start();
    subscribe(4);
    start_relay();
    start_receiver();
    publish(1, 2000);
    expect_all();
    EXPECT_EQ(counted(), "applied 2000, duplicates 0, gaps 0, tombstones 0\n");
    EXPECT_EQ(relay->end(SIGTERM), 0);
    EXPECT_EQ(contents(relay_log), "");
}

TEST_F(road, begins_when_there_is_a_broker) {
    subscribe(2);
    publish(1, 100);
    start_relay();
    start_receiver();
    EXPECT_TRUE(test::comes_true([&] { return contents(relay_log).find("trying again") != std::string::npos; }, 60s));
    EXPECT_TRUE(relay->runs());
    broker.start();
    expect_all();
}

// The broker's store outlives it; the relay repeats what it had no answer for.
TEST_F(road, has_a_broker_that_is_killed) {
    broker.start();
    subscribe(4);
    start_relay();
    start_receiver();
    std::thread publisher{[&] { publish(1, 3000, 5ms); }};
    for (int i = 0; i < 3; ++i) {
        std::this_thread::sleep_for(300ms);
        broker.kill(SIGKILL);
        std::this_thread::sleep_for(200ms);
        broker.start();
    }
    publisher.join();
    expect_all();
    EXPECT_TRUE(relay->runs());
    EXPECT_TRUE(receiver->runs());
}

TEST_F(road, has_a_relay_that_is_killed) {
    broker.start();
    subscribe(4);
    start_receiver();
    std::thread publisher{[&] { publish(1, 3000, 2ms); }};
    for (int i = 0; i < 15; ++i) {
        start_relay("S", {"--batch", "7"});
        std::this_thread::sleep_for(30ms + 17ms * i);
        relay->end(SIGKILL);
    }
    publisher.join();
    start_relay();
    expect_all();
}

TEST_F(road, has_a_database_that_crashes) {
    broker.start();
    subscribe(4);
    start_relay();
    start_receiver();
    std::thread publisher{[&] { publish(1, 2000, 10ms); }};
    for (const std::string how : {"crash", "stop", "crash"}) {
        std::this_thread::sleep_for(300ms);
        source->command(how);
        source->command("start");
    }
    publisher.join();
    expect_all();
    EXPECT_TRUE(relay->runs());
    EXPECT_NE(contents(relay_log).find("trying again"), std::string::npos);
}

// The receiver stops acknowledging, loses nothing, and goes on alone.
TEST_F(road, has_a_receiver_without_its_database) {
    broker.start();
    subscribe(2);
    start_relay();
    start_receiver();
    publish(1, 500);
    EXPECT_TRUE(test::comes_true([&] { return applied() == "500"; }, 60s));
    target->command("crash");
    publish(501, 1000);
    test::nats_session session{broker};
    EXPECT_TRUE(test::comes_true([&] { return session.count("S") == 1000; }, 60s));
    EXPECT_TRUE(
        test::comes_true([&] { return contents(receiver_log).find("trying again") != std::string::npos; }, 60s));
    jsConsumerInfo* info = nullptr;
    test::require(js_GetConsumerInfo(&info, session.js(), "S", "receiver", nullptr, nullptr), "js_GetConsumerInfo");
    EXPECT_EQ(info->AckFloor.Stream, 500U);
    jsConsumerInfo_Destroy(info);
    target->command("start");
    expect_all();
    EXPECT_TRUE(receiver->runs());
}

TEST_F(road, has_a_receiver_that_is_killed) {
    broker.start();
    subscribe(4);
    start_relay();
    std::thread publisher{[&] { publish(1, 3000, 2ms); }};
    for (int i = 0; i < 10; ++i) {
        start_receiver();
        std::this_thread::sleep_for(50ms + 31ms * i);
        receiver->end(SIGKILL);
    }
    publisher.join();
    start_receiver();
    expect_all();
}

TEST_F(road, has_all_of_them_killed_at_random) {
    std::random_device seed;
    const auto value = seed();
    RecordProperty("seed", std::to_string(value));
    std::mt19937 random{value};
    broker.start();
    subscribe(4);
    start_relay();
    start_receiver();
    std::thread publisher{[&] { publish(1, 6000, 20ms); }};
    for (int i = 0; i < 16; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds{random() % 400});
        switch (i % 5) {
        case 0:
            relay->end(SIGKILL);
            start_relay();
            break;
        case 1:
            broker.kill(SIGKILL);
            std::this_thread::sleep_for(std::chrono::milliseconds{random() % 1000});
            broker.start();
            break;
        case 2:
            receiver->end(SIGKILL);
            start_receiver();
            break;
        case 3:
            source->command("crash");
            source->command("start");
            break;
        default: target->command("crash"); target->command("start");
        }
    }
    publisher.join();
    expect_all();
    EXPECT_TRUE(relay->runs());
    EXPECT_TRUE(receiver->runs());
}

// What comes again under another source, or from a consumer that begins anew, is known by its message_id.
TEST_F(road, is_gone_twice) {
    broker.start();
    subscribe(2);
    start_relay();
    start_receiver();
    publish(1, 300);
    expect_all();
    test::session direct{at_source};
    direct.exec("SELECT idem_seek('" + name + "', '-infinity')");
    publish(301, 400);
    expect_all();
    relay.reset();
    direct.exec("SELECT idem_unsubscribe('" + name + "')");
    direct.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + topic + "'], 3, 'earliest', external => true)");
    publish(401, 500);
    start_relay();
    expect_all();
    EXPECT_EQ(counted(), "applied 500, duplicates 700, gaps 0, tombstones 0\n");
}

// A message that the stream will never take stops its lane for some tries, then it is a tombstone; redriven, it has a
// new seq.
TEST_F(road, knows_what_to_do_with_a_refused_message) {
    broker.start();
    test::nats_session session{broker};
    const char* subjects[] = {"S.>"};
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    config.Name = "S";
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.MaxMsgSize = 10'000;
    test::require(js_AddStream(nullptr, session.js(), &config, nullptr, nullptr), "js_AddStream");
    subscribe(1);
    start_receiver();
    publish(1, 20);
    test::session direct{at_source};
    const auto id = direct.value("SELECT idem_publish('" + topic +
                                 "', jsonb_build_object('n', 21, 'x', repeat('x', 20000)), '21')");
    publish(22, 40);
    setenv("PGOPTIONS", "-c idem.max_attempts=2", 1);
    start_relay();
    unsetenv("PGOPTIONS");
    EXPECT_TRUE(test::comes_true([&] { return applied() == "39"; }, 60s)) << applied();
    EXPECT_NE(contents(relay_log).find("message " + id + " of topic \"" + topic + "\" is refused: "),
              std::string::npos);
    EXPECT_EQ(
        direct.value("SELECT attempts || error FROM idem_dead_letters WHERE consumer = '" + name + "' AND id = " + id),
        "2message size exceeds maximum allowed");
    config.MaxMsgSize = -1;
    test::require(js_UpdateStream(nullptr, session.js(), &config, nullptr, nullptr), "js_UpdateStream");
    direct.exec("SELECT idem_redrive('" + name + "', " + id + ")");
    EXPECT_TRUE(test::comes_true([&] { return applied() == "40"; }, 60s)) << applied();
    // what had come after it was there before the tombstone
    const std::string said = counted();
    EXPECT_TRUE(std::regex_match(said, std::regex{"applied 40, duplicates 0, gaps [1-9][0-9]*, tombstones 1\n"}))
        << said;
    EXPECT_EQ(direct.value("SELECT count(*) FROM idem_dead_letters WHERE consumer = '" + name + "'"), "0");
}
