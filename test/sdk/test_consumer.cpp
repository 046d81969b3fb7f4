// consumer: what its callback gets, what stops it, what passes. Over libpq and libpqxx.
#include "support.hpp"

#include <csignal>
#include <future>
#include <thread>
#include <vector>

namespace {

using idem::message;
using namespace std::chrono_literals;

template <typename Way>
class consumer : public testing::Test {
protected:
    void SetUp() override {
        direct.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + topic + "'])");
        direct.exec("CREATE TABLE " + table + " (place serial, id bigint)");
    }
    void TearDown() override {
        direct.exec("SELECT idem_unsubscribe('" + name + "')");
        direct.exec("DROP TABLE " + table);
    }
    void publish(int count) {
        for (int i = 0; i < count; ++i) idem::publish(direct.get(), topic, std::to_string(i));
    }
    [[nodiscard]] std::string insert(const message& m) const {
        return "INSERT INTO " + table + " (id) VALUES (" + std::to_string(m.id) + ")";
    }
    auto inserting() {
        return [this](auto& tx, const message& m) { tx.exec(insert(m)); };
    }
    // How many messages were worked on; each of them once, in order.
    int applied() {
        EXPECT_EQ(direct.value("SELECT count(*) FROM (SELECT id <= lag(id) OVER (ORDER BY place) AS bad FROM " + table +
                               ") AS t WHERE bad"),
                  "0");
        return std::stoi(direct.value("SELECT count(*) FROM " + table));
    }
    std::string left() { return direct.value("SELECT depth FROM idem_consumers WHERE consumer = '" + name + "'"); }

    // To be asked before another thread has the client, which may replace the connection.
    static int backend_of(typename Way::client& on) { return PQbackendPID(Way::raw(on)); }
    // Until the server waits for a message, or does no more.
    void await(int backend, std::string_view condition) {
        std::string sql = "SELECT ";
        sql.append(condition).append(" FROM pg_stat_activity WHERE pid = ");
        sql += std::to_string(backend);
        while (direct.value(sql) != "t") std::this_thread::sleep_for(1ms);
    }

    const std::string name = test::fresh_key("consumer"), topic = test::fresh_key("topic");
    const std::string table = "consumer_" + std::to_string(getpid());
    test::session direct{};
};
TYPED_TEST_SUITE(consumer, test::both, );

constexpr auto waits = "query LIKE '%idem_fetch%' AND state = 'active'", idles = "state = 'idle'";

} // namespace

TYPED_TEST(consumer, works_on_each_message_once_in_order) {
    this->publish(25);
    typename TypeParam::client client{""};
    idem::consumer one{client, this->name, this->inserting(), {.batch = 10}};
    one.drain();
    one.drain();
    EXPECT_EQ(this->applied(), 25);
    this->publish(1);
    one.drain();
    EXPECT_EQ(this->applied(), 26);
    EXPECT_EQ(this->left(), "0");
}

TYPED_TEST(consumer, gets_messages_as_published) {
    idem::publish(this->direct.get(), this->topic, R"({"z":1.10, "a":"ü\n"})",
                  {.key = "k", .type = "t", .headers = R"({"h":1})"});
    idem::publish(this->direct.get(), this->topic, "2");
    typename TypeParam::client client{"options='-c datestyle=SQL,DMY -c timezone=Asia/Kathmandu'"};
    std::vector<message> got;
    idem::consumer{client, this->name, [&](auto&, const message& m) { got.push_back(m); }}.drain();
    ASSERT_EQ(got.size(), 2U);
    EXPECT_LT(got[0].id, got[1].id);
    EXPECT_EQ(got[0].topic, this->topic);
    EXPECT_EQ(got[0].key, "k");
    EXPECT_EQ(got[0].type, "t");
    EXPECT_EQ(got[0].payload, R"({"a": "ü\n", "z": 1.10})");
    EXPECT_EQ(got[0].headers, R"({"h": 1})");
    EXPECT_EQ(got[0].attempt, 1);
    EXPECT_EQ(got[0].created_at[10], 'T');
    EXPECT_EQ(got[0].created_at.substr(got[0].created_at.size() - 6), "+05:45");
    EXPECT_EQ(got[1].key, std::nullopt);
    EXPECT_EQ(got[1].type, std::nullopt);
    EXPECT_EQ(got[1].headers, std::nullopt);
}

TYPED_TEST(consumer, takes_whole_batches) {
    this->publish(5);
    typename TypeParam::client client{""};
    std::vector<std::size_t> sizes;
    idem::consumer{client,
                   this->name,
                   [&](auto& tx, std::span<const message> batch) {
                       for (const message& each : batch) tx.exec(this->insert(each));
                       sizes.push_back(batch.size());
                   },
                   {.batch = 2}}
        .drain();
    EXPECT_EQ(sizes, (std::vector<std::size_t>{2, 2, 1}));
    EXPECT_EQ(this->applied(), 5);
}

TYPED_TEST(consumer, lingers_after_a_batch_that_was_not_full) {
    typename TypeParam::client client{""};
    std::vector<std::size_t> sizes;
    std::promise<void> first, all;
    std::size_t seen = 0;
    idem::consumer one{client,
                       this->name,
                       [&](auto&, std::span<const message> batch) {
                           sizes.push_back(batch.size());
                           if (seen == 0) first.set_value();
                           if ((seen += batch.size()) == 25) all.set_value();
                       },
                       {.batch = 20, .linger = 3s}};
    std::jthread worker{[&] { one.run(); }};
    this->publish(1);
    first.get_future().wait();
    this->publish(24); // each a transaction of its own
    all.get_future().wait();
    one.stop(); // the last batch was not full either
    worker.join();
    EXPECT_EQ(sizes, (std::vector<std::size_t>{1, 20, 4}));
}

TYPED_TEST(consumer, needs_two_round_trips_for_a_batch) {
    this->publish(3);
    idem::test::proxy proxy{test::upstream()};
    typename TypeParam::client client{test::through(proxy)};
    idem::consumer{client, this->name, this->inserting()}.drain();
    EXPECT_EQ(proxy.totals().round_trips, 2U + 3U + 2U + 2U); // the last four of two empty fetches
}

TYPED_TEST(consumer, gets_a_message_that_it_waits_for_at_once) {
    typename TypeParam::client client{""};
    idem::consumer one{client, this->name, this->inserting(), {.wait = 60s}};
    const int backend = this->backend_of(client);
    std::thread worker{[&] { one.run(); }};
    this->await(backend, waits);
    const auto published = std::chrono::steady_clock::now();
    this->publish(1);
    while (this->applied() == 0) std::this_thread::sleep_for(1ms);
    EXPECT_LT(std::chrono::steady_clock::now() - published, 1s);
    one.stop();
    worker.join();
}

TYPED_TEST(consumer, stops_at_once_in_a_wait) {
    typename TypeParam::client client{""};
    idem::consumer one{client, this->name, this->inserting(), {.wait = 60s}};
    const int backend = this->backend_of(client);
    std::thread worker{[&] { one.run(); }};
    this->await(backend, waits);
    const auto told = std::chrono::steady_clock::now();
    one.stop();
    worker.join();
    EXPECT_LT(std::chrono::steady_clock::now() - told, 1s);
    this->await(backend, idles); // the server too; and the connection is as good as new
    EXPECT_EQ(PQtransactionStatus(TypeParam::raw(client)), PQTRANS_IDLE);
    this->publish(1);
    one.run(); // returns
    EXPECT_EQ(this->applied(), 0);
}

TYPED_TEST(consumer, stops_by_a_signal) {
    static idem::consumer* to_stop;
    typename TypeParam::client client{""};
    idem::consumer one{client, this->name, this->inserting(), {.wait = 60s}};
    to_stop = &one;
    std::signal(SIGUSR1, [](int) { to_stop->stop(); });
    const int backend = this->backend_of(client);
    std::thread worker{[&] { one.run(); }};
    this->await(backend, waits);
    pthread_kill(worker.native_handle(), SIGUSR1);
    worker.join();
    std::signal(SIGUSR1, SIG_DFL);
    to_stop = nullptr;
}

TYPED_TEST(consumer, stops_after_the_batch_in_hand) {
    this->publish(5);
    typename TypeParam::client client{""};
    idem::consumer one{client,
                       this->name,
                       [&](auto& tx, const message& m) {
                           one.stop();
                           tx.exec(this->insert(m));
                       },
                       {.batch = 3}};
    one.run();
    EXPECT_EQ(this->applied(), 3);
    EXPECT_EQ(this->left(), "2");
}

TYPED_TEST(consumer, stops_while_there_is_no_server) {
    idem::test::proxy proxy{test::upstream()};
    typename TypeParam::client client{test::through(proxy)};
    std::promise<void> trying;
    bool first = true;
    idem::consumer one{client, this->name, this->inserting(), {.on_retry = [&](const std::exception&) {
                           if (std::exchange(first, false)) trying.set_value();
                       }}};
    const int backend = this->backend_of(client);
    std::thread worker{[&] { one.run(); }};
    this->await(backend, waits);
    proxy.refuse(true);
    proxy.drop_all();
    trying.get_future().wait();
    one.stop();
    worker.join();
}

TYPED_TEST(consumer, is_given_up_by_throwing_from_on_retry) {
    idem::test::proxy proxy{test::upstream()};
    typename TypeParam::client client{test::through(proxy)};
    idem::consumer one{client, this->name, this->inserting(), {.on_retry = [&](const std::exception& failure) {
                           const auto* const refused = dynamic_cast<const idem::error*>(&failure);
                           if (refused != nullptr && refused->sqlstate() == idem::sqlstate::cannot_connect)
                               throw idem::error{*refused};
                       }}};
    proxy.refuse(true);
    proxy.drop_all();
    EXPECT_EQ(test::thrown([&] { one.run(); }), idem::sqlstate::cannot_connect);
}

TYPED_TEST(consumer, passes_what_is_no_exception_and_rolls_back) {
    this->publish(3);
    typename TypeParam::client client{""};
    int calls = 0;
    idem::consumer one{client, this->name, [&](auto& tx, const message& m) {
                           tx.exec(this->insert(m));
                           if (++calls == 2) throw 5; // NOLINT(misc-throw-by-value-catch-by-reference)
                       }};
    EXPECT_THROW(one.run(), int);
    EXPECT_EQ(this->applied(), 0);
    EXPECT_EQ(this->left(), "3");
    one.drain();
    EXPECT_EQ(this->applied(), 3);
}

TYPED_TEST(consumer, passes_what_on_retry_throws) {
    this->publish(3);
    typename TypeParam::client client{""};
    EXPECT_EQ(test::thrown([&] {
                  idem::consumer{client,
                                 this->name,
                                 [](auto& tx, const message&) { tx.exec("SELECT 1/0"); },
                                 {.on_retry = [](const std::exception&) { throw; }}}
                      .run();
              }),
              "22012");
    EXPECT_EQ(PQtransactionStatus(TypeParam::raw(client)), PQTRANS_IDLE);
    EXPECT_EQ(this->left(), "3");
}

TYPED_TEST(consumer, tries_serialization_failures_and_deadlocks_again) {
    this->publish(2);
    typename TypeParam::client client{""};
    int calls = 0, retries = 0;
    idem::consumer{client,
                   this->name,
                   [&](auto& tx, const message& m) {
                       tx.exec(this->insert(m));
                       if (++calls <= 2)
                           tx.exec(std::string{"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '"} +
                                   (calls == 1 ? "40001" : "40P01") + "'; END $$");
                   },
                   {.on_retry = [&](const std::exception&) { ++retries; }}}
        .drain();
    EXPECT_EQ(this->applied(), 2);
    EXPECT_EQ(retries, 2);
}

TYPED_TEST(consumer, tries_again_for_as_long_as_it_is_asked_to) {
    this->publish(3);
    typename TypeParam::client client{""};
    int calls = 0, retries = 0;
    const auto away = [&](auto& tx, std::span<const message> batch) {
        EXPECT_EQ(batch.size(), 3U);
        for (const message& each : batch) tx.exec(this->insert(each));
        if (++calls < 5) throw idem::try_again{"the broker is away"};
    };
    idem::consumer{client,
                   this->name,
                   away,
                   {.on_retry =
                        [&](const std::exception& failure) {
                            EXPECT_STREQ(failure.what(), "the broker is away");
                            ++retries;
                        }}}
        .drain();
    EXPECT_EQ(this->applied(), 3);
    EXPECT_EQ(retries, 4);

    this->publish(1); // and it can be stopped
    std::promise<void> trying;
    idem::consumer one{client,
                       this->name,
                       [](auto&, std::span<const message>) { throw idem::try_again{"still away"}; },
                       {.on_retry = [&](const std::exception&) {
                           if (++retries == 10) trying.set_value();
                       }}};
    std::thread worker{[&] { one.run(); }};
    trying.get_future().wait();
    const auto told = std::chrono::steady_clock::now();
    one.stop();
    worker.join();
    EXPECT_LT(std::chrono::steady_clock::now() - told, 500ms); // of a pause of up to a second
    EXPECT_EQ(this->left(), "1");
}

TYPED_TEST(consumer, refuses_wrong_use) {
    typename TypeParam::client client{""};
    const auto refusal = [&](const std::string& of, idem::consumer_options options) {
        return test::thrown([&] {
            idem::consumer{client, of, [](auto&, const message&) {}, std::move(options)}.run();
        });
    };
    EXPECT_EQ(refusal(this->name + "?", {}), "42704");
    EXPECT_EQ(refusal("", {}), idem::sqlstate::invalid_name);
    EXPECT_EQ(refusal(this->name, {.batch = 0}), "22023");
    EXPECT_EQ(refusal(this->name, {.wait = 61s}), idem::sqlstate::invalid_interval);
    EXPECT_EQ(refusal(this->name, {.wait = -1s}), idem::sqlstate::invalid_interval);
    idem::transaction{TypeParam::raw(client), 60s}.exec("BEGIN");
    EXPECT_EQ(refusal(this->name, {}), "25001");
    idem::transaction{TypeParam::raw(client), 60s}.exec("ROLLBACK");
}

TYPED_TEST(consumer, outlives_a_statement_timeout_and_a_cancelled_wait) {
    typename TypeParam::client client{"options='-c statement_timeout=100ms'"};
    const auto insert = this->inserting();
    const auto apply = [&](auto& tx, const message& m) {
        tx.exec("SET LOCAL statement_timeout = 0"); // only the wait is to run into it
        insert(tx, m);
    };
    idem::consumer one{client, this->name, apply, {.wait = 60s}};
    std::thread worker{[&] { one.run(); }};
    // Midway between two timeouts: one in the instant after a fetch would meet an idle transaction, and break it.
    std::this_thread::sleep_for(250ms);
    this->publish(1);
    while (this->applied() == 0) std::this_thread::sleep_for(1ms);
    one.stop();
    worker.join();
}

TYPED_TEST(consumer, works_at_read_committed_whatever_the_session_says) {
    this->publish(1);
    typename TypeParam::client client{"options='-c default_transaction_isolation=serializable'"};
    std::string level;
    idem::consumer{client, this->name,
                   [&](auto& tx, const message&) { level = TypeParam::value(tx, "SHOW transaction_isolation"); }}
        .drain();
    EXPECT_EQ(level, "read committed");
}

TYPED_TEST(consumer, of_one_name_work_one_at_a_time) {
    constexpr int messages = 300;
    std::vector<std::thread> threads;
    std::vector<std::unique_ptr<typename TypeParam::client>> clients;
    std::vector<std::unique_ptr<idem::consumer>> all;
    for (int i = 0; i < 3; ++i) {
        clients.push_back(std::make_unique<typename TypeParam::client>(""));
        all.push_back(std::make_unique<idem::consumer>(*clients.back(), this->name, this->inserting(),
                                                       idem::consumer_options{.batch = 7}));
        threads.emplace_back([&one = *all.back()] { one.run(); });
    }
    this->publish(messages);
    while (this->left() != "0") std::this_thread::sleep_for(1ms);
    for (const auto& each : all) each->stop();
    for (std::thread& each : threads) each.join();
    EXPECT_EQ(this->applied(), messages);
}

TEST(consumer_of_a_borrowed_connection, leaves_it_open) {
    test::session direct;
    const std::string name = test::fresh_key("consumer");
    direct.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + name + "'])");
    idem::publish(direct.get(), name, "1");
    {
        idem::client client{direct.get()};
        int calls = 0;
        idem::consumer{client, name, [&](idem::transaction&, const message&) { ++calls; }}.drain();
        EXPECT_EQ(calls, 1);
    }
    direct.exec("SELECT idem_unsubscribe('" + name + "')");
}
