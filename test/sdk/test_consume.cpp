// The inbox, both forms, over libpq and libpqxx.
#include "support.hpp"

namespace {

using idem::consume_status;
using namespace std::chrono_literals;

struct consume : testing::Test {
    const std::string source = test::fresh_key("source");
};

} // namespace

TEST_F(consume, is_true_once) {
    test::session open;
    idem::transaction tx{open.get(), 60s};
    EXPECT_TRUE(idem::consume(open.get(), source, "a"));
    EXPECT_FALSE(idem::consume(open.get(), source, "a"));
    EXPECT_FALSE(idem::consume(tx, source, "a"));
    EXPECT_TRUE(idem::consume(tx, source, "it's b"));
    pqxx::connection connection;
    pqxx::work work{connection};
    EXPECT_FALSE(idem::consume(work, source, "it's b"));
    EXPECT_TRUE(idem::consume(work, source, "c"));
    EXPECT_TRUE(idem::consume(work, source + "'", "c"));
}

TEST_F(consume, forgets_what_is_rolled_back) {
    test::session open;
    open.exec("BEGIN");
    EXPECT_TRUE(idem::consume(open.get(), source, "a"));
    open.exec("ROLLBACK");
    EXPECT_TRUE(idem::consume(open.get(), source, "a"));
}

TEST_F(consume, by_sequence_is_first_duplicate_or_gap) {
    test::session open;
    idem::transaction tx{open.get(), 60s};
    pqxx::connection connection;
    EXPECT_EQ(idem::consume_seq(open.get(), source, 7, 2), consume_status::gap);
    EXPECT_EQ(idem::consume_seq(open.get(), source, 7, 1), consume_status::first);
    EXPECT_EQ(idem::consume_seq(tx, source, 7, 1), consume_status::duplicate);
    EXPECT_EQ(idem::consume_seq(tx, source, 8, 1), consume_status::first);
    pqxx::work work{connection};
    EXPECT_EQ(idem::consume_seq(work, source, 7, 2), consume_status::first);
    EXPECT_EQ(idem::consume_seq(work, source, 7, 4), consume_status::gap);
    EXPECT_EQ(to_string(consume_status::duplicate), "duplicate");
}

TEST_F(consume, refuses_what_is_wrong) {
    test::session open;
    pqxx::connection connection;
    const auto refusal = [&](auto&& call) {
        auto over_libpq = test::thrown([&] { call(open.get()); });
        pqxx::work tx{connection};
        EXPECT_EQ(test::thrown([&] { call(tx); }), over_libpq);
        return over_libpq;
    };
    EXPECT_EQ(refusal([](auto&& tx) { (void)idem::consume(tx, "", "a"); }), idem::sqlstate::invalid_name);
    EXPECT_EQ(refusal([](auto&& tx) { (void)idem::consume(tx, "a", ""); }), idem::sqlstate::invalid_name);
    EXPECT_EQ(refusal([](auto&& tx) { (void)idem::consume_seq(tx, "", 1, 1); }), idem::sqlstate::invalid_name);
    EXPECT_EQ(refusal([](auto&& tx) { (void)idem::consume_seq(tx, "a", 1, 0); }), "22023");
}
