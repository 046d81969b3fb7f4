// claim_lease and what a lease can do, in transactions of the caller's or without, over libpq and over libpqxx.
#include "support.hpp"

#include <future>
#include <thread>

namespace {

using idem::claim_status;
using namespace std::chrono_literals;

template <typename Transaction>
class lease : public testing::Test {
protected:
    static void SetUpTestSuite() {
        test::session{}.exec("SET client_min_messages = warning; DROP TABLE IF EXISTS lease_undone CASCADE;"
                             "CREATE TABLE lease_undone (what jsonb);"
                             "CREATE OR REPLACE FUNCTION lease_undo(what jsonb) RETURNS void LANGUAGE sql "
                             "AS 'INSERT INTO public.lease_undone VALUES (what)'");
    }

    idem::lease take(std::chrono::milliseconds length = 1h, const idem::claim_options& options = {.wait = 0ms},
                     std::optional<std::string_view> request = idem::unchecked) {
        return commit([&](auto&& tx) { return idem::claim_lease(tx, key, request, length, options); });
    }
    // What `call` returns, in a transaction of its own.
    template <typename Call>
    auto commit(Call&& call) {
        Transaction tx;
        if constexpr (std::is_void_v<decltype(call(*tx))>) {
            call(*tx);
            tx.commit();
        } else {
            auto answer = call(*tx);
            tx.commit();
            return answer;
        }
    }
    // The SQLSTATE of what `call` throws there.
    template <typename Call>
    std::string refused(Call&& call) {
        return test::thrown([&] { commit(std::forward<Call>(call)); });
    }
    void let_it_end(std::string_view scope = "") {
        direct.exec("UPDATE idem_pinned SET lease_ends_at = now() - interval '1 s' WHERE key = '" + key +
                    "' AND scope = '" + std::string{scope} + "'");
    }

    const std::string key = test::fresh_key("lease");
    test::session direct{};
};
TYPED_TEST_SUITE(lease, test::transactions, );

} // namespace

TYPED_TEST(lease, spans_transactions) {
    const auto held = this->take(1h, {}, R"({"a": 1})");
    ASSERT_TRUE(held);
    EXPECT_EQ(held.key(), this->key);
    EXPECT_EQ(held.scope(), "");
    EXPECT_GT(held.token(), 0);
    EXPECT_EQ(held.attempt(), 1);
    EXPECT_FALSE(held.checkpoint());
    EXPECT_EQ(test::thrown([&] { (void)held.response(); }), "55000");

    const auto other = this->take();
    EXPECT_FALSE(other);
    EXPECT_EQ(other.status(), claim_status::in_progress);
    EXPECT_EQ(other.attempt(), 0);
    EXPECT_EQ(test::thrown([&] { (void)other.token(); }), "55000");
    EXPECT_EQ(this->take(1h, {}, R"({"a": 2})").status(), claim_status::mismatch);

    this->commit([&](auto&& tx) { idem::renew(tx, held, 2h); });
    EXPECT_EQ(this->direct.value("SELECT expires_at > now() + interval '90 min' FROM idem_status('" + this->key + "')"),
              "t");
    const auto stored = this->commit([&](auto&& tx) { return idem::complete(tx, held, R"({ "b":2 })"); });
    EXPECT_EQ(stored, R"({"b": 2})");
    const auto replay = this->take(1h, {}, R"({"a": 1})");
    EXPECT_EQ(replay.status(), claim_status::completed);
    EXPECT_EQ(replay.response(), stored);
    EXPECT_EQ(replay.attempt(), 1);
    EXPECT_TRUE(replay.cacheable_until());
}

TYPED_TEST(lease, that_is_over_is_taken_with_the_last_checkpoint) {
    const auto first = this->take(1h, {.scope = "one's", .wait = 0ms});
    this->commit([&](auto&& tx) { idem::checkpoint(tx, first, "it's", R"({"n":1})"); });
    this->commit([&](auto&& tx) { idem::checkpoint(tx, first, "charged"); });
    this->let_it_end("one''s");
    const auto second = this->take(1h, {.scope = "one's", .wait = 0ms});
    ASSERT_TRUE(second);
    EXPECT_EQ(second.attempt(), 2);
    EXPECT_NE(second.token(), first.token());
    ASSERT_TRUE(second.checkpoint());
    EXPECT_EQ(second.checkpoint()->step, "charged");
    EXPECT_EQ(second.checkpoint()->state, "null");
    this->commit([&](auto&& tx) { idem::checkpoint(tx, second, "it's", R"({"n":1})"); });
    this->let_it_end("one''s");
    const auto third = this->take(1h, {.scope = "one's", .wait = 0ms});
    ASSERT_TRUE(third.checkpoint());
    EXPECT_EQ(third.checkpoint()->step, "it's");
    EXPECT_EQ(third.checkpoint()->state, R"({"n": 1})");
    EXPECT_EQ(third.attempt(), 3);
}

TYPED_TEST(lease, that_is_lost_refuses_its_late_owner) {
    const auto late = this->take();
    this->let_it_end();
    const auto owner = this->take();
    namespace sqlstate = idem::sqlstate;
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::renew(tx, late, 1h); }), sqlstate::lease_lost);
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::checkpoint(tx, late, "s"); }), sqlstate::lease_lost);
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::compensate_with(tx, late, "lease_undo(jsonb)", "1"); }),
              sqlstate::lease_lost);
    EXPECT_EQ(this->refused([&](auto&& tx) { (void)idem::complete(tx, late, "1"); }), sqlstate::lease_lost);
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::release(tx, late); }), sqlstate::lease_lost);
    EXPECT_EQ(this->commit([&](auto&& tx) { return idem::complete(tx, owner, "2"); }), "2");
    EXPECT_EQ(this->take().response(), "2");
}

// The step of an owner that has lost the lease meanwhile goes with its checkpoint.
TYPED_TEST(lease, fences_off_a_late_step) {
    const auto late = this->take();
    {
        TypeParam tx;
        tx.value("WITH work AS (INSERT INTO lease_undone VALUES ('\"late\"') RETURNING 1) SELECT * FROM work");
        this->let_it_end();
        EXPECT_TRUE(this->take());
        EXPECT_EQ(test::thrown([&] { idem::checkpoint(*tx, late, "late"); }), idem::sqlstate::lease_lost);
        EXPECT_NE(test::thrown([&] { tx.value("SELECT 1"); }), "none");
    }
    EXPECT_EQ(this->direct.value("SELECT count(*) FROM lease_undone WHERE what = '\"late\"'"), "0");
}

TYPED_TEST(lease, that_is_released_begins_anew) {
    const auto held = this->take();
    this->commit([&](auto&& tx) { idem::checkpoint(tx, held, "one"); });
    this->commit([&](auto&& tx) { idem::release(tx, held); });
    const auto next = this->take();
    ASSERT_TRUE(next);
    EXPECT_EQ(next.attempt(), 1);
    EXPECT_FALSE(next.checkpoint());
}

TYPED_TEST(lease, ends_by_itself) {
    ASSERT_TRUE(this->take(50ms));
    const auto next = this->take(1h, {.wait = 10s});
    ASSERT_TRUE(next);
    EXPECT_EQ(next.attempt(), 2);
}

TYPED_TEST(lease, is_waited_for) {
    const auto held = this->take();
    auto waiting = std::async(std::launch::async, [&] { return this->take(1h, {.wait = 60s}); });
    std::this_thread::sleep_for(50ms);
    this->commit([&](auto&& tx) { return idem::complete(tx, held, "1"); });
    EXPECT_EQ(waiting.get().response(), "1");
}

TYPED_TEST(lease, is_taken_over_by_an_ordinary_claim_too) {
    const auto late = this->take();
    this->let_it_end();
    this->commit([&](auto&& tx) {
        ASSERT_TRUE(idem::claim(tx, this->key, idem::unchecked));
        idem::complete(tx, this->key, "2");
    });
    EXPECT_EQ(this->refused([&](auto&& tx) { (void)idem::complete(tx, late, "1"); }), idem::sqlstate::lease_lost);
    EXPECT_EQ(this->take().attempt(), 2);
}

TYPED_TEST(lease, in_a_transaction_is_had_when_that_commits) {
    {
        TypeParam tx;
        ASSERT_TRUE(idem::claim_lease(*tx, this->key, idem::unchecked, 1h));
    }
    EXPECT_TRUE(this->take(1h, {})); // which the server may still be rolling back
}

// Registered with its checkpoint, kept although the key is never completed.
TYPED_TEST(lease, has_compensations_with_a_deadline) {
    const auto held = this->take();
    this->commit([&](auto&& tx) {
        idem::compensate_with(tx, held, "lease_undo(jsonb)", "\"it's " + this->key + "\"", 2h);
        idem::checkpoint(tx, held, "registered");
    });
    EXPECT_EQ(this->direct.value("SELECT date_trunc('hour', deadline - now() + interval '30 min') || state "
                                 "FROM idem_compensations WHERE key = '" +
                                 this->key + "'"),
              "02:00:00leased");
    const auto cancel = [&] {
        return this->commit([&](auto&& tx) { return idem::cancel(tx, this->key, {.wait = 0ms}).status(); });
    };
    EXPECT_EQ(cancel(), idem::cancel_status::in_progress);
    this->let_it_end();
    EXPECT_EQ(cancel(), idem::cancel_status::compensated);
    EXPECT_EQ(this->direct.value("SELECT count(*) FROM lease_undone WHERE what = '\"it''s " + this->key + "\"'"), "1");
    EXPECT_EQ(this->refused([&](auto&& tx) { (void)idem::complete(tx, held, "1"); }), idem::sqlstate::lease_lost);
    EXPECT_EQ(this->take().status(), claim_status::cancelled);
}

TYPED_TEST(lease, reports_what_the_server_refuses_by_its_sqlstate) {
    namespace sqlstate = idem::sqlstate;
    using namespace std::string_view_literals;
    const auto held = this->take();
    EXPECT_EQ(test::thrown([&] { (void)this->take(0ms); }), sqlstate::invalid_interval);
    EXPECT_EQ(test::thrown([&] { (void)this->take(25h); }), sqlstate::invalid_interval);
    EXPECT_EQ(test::thrown([&] { (void)this->take(1h, {.wait = -1ms}); }), sqlstate::invalid_interval);
    EXPECT_EQ(test::thrown([&] { (void)this->take(1h, {}, "not JSON"); }), "22P02");
    EXPECT_EQ(this->refused([&](auto&& tx) { (void)idem::claim_lease(tx, "", idem::unchecked, 1h); }),
              sqlstate::invalid_key);
    EXPECT_EQ(this->refused([&](auto&& tx) { (void)idem::claim_lease(tx, "a\0b"sv, idem::unchecked, 1h); }), "22021");
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::renew(tx, held, -1ms); }), sqlstate::invalid_interval);
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::checkpoint(tx, held, ""); }), sqlstate::invalid_name);
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::checkpoint(tx, held, "s", "not JSON"); }), "22P02");
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::compensate_with(tx, held, "nothing(jsonb)", "1"); }), "42883");
    EXPECT_EQ(this->refused([&](auto&& tx) { (void)idem::complete(tx, held, "not JSON"); }), "22P02");
    const auto other = this->take();
    EXPECT_EQ(this->refused([&](auto&& tx) { idem::renew(tx, other, 1h); }), "55000");
}

// Without a transaction each call is one by itself.
TEST(lease_outside_of_transactions, needs_none) {
    test::session open;
    const std::string key = test::fresh_key("lease");
    const auto held = idem::claim_lease(open.get(), key, idem::unchecked, 1h);
    ASSERT_TRUE(held);
    idem::renew(open.get(), held, 1h);
    idem::checkpoint(open.get(), held, "one");
    idem::compensate_with(open.get(), held, "lease_undo(jsonb)", "1");
    EXPECT_EQ(open.status(key), "in_progress");
    EXPECT_EQ(idem::complete(open.get(), held, "1"), "1");
    EXPECT_EQ(open.status(key), "completed");
}
