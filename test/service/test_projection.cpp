// Projections, two of them, before a stream of NATS JetStream into which the test puts what idem-relay would; real
// processes, killed for real.
#include "comes_true.hpp"
#include "nats.hpp"
#include "process.hpp"
#include "server.hpp"
#include "support.hpp"

#include <array>
#include <atomic>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <thread>

namespace {

using namespace std::chrono_literals;

std::string contents(const std::string& file) {
    std::ifstream from{file};
    return {std::istreambuf_iterator<char>{from}, {}};
}

struct sale {
    std::int64_t lane = 0, seq = 0;
    std::string key{}, type = "booked", payload = R"({"placed_at": "2010-12-01T08:26:00+00:00", "pence": 100})";
    std::string message_id{}, source = "read-model@1"; // message_id: by lane and seq, if empty
    std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736";
};

struct projection : testing::Test {
    static void SetUpTestSuite() { database = std::make_unique<test::server>("projection"); }
    static void TearDownTestSuite() { database.reset(); }
    static inline std::unique_ptr<test::server> database;

    const std::string model = [] {
        static int count = 0;
        const std::string name = "read_model_" + std::to_string(++count);
        test::session{database->conninfo()}.exec("CREATE DATABASE " + name);
        return database->conninfo() + " dbname=" + name; // the last one counts
    }();
    const std::string log = testing::TempDir() + test::fresh_key("projection");
    test::nats_server broker{};
    std::optional<test::nats_session> session;
    std::array<std::optional<test::process>, 2> running{};

    void SetUp() override {
        test::session{model}.exec("CREATE EXTENSION idem;" + contents(SERVICE_DIR "/projection.sql"));
        broker.start();
        session.emplace(broker);
        const char* subjects[] = {"SHOP.>"};
        jsStreamConfig config;
        jsStreamConfig_Init(&config);
        config.Name = "SHOP";
        config.Subjects = subjects;
        config.SubjectsLen = 1;
        test::require(js_AddStream(nullptr, session->js(), &config, nullptr, nullptr), "js_AddStream");
    }
    void TearDown() override {
        for (auto& each : running) each.reset();
        if (HasFailure()) std::cerr << contents(log).substr(0, 20'000) << '\n';
    }

    void start(std::size_t which) {
        running.at(which).emplace(
            std::vector<std::string>{PROJECTION, "--nats", broker.url(), "--dsn", model, "--batch", "50"}, log);
    }
    void start_both() {
        start(0);
        start(1);
    }

    void put(const sale& s) {
        natsMsg* m = nullptr;
        const bool tombstone = s.payload.empty();
        test::require(natsMsg_Create(&m, "SHOP.sales", nullptr, s.payload.data(), static_cast<int>(s.payload.size())),
                      "natsMsg_Create");
        const std::string place = std::to_string(s.lane) + '/' + std::to_string(s.seq);
        const auto set = [&](const char* name, const std::string& value) {
            if (!value.empty()) test::require(natsMsgHeader_Set(m, name, value.c_str()), name);
        };
        set("Idem-Consumer", "read-model");
        set("Idem-Source", s.source);
        set("Idem-Lane", std::to_string(s.lane));
        set("Idem-Seq", std::to_string(s.seq));
        set("Idem-Message-Id", s.message_id.empty() ? place : s.message_id);
        set("Idem-Key", s.key.empty() ? "anna/" + place : s.key);
        set("Idem-Type", s.type);
        if (tombstone) set("Idem-Tombstone", "true");
        set("traceparent", "00-" + s.trace + "-00f067aa0ba902b7-01");
        const natsStatus status = js_PublishMsg(nullptr, session->js(), m, nullptr, nullptr);
        natsMsg_Destroy(m);
        test::require(status, "js_PublishMsg");
    }

    [[nodiscard]] std::string ask(const std::string& sql) const {
        try {
            return test::session{model}.value(sql);
        } catch (const std::exception& failure) {
            return failure.what();
        }
    }
    [[nodiscard]] std::string messages() const { return ask("SELECT coalesce(sum(messages), 0) FROM daily_sales"); }
    void expect_messages(const std::string& count) const {
        EXPECT_TRUE(test::comes_true([&] { return messages() == count; }, 30s)) << messages() << " of " << count;
        std::this_thread::sleep_for(300ms); // for what comes again
        EXPECT_EQ(messages(), count);
    }
    // All is acknowledged to the broker.
    void expect_nothing_open() {
        jsConsumerInfo* info = nullptr;
        const auto open = [&] {
            jsConsumerInfo_Destroy(info);
            info = nullptr;
            if (js_GetConsumerInfo(&info, session->js(), "SHOP", "read-model", nullptr, nullptr) != NATS_OK)
                return true;
            return info->NumAckPending > 0 || info->NumPending > 0;
        };
        EXPECT_TRUE(test::comes_true([&] { return !open(); }, 30s));
        jsConsumerInfo_Destroy(info);
    }

    // The n-th message of a lane, from 1: each order is booked, and then paid or cancelled.
    static sale nth(std::int64_t lane, std::int64_t n) {
        const bool first = n % 2 == 1;
        const std::string order = std::to_string(lane) + '-' + std::to_string((n + 1) / 2);
        const bool cancelled = (n + 1) / 2 % 3 == 0;
        const std::string pence = first ? "250" : cancelled ? "-250" : "0";
        return {.lane = lane,
                .seq = n,
                .key = "anna/" + order,
                .type = first       ? "booked"
                        : cancelled ? "cancelled"
                                    : "paid",
                .payload = R"({"placed_at": "2010-12-0)" + std::to_string(1 + n / 2 % 7) +
                           R"(T08:26:00+00:00", "pence": )" + pence + '}'};
    }
    void expect_orders(std::int64_t lanes, std::int64_t n) const {
        const auto orders = lanes * n / 2, cancelled = lanes * (n / 2 / 3);
        EXPECT_EQ(ask("SELECT string_agg(concat(state, ' ', n), ', ' ORDER BY state) FROM "
                      "(SELECT state, count(*) AS n FROM order_states GROUP BY 1) AS s"),
                  "cancelled " + std::to_string(cancelled) + ", paid " + std::to_string(orders - cancelled));
        EXPECT_EQ(ask("SELECT sum(pence) FROM daily_sales"), std::to_string(250 * (orders - cancelled)));
        EXPECT_EQ(ask("SELECT count(*) FROM refused_messages"), "0");
    }
};

} // namespace

TEST_F(projection, applies_each_message_once) {
    start_both();
    for (std::int64_t n = 1; n <= 600; ++n)
        for (std::int64_t lane = 0; lane < 2; ++lane) put(nth(lane, n));
    expect_messages("1200");
    expect_orders(2, 600);
    expect_nothing_open();
    for (auto& each : running) EXPECT_EQ(each->end(SIGTERM), 0);
    EXPECT_NE(contents(log).find("status=first lane=1 seq=600 type=cancelled key=anna/1-300 "
                                 "trace=4bf92f3577b34da6a3ce929d0e0e4736\n"),
              std::string::npos);
}

TEST_F(projection, puts_lanes_into_order_and_drops_what_it_had) {
    start_both();
    put(nth(0, 3));
    put(nth(0, 2));
    put(nth(0, 4));
    put(nth(0, 3)); // as the broker's window for duplicates had let it through
    std::this_thread::sleep_for(1500ms);
    EXPECT_EQ(messages(), "0");
    put(nth(0, 1));
    expect_messages("4");
    sale again = nth(0, 2); // after a failover: another source counts from 1
    again.source = "read-model@2";
    again.seq = 1;
    again.message_id = "0/2";
    put(again);
    again = nth(0, 5);
    again.source = "read-model@2";
    again.seq = 2;
    again.message_id = "0/5";
    put(again);
    expect_messages("5");
    expect_nothing_open();
    EXPECT_EQ(ask("SELECT string_agg(key || ' ' || state, ', ' ORDER BY key) FROM order_states"),
              "anna/0-1 paid, anna/0-2 paid, anna/0-3 booked");
}

TEST_F(projection, goes_on_behind_a_tombstone) {
    start_both();
    put(nth(0, 1));
    put({.lane = 0, .seq = 2, .payload = ""});
    sale late = nth(0, 2); // redriven
    late.seq = 3;
    late.message_id = "0/2";
    put(late);
    expect_messages("2");
    expect_nothing_open();
}

TEST_F(projection, sets_aside_what_cannot_be_applied) {
    start_both();
    for (std::int64_t n = 1; n <= 40; ++n) {
        sale each = nth(0, n);
        if (n == 20) each.payload = R"({"placed_at": "never", "pence": 1})";
        put(each);
    }
    test::require(js_Publish(nullptr, session->js(), "SHOP.else", "x", 1, nullptr, nullptr), "js_Publish");
    put(nth(0, 41));
    expect_messages("40");
    expect_nothing_open();
    EXPECT_EQ(ask("SELECT concat(consumer, ' ', message_id, ' ', type, ' ', key, ' ', payload->>'placed_at') FROM "
                  "refused_messages"),
              "read-model 0/20 paid anna/0-10 never");
    EXPECT_NE(contents(log).find("a message on SHOP.else is not from idem-relay"), std::string::npos);
}

// Both, the broker and the database, at random.
TEST_F(projection, survives_the_death_of_each) {
    std::random_device seed;
    const auto value = seed();
    RecordProperty("seed", std::to_string(value));
    std::mt19937 random{value};
    start_both();
    constexpr std::int64_t each_lane = 2'000;
    std::atomic<bool> done{false};
    std::thread publisher{[&] {
        for (std::int64_t n = 1; n <= each_lane; ++n)
            for (std::int64_t lane = 0; lane < 3; ++lane)
                for (;;) { // what is there twice is known by its seq
                    try {
                        put(nth(lane, n));
                        break;
                    } catch (const std::exception&) {
                        std::this_thread::sleep_for(20ms);
                    }
                }
        done = true;
    }};
    for (int i = 0; !done || i < 8; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds{100 + random() % 300});
        switch (i % 8) {
        case 3:
            broker.kill(SIGKILL);
            std::this_thread::sleep_for(200ms);
            broker.start();
            break;
        case 6:
            database->command("crash");
            database->command("start");
            break;
        default:
            const std::size_t which = random() % 2;
            running.at(which)->end(SIGKILL);
            start(which);
        }
    }
    publisher.join();
    expect_messages(std::to_string(3 * each_lane));
    expect_orders(3, each_lane);
    for (auto& each : running) EXPECT_TRUE(each->runs());
}
