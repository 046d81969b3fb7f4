// Several consumers of one name at work on its lanes; what drain waits for; external consumers.
#include "support.hpp"

#include <algorithm>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace {

using idem::message;
using namespace std::chrono_literals;

struct lanes : testing::Test {
    const std::string name = test::fresh_key("lanes"), table = "lanes_" + std::to_string(getpid());
    test::session direct{};

    void SetUp() override { direct.exec("CREATE TABLE " + table + " (place serial, id bigint, key text, lane int)"); }
    void TearDown() override {
        direct.exec("SELECT idem_unsubscribe(consumer) FROM idem_subscriptions WHERE consumer = '" + name +
                    "'; DELETE FROM idem_dead_letters WHERE consumer = '" + name + "'; DROP TABLE " + table);
    }
    void subscribe(const std::string& options = {}) {
        direct.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + name + "']" + options + ")");
    }
    void publish(int count, int keys) {
        direct.exec("BEGIN");
        for (int i = 0; i < count; ++i)
            idem::publish(direct.get(), name, std::to_string(i), {.key = std::to_string(i % keys)});
        direct.exec("COMMIT");
    }
    [[nodiscard]] auto insert() const {
        return [this](auto& tx, const message& m) {
            tx.exec("INSERT INTO " + table + " (id, key, lane) VALUES (" + std::to_string(m.id) + ", '" +
                    m.key.value_or("") + "', " + std::to_string(m.lane) + ")");
        };
    }
    std::string applied() { return direct.value("SELECT count(*) FROM " + table); }
    std::string depth() {
        return direct.value("SELECT sum(depth) FROM idem_consumers WHERE consumer = '" + name + "'");
    }
};

} // namespace

// Four workers on eight lanes, then twelve; the connections of some are cut all the time, and one dies with a lane.
TEST_F(lanes, are_shared_and_keep_the_order_of_keys) {
    constexpr int messages = 4000, keys = 97;
    subscribe(", lanes => 8");
    idem::test::proxy proxy{test::upstream()};
    std::vector<std::unique_ptr<idem::client>> clients;
    std::vector<std::unique_ptr<idem::consumer>> all;
    std::vector<std::thread> workers;
    workers.reserve(4);
    for (const bool cut : {false, true, false, true}) {
        clients.push_back(std::make_unique<idem::client>(cut ? test::through(proxy) : ""));
        all.push_back(std::make_unique<idem::consumer>(*clients.back(), name, insert(),
                                                       idem::consumer_options{.batch = 7, .wait = 1s}));
    }
    publish(messages / 2, keys);
    test::session dying;
    dying.exec("BEGIN");
    EXPECT_EQ(dying.exec("SELECT * FROM idem_fetch('" + name + "')").rows(), 100);
    for (const auto& each : all) workers.emplace_back([&each] { each->run(); });

    std::minstd_rand random{3};
    const auto done = [this] { return std::stoi(applied()); };
    const auto cut_until = [&](int enough) {
        while (done() < enough) {
            std::this_thread::sleep_for(std::chrono::milliseconds{random() % 20});
            proxy.drop_all();
        }
    };
    cut_until(messages / 4);
    EXPECT_LT(done(), messages / 2); // they do not get the lane that is held
    subscribe(", lanes => 8");       // changes nothing, and waits for nobody
    std::thread more{[&] {
        test::session other; // waits for `dying`
        other.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + name + "'], lanes => 12)");
    }};
    PQreset(dying.get());
    more.join();
    publish(messages / 2, keys);
    cut_until(messages);
    for (const auto& each : all) each->stop();
    for (std::thread& each : workers) each.join();

    EXPECT_GT(proxy.totals().lost(), 5U);
    EXPECT_EQ(depth(), "0");
    EXPECT_EQ(direct.value("SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || count(DISTINCT lane) FROM " + table),
              std::to_string(messages) + ' ' + std::to_string(messages) + " 12");
    EXPECT_EQ(
        direct.value("SELECT count(*) FROM (SELECT id < lag(id) OVER (PARTITION BY key ORDER BY place) AS bad FROM " +
                     table + ") AS t WHERE bad"),
        "0");
    EXPECT_EQ(direct.value("SELECT sum(parked) + sum(dead) FROM idem_consumers WHERE consumer = '" + name + "'"), "0");
}

TEST_F(lanes, can_be_picked) {
    subscribe(", lanes => 3");
    publish(60, 30);
    idem::client client{""};
    idem::consumer{client, name, insert(), {.batch = 7, .lane = 1}}.drain();
    EXPECT_EQ(direct.value("SELECT string_agg(DISTINCT lane::text, ' ') FROM " + table), "1");
    EXPECT_EQ(
        direct.value("SELECT (depth = 0) = (lane = 1) FROM idem_consumers WHERE consumer = '" + name + "' GROUP BY 1"),
        "t");
    for (const std::int64_t none : {3, 300})
        EXPECT_EQ(test::thrown([&] { idem::consumer{client, name, insert(), {.lane = none}}.run(); }), "22023");
}

// A lane in other hands may have messages that come back.
TEST_F(lanes, in_other_hands_are_waited_for_by_drain) {
    subscribe(", lanes => 2");
    publish(20, 20);
    test::session other;
    other.exec("BEGIN");
    const auto held = other.exec("SELECT * FROM idem_fetch('" + name + "', lane => 1)").rows();
    ASSERT_GT(held, 0);
    idem::client client{""};
    auto drained = std::async(std::launch::async, [&] { idem::consumer{client, name, insert()}.drain(); });
    EXPECT_EQ(drained.wait_for(500ms), std::future_status::timeout);
    EXPECT_EQ(applied(), std::to_string(20 - held));
    idem::client second{""}; // the lane that it picks is free
    idem::consumer{second, name, insert(), {.lane = 0}}.drain();
    other.exec("ROLLBACK");
    drained.get();
    EXPECT_EQ(applied(), "20");
}

TEST_F(lanes, in_other_hands_do_not_keep_drain_for_ever) {
    subscribe();
    publish(1, 1);
    test::session other;
    other.exec("BEGIN");
    EXPECT_EQ(other.exec("SELECT * FROM idem_fetch('" + name + "')").rows(), 1);
    idem::client client{""};
    idem::consumer{client, name, insert(), {.idle_timeout = 300ms}}.drain();
    EXPECT_EQ(applied(), "0");
    idem::consumer stopped{client, name, insert(), {.idle_timeout = 0ms}}; // as long as the server lets it
    auto drained = std::async(std::launch::async, [&] { stopped.drain(); });
    EXPECT_EQ(drained.wait_for(500ms), std::future_status::timeout);
    stopped.stop();
    drained.get();
}

// ---- external consumers ----

namespace {

struct external_lanes : lanes {
    // What was delivered, in order.
    std::vector<message> got;
    auto deliver() {
        return [this](idem::transaction&, std::span<const message> batch) {
            got.insert(got.end(), batch.begin(), batch.end());
        };
    }
    // 1, 2, 3 and so on in each lane, but for deliveries that are repeated as they were.
    void check_seqs() {
        std::map<std::int64_t, std::vector<std::string>> ids; // of a lane
        for (const message& m : got) {
            ASSERT_TRUE(m.seq && m.source && m.message_id);
            auto& of_lane = ids[m.lane];
            ASSERT_LE(*m.seq, static_cast<std::int64_t>(of_lane.size()) + 1);
            if (*m.seq <= static_cast<std::int64_t>(of_lane.size()))
                EXPECT_EQ(of_lane[static_cast<std::size_t>(*m.seq) - 1], *m.message_id);
            else
                of_lane.push_back(*m.message_id);
            EXPECT_EQ(*m.source, got.front().source);
        }
    }
    [[nodiscard]] std::size_t different() const {
        std::set<std::string> ids;
        for (const message& m : got) ids.insert(*m.message_id);
        return ids.size();
    }
};

} // namespace

TEST_F(external_lanes, are_delivered_with_seqs_until_nothing_is_left) {
    subscribe(", lanes => 3, external => true");
    publish(100, 20);
    idem::client client{""};
    bool away = true;
    idem::consumer one{client,
                       name,
                       [&](idem::transaction& tx, std::span<const message> batch) {
                           deliver()(tx, batch);
                           if (std::exchange(away, !away)) throw idem::try_again{"the broker is away"};
                       },
                       {.batch = 7}};
    one.drain();
    publish(10, 10);
    one.drain();
    check_seqs();
    EXPECT_EQ(different(), 110U);
    EXPECT_GT(got.size(), 110U);
    EXPECT_TRUE(got.front().source->starts_with(name + '@' + direct.value("SELECT idem_incarnation()")));
    EXPECT_TRUE(std::none_of(got.begin(), got.end(), [](const message& m) { return m.tombstone(); }));
    EXPECT_EQ(depth(), "0");
}

TEST_F(external_lanes, deliver_a_tombstone_for_what_is_given_up) {
    subscribe(", external => true");
    publish(30, 5);
    idem::client client{"options='-c idem.max_attempts=1'"};
    int failures = 0;
    idem::consumer{client,
                   name,
                   [&](idem::transaction& tx, std::span<const message> batch) {
                       for (const message& m : batch)
                           if (m.payload == "11") throw std::runtime_error{"too big"};
                       deliver()(tx, batch);
                   },
                   {.on_failure =
                        [&](const message& m, const std::exception&) {
                            EXPECT_EQ(m.payload, "11");
                            ++failures;
                        }}}
        .drain();
    check_seqs();
    EXPECT_EQ(failures, 1);
    EXPECT_EQ(different(), 30U);
    ASSERT_EQ(got.size(), 30U);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].tombstone(), i == 11) << i;
    EXPECT_EQ(
        direct.value("SELECT payload::text || ' ' || error FROM idem_dead_letters WHERE consumer = '" + name + "'"),
        "11 too big");

    idem::publish(direct.get(), name, "null"); // is a payload
    idem::consumer{client, name, deliver()}.drain();
    EXPECT_EQ(got.back().payload, "null");
    EXPECT_FALSE(got.back().tombstone());
}

// Over connections that are lost at every point.
TEST_F(external_lanes, lose_nothing_and_number_nothing_anew) {
    subscribe(", lanes => 2, external => true");
    idem::test::proxy proxy{test::upstream()};
    proxy.at_commit([random = std::minstd_rand{9}](auto&) mutable {
        return random() % 4 ? idem::test::pass() : idem::test::drop(static_cast<idem::test::place>(random() % 3));
    });
    proxy.drop_probability(0.05);
    idem::client client{test::through(proxy)};
    for (int i = 0; i < 5; ++i) {
        publish(60, 20);
        idem::consumer{client, name, deliver(), {.batch = 5}}.drain();
    }
    check_seqs();
    EXPECT_EQ(different(), 300U);
    EXPECT_EQ(depth(), "0");
    EXPECT_GT(proxy.totals().lost(), 10U);
}
