// publish in a transaction of the caller's, over libpq, in run, and over libpqxx.
#include "support.hpp"

namespace {

struct publish : testing::Test {
    const std::string topic = test::fresh_key("topic");
    test::session direct{};

    std::string stored(std::int64_t id) {
        return direct.value("SELECT concat_ws(' ', topic = '" + topic +
                            "', coalesce(key, '-'), coalesce(type, '-'), payload, coalesce(headers::text, '-')) "
                            "FROM idem_outbox WHERE id = " +
                            std::to_string(id));
    }
    std::string count() { return direct.value("SELECT count(*) FROM idem_outbox WHERE topic = '" + topic + "'"); }
};

const idem::publish_options everything{.key = "it's \\ ü", .type = "paid", .headers = R"({"a": "b"})"};
constexpr std::string_view all_of_it = R"(t it's \ ü paid {"n": 1.10} {"a": "b"})";
constexpr std::string_view hardly_any = "t - - null -";

} // namespace

TEST_F(publish, over_libpq) {
    test::session open;
    open.exec("BEGIN");
    const auto first = idem::publish(open.get(), topic, R"({"n":1.10})", everything);
    const auto second = idem::publish(open.get(), topic, "null");
    EXPECT_EQ(count(), "0");
    open.exec("COMMIT");
    EXPECT_LT(first, second);
    EXPECT_EQ(stored(first), all_of_it);
    EXPECT_EQ(stored(second), hardly_any);
}

TEST_F(publish, in_run) {
    idem::client client{""};
    std::int64_t id = 0;
    ASSERT_TRUE(idem::run(client, test::fresh_key(), idem::unchecked, [&](idem::transaction& tx) {
        id = idem::publish(tx, topic, R"({"n":1.10})", everything);
        return std::string{"1"};
    }));
    EXPECT_EQ(stored(id), all_of_it);
}

TEST_F(publish, over_libpqxx) {
    pqxx::connection connection;
    pqxx::work tx{connection};
    const auto first = idem::publish(tx, topic, R"({"n":1.10})", everything);
    const auto second = idem::publish(tx, topic, "null");
    tx.commit();
    EXPECT_EQ(stored(first), all_of_it);
    EXPECT_EQ(stored(second), hardly_any);
}

TEST_F(publish, leaves_nothing_when_rolled_back) {
    test::session open;
    open.exec("BEGIN");
    idem::publish(open.get(), topic, "1");
    open.exec("ROLLBACK");
    {
        pqxx::connection connection;
        pqxx::work tx{connection};
        idem::publish(tx, topic, "1");
    }
    EXPECT_EQ(count(), "0");
}

TEST_F(publish, refuses_what_is_wrong) {
    const auto refusal = [&](const std::string& to, std::string_view payload, const idem::publish_options& options) {
        test::session open;
        auto over_libpq = test::thrown([&] { idem::publish(open.get(), to, payload, options); });
        pqxx::connection connection;
        pqxx::work tx{connection};
        EXPECT_EQ(test::thrown([&] { idem::publish(tx, to, payload, options); }), over_libpq);
        return over_libpq;
    };
    EXPECT_EQ(refusal("", "1", {}), idem::sqlstate::invalid_name);
    EXPECT_EQ(refusal(std::string(256, 'x'), "1", {}), idem::sqlstate::invalid_name);
    EXPECT_EQ(refusal(topic, "{no json", {}), "22P02");
    EXPECT_EQ(refusal(topic, "1", {.headers = "[]"}), "22023");
    EXPECT_EQ(refusal(topic, "1", {.key = std::string{"a\0b", 3}}), "22021");
    EXPECT_EQ(count(), "0");
}
