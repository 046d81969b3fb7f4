// claim, complete, release in a transaction of the caller's, over libpq and over libpqxx.
#include "support.hpp"

namespace {

using idem::claim_status;
using namespace std::chrono_literals;

template <typename Transaction>
class claim : public testing::Test {
protected:
    const std::string key = test::fresh_key("claim");
    test::session direct{};
};
TYPED_TEST_SUITE(claim, test::transactions, );

} // namespace

TYPED_TEST(claim, is_claimed_then_completed_with_the_same_bytes) {
    std::string stored;
    {
        TypeParam tx;
        const auto first = idem::claim(*tx, this->key, R"({"a": 1})");
        EXPECT_TRUE(first);
        EXPECT_EQ(first.status(), claim_status::claimed);
        EXPECT_EQ(test::thrown([&] { (void)first.response(); }), "55000");
        stored = idem::complete(*tx, this->key, R"({"z":1,  "a": "it's \\ ü"})");
        tx.commit();
    }
    TypeParam tx;
    const auto second = idem::claim(*tx, this->key, R"({ "a" : 1 })");
    EXPECT_FALSE(second);
    EXPECT_EQ(second.status(), claim_status::completed);
    EXPECT_EQ(second.response(), stored);
    EXPECT_NE(stored.find(R"("it's \\ ü")"), std::string::npos) << stored;
}

TYPED_TEST(claim, of_another_request_is_a_mismatch_unless_unchecked) {
    {
        TypeParam tx;
        ASSERT_TRUE(idem::claim(*tx, this->key, R"({"pence": 100})"));
        idem::complete(*tx, this->key, "1");
        tx.commit();
    }
    TypeParam tx;
    EXPECT_EQ(idem::claim(*tx, this->key, R"({"pence": 999})").status(), claim_status::mismatch);
    EXPECT_EQ(idem::claim(*tx, this->key, idem::unchecked).status(), claim_status::completed);
}

TYPED_TEST(claim, of_a_key_that_is_held_is_in_progress) {
    TypeParam holder;
    ASSERT_TRUE(idem::claim(*holder, this->key, idem::unchecked));
    TypeParam other;
    const auto refused = idem::claim(*other, this->key, idem::unchecked, {.wait = 0ms});
    EXPECT_EQ(refused.status(), claim_status::in_progress);
    EXPECT_EQ(test::thrown([&] { (void)refused.response(); }), "55000");
}

TYPED_TEST(claim, in_another_scope_is_another_key) {
    TypeParam tx;
    EXPECT_TRUE(idem::claim(*tx, this->key, idem::unchecked, {.scope = "one's"}));
    EXPECT_TRUE(idem::claim(*tx, this->key, idem::unchecked, {.scope = "two"}));
    EXPECT_EQ(idem::complete(*tx, this->key, "1", "one's"), "1");
    EXPECT_EQ(idem::complete(*tx, this->key, "2", "two"), "2");
    tx.commit();
}

TYPED_TEST(claim, that_is_released_leaves_nothing) {
    {
        TypeParam tx;
        ASSERT_TRUE(idem::claim(*tx, this->key, idem::unchecked));
        idem::release(*tx, this->key);
        tx.commit();
    }
    EXPECT_EQ(this->direct.status(this->key), "unknown");
    TypeParam tx;
    EXPECT_TRUE(idem::claim(*tx, this->key, idem::unchecked));
}

TYPED_TEST(claim, lives_as_long_as_its_ttl) {
    TypeParam tx;
    ASSERT_TRUE(idem::claim(*tx, this->key, idem::unchecked, {.ttl = std::chrono::hours{2}}));
    idem::complete(*tx, this->key, "1");
    tx.commit();
    EXPECT_EQ(this->direct.value("SELECT expires_at - completed_at FROM idem_status('" + this->key + "')"), "02:00:00");
}

TYPED_TEST(claim, reports_what_the_server_refuses_by_its_sqlstate) {
    namespace sqlstate = idem::sqlstate;
    const auto refused = [](auto&& call) {
        TypeParam tx;
        return test::thrown([&] { call(*tx); });
    };
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::claim(tx, "", idem::unchecked); }), sqlstate::invalid_key);
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::claim(tx, std::string(256, 'x'), idem::unchecked); }),
              sqlstate::invalid_key);
    EXPECT_EQ(
        refused([&](auto&& tx) { (void)idem::claim(tx, "k", idem::unchecked, {.scope = std::string(256, 'x')}); }),
        sqlstate::invalid_scope);
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::claim(tx, "k", idem::unchecked, {.ttl = -1ms}); }),
              sqlstate::invalid_interval);
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::claim(tx, "k", "not JSON"); }), "22P02");
    EXPECT_EQ(refused([&](auto&& tx) { idem::complete(tx, "never claimed", "1"); }), sqlstate::not_claimed);
    EXPECT_EQ(refused([&](auto&& tx) { idem::release(tx, "never claimed"); }), sqlstate::not_claimed);
    EXPECT_EQ(refused([&](auto&& tx) {
                  (void)idem::claim(tx, this->key, idem::unchecked);
                  (void)idem::claim(tx, this->key, idem::unchecked);
              }),
              sqlstate::already_claimed);
    EXPECT_EQ(refused([&](auto&& tx) {
                  (void)idem::claim(tx, this->key, idem::unchecked);
                  idem::complete(tx, this->key, "1");
                  idem::complete(tx, this->key, "1");
              }),
              sqlstate::already_completed);
}

// Two keys that differ after a zero byte must not become one.
TYPED_TEST(claim, refuses_a_zero_byte) {
    using namespace std::string_view_literals;
    TypeParam tx;
    EXPECT_EQ(test::thrown([&] { (void)idem::claim(*tx, "a\0b"sv, idem::unchecked); }), "22021");
    EXPECT_EQ(test::thrown([&] { (void)idem::claim(*tx, "a", idem::unchecked, {.scope = std::string("a\0b"sv)}); }),
              "22021");
    EXPECT_EQ(test::thrown([&] { (void)idem::complete(*tx, "a", "1\0"sv); }), "22021");
}

TEST(claim_open, is_an_error_at_commit) {
    test::session session;
    session.exec("BEGIN");
    ASSERT_TRUE(idem::claim(session.get(), test::fresh_key(), idem::unchecked));
    EXPECT_EQ(test::thrown([&] { session.exec("COMMIT"); }), idem::sqlstate::claim_open);
}

TEST(claim_status, is_spelt_as_in_the_extension) {
    EXPECT_EQ(to_string(claim_status::claimed), "claimed");
    EXPECT_EQ(to_string(claim_status::in_progress), "in_progress");
    EXPECT_EQ(to_string(claim_status::cancelled), "cancelled");
    EXPECT_EQ(test::thrown([] { idem::detail::parse_status("else"); }), "0A000");
}

// standard_conforming_strings off makes a backslash special.
TEST(claim_quoting, follows_the_session) {
    test::session session;
    const std::string key = test::fresh_key("it's \\' quoted");
    for (const std::string setting : {"off", "on"}) {
        session.exec("SET standard_conforming_strings = " + setting);
        session.exec("BEGIN");
        EXPECT_EQ(bool(idem::claim(session.get(), key, idem::unchecked)), setting == "off");
        if (setting == "off") idem::complete(session.get(), key, R"("\\")");
        session.exec("COMMIT");
    }
}
