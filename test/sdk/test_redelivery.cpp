// Connections that are cut, or go silent, at every point of a consumer's loop: each message is applied once, in order.
// IDEM_REDELIVERY sets how often each point is tried.
#include "support.hpp"

#include <algorithm>
#include <array>
#include <random>
#include <thread>
#include <tuple>
#include <utility>

namespace {

using idem::message;
using idem::test::fate;
using idem::test::place;
using namespace std::chrono_literals;

int times() { return std::max(std::stoi(test::environment("IDEM_REDELIVERY", "300")), 1); }

// A topic, its consumer, and the table that the consumer writes to: a row for each message.
class delivery {
public:
    delivery() {
        direct_.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + name + "']); CREATE TABLE " + table +
                     " (place serial, id bigint)");
    }
    ~delivery() { direct_.exec("SELECT idem_unsubscribe('" + name + "'); DROP TABLE " + table); }
    delivery(const delivery&) = delete;
    delivery& operator=(const delivery&) = delete;

    void publish(int count) {
        direct_.exec("BEGIN");
        for (int i = 0; i < count; ++i) idem::publish(direct_.get(), name, std::to_string(++published_));
        direct_.exec("COMMIT");
    }
    [[nodiscard]] auto insert() const {
        return [this](auto& tx, const message& m) {
            tx.exec("INSERT INTO " + table + " (id) VALUES (" + std::to_string(m.id) + ")");
        };
    }
    // All that was published, once, in order: one publisher, so that the order is known.
    void check() {
        EXPECT_EQ(direct_.value("SELECT count(*) FROM idem_outbox WHERE topic = '" + name + "'"),
                  std::to_string(published_));
        EXPECT_EQ(
            direct_.value("SELECT concat(count(*), ' ', count(DISTINCT id), ' ', count(*) FILTER (WHERE bad)) FROM "
                          "(SELECT id, id < lag(id) OVER (ORDER BY place) AS bad FROM " +
                          table + ") AS t"),
            std::to_string(published_) + ' ' + std::to_string(published_) + " 0");
        EXPECT_EQ(direct_.value("SELECT depth FROM idem_consumers WHERE consumer = '" + name + "'"), "0");
    }

    const std::string name = test::fresh_key("delivery");

private:
    const std::string table = "delivery_" + std::to_string(PQbackendPID(test::session{}.get()));
    test::session direct_{};
    int published_ = 0;
};

struct redelivery : testing::TestWithParam<std::tuple<fate, place>> {
    const fate what = std::get<0>(GetParam());
    const place where = std::get<1>(GetParam());

    // One message to a batch, and the first COMMIT of each batch is lost.
    template <typename Way>
    void at_commit(int count, bool half_open = false) const {
        delivery of;
        auto behind = test::upstream();
        behind.half_open = half_open;
        idem::test::proxy proxy{behind};
        bool lost = false; // the last one
        proxy.at_commit([&](const idem::test::commit&) {
            return (lost = !lost) ? idem::test::verdict{what, where} : idem::test::pass();
        });
        typename Way::client client{test::through(proxy)};
        of.publish(count);
        idem::consumer{client,
                       of.name,
                       of.insert(),
                       {.batch = 1,
                        .response_timeout = what == fate::silence ? 100ms : 10000ms,
                        .idle_timeout = half_open ? 200ms : 10000ms}}
            .drain();
        proxy.let_go();
        of.check();
        const auto totals = proxy.totals();
        EXPECT_GE(what == fate::drop ? totals.dropped_at(where) : totals.silenced_at(where),
                  static_cast<std::uint64_t>(count / 2));
    }
};

} // namespace

TEST_P(redelivery, around_commit_over_libpq) { at_commit<test::libpq>(what == fate::drop ? times() : times() / 10); }

TEST_P(redelivery, around_commit_over_libpqxx) { at_commit<test::libpqxx>(times() / 10); }

// The server does not learn of the loss: the lane is held until idle_timeout.
TEST_P(redelivery, from_a_half_open_predecessor) {
    if (what == fate::silence) at_commit<test::libpq>(times() / 20, true);
}

static std::string case_name(const testing::TestParamInfo<redelivery::ParamType>& parameters) {
    static constexpr std::array places{"before_commit", "after_commit", "in_reply"};
    const auto [what, where] = parameters.param;
    return std::string{what == fate::drop ? "cut_" : "silent_"} + places.at(static_cast<std::size_t>(where));
}
INSTANTIATE_TEST_SUITE_P(loss, redelivery,
                         testing::Combine(testing::Values(fate::drop, fate::silence),
                                          testing::Values(place::before_commit, place::after_commit, place::in_reply)),
                         case_name);

// Every message to the server may be lost on its way: fetch, work, ack and COMMIT.
TEST(redelivery_after_loss, of_any_message_to_the_server) {
    delivery of;
    idem::test::proxy proxy{test::upstream()};
    proxy.at_commit([random = std::minstd_rand{7}](auto&) mutable {
        return random() % 4 ? idem::test::pass() : idem::test::drop(static_cast<place>(random() % 3));
    });
    idem::client client{test::through(proxy)};
    proxy.drop_probability(0.1);
    while (proxy.totals().lost() < static_cast<std::uint64_t>(times())) {
        of.publish(200);
        idem::consumer{client, of.name, of.insert(), {.batch = 5}}.drain();
    }
    of.check();
}

// In the middle of the callback, before and after its statement; the first time of each message.
TEST(redelivery_after_loss, in_the_callback) {
    delivery of;
    idem::test::proxy proxy{test::upstream()};
    idem::pqxx_client client{test::through(proxy)};
    of.publish(times());
    std::int64_t last = 0;
    idem::consumer{client,
                   of.name,
                   [&](auto& tx, const message& m) {
                       const bool first = std::exchange(last, m.id) != m.id;
                       if (first && m.id % 2 == 0) proxy.drop_all();
                       of.insert()(tx, m);
                       if (first) proxy.drop_all();
                   },
                   {.batch = 1}}
        .drain();
    of.check();
    EXPECT_GE(proxy.totals().dropped_at(place::on_demand), static_cast<std::uint64_t>(times()));
}

// At any time, a wait and the reply to a fetch included, while messages come in.
TEST(redelivery_after_loss, at_any_time) {
    delivery of;
    idem::test::proxy proxy{test::upstream()};
    idem::client client{test::through(proxy)};
    idem::consumer one{client, of.name, of.insert(), {.batch = 20}};
    std::thread worker{[&] { one.run(); }};
    std::minstd_rand random{11};
    std::uniform_int_distribution microseconds{0, 20'000};
    const auto connected = [&] { return proxy.totals().connections > proxy.totals().lost(); };
    while (proxy.totals().lost() < static_cast<std::uint64_t>(times() / 3)) {
        of.publish(10);
        while (!connected()) std::this_thread::sleep_for(1ms); // it pauses longer and longer
        std::this_thread::sleep_for(std::chrono::microseconds{microseconds(random)});
        proxy.drop_all();
    }
    one.stop();
    worker.join();
    idem::client second{""}; // the last connection that was cut may still have the lane
    idem::consumer{second, of.name, of.insert()}.drain();
    of.check();
}

// The server must not go on waiting for a client that is gone, and then hand the next message to it.
TEST(redelivery_after_loss, in_a_wait_ends_the_wait) {
    delivery of;
    test::session direct;
    idem::test::proxy proxy{test::upstream()};
    idem::client client{test::through(proxy)};
    idem::consumer one{client, of.name, of.insert(), {.wait = 60s}};
    std::thread worker{[&] { one.run(); }};
    const std::string waiting = "SELECT min(pid) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%''" +
                                of.name + "''%' AND pid <> pg_backend_pid()";
    std::string pid;
    while ((pid = direct.value(waiting)).empty()) std::this_thread::sleep_for(1ms);
    proxy.drop_all();
    const auto until = std::chrono::steady_clock::now() + 20s;
    const auto there = [&] { return direct.value("SELECT count(*) FROM pg_stat_activity WHERE pid = " + pid) != "0"; };
    while (there() && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(10ms);
    EXPECT_FALSE(there());
    one.stop();
    worker.join();
}
