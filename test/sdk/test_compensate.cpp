// compensate_with, confirm and cancel in a transaction of the caller's, over libpq and over libpqxx, and in run.
#include "support.hpp"

#include <future>
#include <thread>

namespace {

using idem::cancel_status;
using namespace std::chrono_literals;

template <typename Transaction>
class compensate : public testing::Test {
protected:
    static void SetUpTestSuite() {
        test::session{}.exec(
            "SET client_min_messages = warning; DROP TABLE IF EXISTS undone CASCADE;"
            "CREATE TABLE undone (place serial, what jsonb);"
            "CREATE OR REPLACE FUNCTION undo(what jsonb) RETURNS jsonb LANGUAGE sql "
            "AS 'INSERT INTO public.undone (what) VALUES (what) RETURNING what';"
            "CREATE OR REPLACE FUNCTION undo_paid(what jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO public.undone (what) VALUES (what);"
            "UPDATE public.undo_orders SET state = 'cancelled'; END $$;"
            "CREATE OR REPLACE FUNCTION undo_never(what jsonb) RETURNS void LANGUAGE plpgsql "
            "AS 'BEGIN RAISE EXCEPTION ''no'' USING ERRCODE = ''XX999''; END';"
            "DROP TABLE IF EXISTS undo_orders; CREATE TABLE undo_orders (id int PRIMARY KEY, state text);"
            "SELECT idem_attach('undo_orders', 'state', 'order'); INSERT INTO undo_orders VALUES (1, 'created');"
            "UPDATE undo_orders SET state = 'paid'");
    }

    // Does the work of the key, and has it undone by `handler` unless it is empty.
    void do_it(std::string_view handler = "undo(jsonb)", const idem::compensate_options& options = {}) {
        Transaction tx;
        ASSERT_TRUE(idem::claim(*tx, key, idem::unchecked, {.scope = options.scope}));
        if (!handler.empty()) idem::compensate_with(*tx, key, handler, args(), options);
        idem::complete(*tx, key, "1", options.scope);
        tx.commit();
    }
    idem::cancellation cancel(const idem::cancel_options& options = {}) {
        Transaction tx;
        auto answer = idem::cancel(*tx, key, options);
        tx.commit();
        return answer;
    }
    std::string args() const { return "\"it's \\\\ " + key + "\""; }
    std::string times_undone() {
        return direct.value("SELECT count(*) FROM undone WHERE what = " + direct.literal("\"it''s \\\\ " + key + "\""));
    }

    const std::string key = test::fresh_key("compensate");
    test::session direct{};
};
TYPED_TEST_SUITE(compensate, test::transactions, );

} // namespace

TYPED_TEST(compensate, undoes_once_and_answers_the_same_again) {
    this->do_it();
    const auto first = this->cancel({.reason = "it's wrong"});
    EXPECT_TRUE(first);
    EXPECT_EQ(first.status(), cancel_status::compensated);
    EXPECT_NE(first.response().find("it's wrong"), std::string::npos) << first.response();
    EXPECT_FALSE(first.step());
    const auto second = this->cancel();
    EXPECT_TRUE(second);
    EXPECT_EQ(second.status(), cancel_status::already);
    EXPECT_EQ(second.response(), first.response());
    EXPECT_EQ(this->times_undone(), "1");
    TypeParam tx;
    EXPECT_EQ(idem::claim(*tx, this->key, idem::unchecked).status(), idem::claim_status::cancelled);
}

TYPED_TEST(compensate, of_what_never_happened_keeps_it_from_happening) {
    const auto answer = this->cancel();
    EXPECT_TRUE(answer);
    EXPECT_EQ(answer.status(), cancel_status::tombstoned);
    EXPECT_EQ(this->cancel().status(), cancel_status::tombstoned);
    EXPECT_EQ(this->cancel().response(), answer.response());
    TypeParam tx;
    const auto late = idem::claim(*tx, this->key, idem::unchecked);
    EXPECT_EQ(late.status(), idem::claim_status::cancelled);
    EXPECT_EQ(test::thrown([&] { (void)late.response(); }), "55000");
}

TYPED_TEST(compensate, is_refused_once_confirmed) {
    this->do_it();
    for (int i = 0; i < 2; ++i) {
        TypeParam tx;
        idem::confirm(*tx, this->key);
        tx.commit();
    }
    const auto answer = this->cancel();
    EXPECT_FALSE(answer);
    EXPECT_EQ(answer.status(), cancel_status::refused);
    EXPECT_NE(answer.response().find("confirmed"), std::string::npos) << answer.response();
    EXPECT_FALSE(answer.step());
    EXPECT_EQ(this->times_undone(), "0");
}

TYPED_TEST(compensate, is_refused_without_a_handler) {
    this->do_it("");
    EXPECT_EQ(this->cancel().status(), cancel_status::refused);
}

TYPED_TEST(compensate, that_a_machine_refuses_leaves_everything_and_says_which_step) {
    this->do_it("undo_paid(jsonb)");
    const auto answer = this->cancel();
    EXPECT_EQ(answer.status(), cancel_status::refused);
    ASSERT_TRUE(answer.step());
    EXPECT_EQ(answer.step()->machine, "order");
    EXPECT_EQ(answer.step()->from, "paid");
    EXPECT_EQ(answer.step()->to, "cancelled");
    EXPECT_EQ(this->times_undone(), "0");
    TypeParam tx;
    EXPECT_EQ(idem::claim(*tx, this->key, idem::unchecked).status(), idem::claim_status::completed);
}

TYPED_TEST(compensate, that_fails_passes_the_error_and_leaves_everything) {
    this->do_it("undo_never(jsonb)");
    EXPECT_EQ(test::thrown([&] { (void)this->cancel(); }), "XX999");
    TypeParam tx;
    EXPECT_EQ(idem::claim(*tx, this->key, idem::unchecked).status(), idem::claim_status::completed);
}

TYPED_TEST(compensate, of_a_key_that_is_held_is_in_progress) {
    TypeParam holder;
    ASSERT_TRUE(idem::claim(*holder, this->key, idem::unchecked));
    const auto answer = this->cancel({.wait = 0ms});
    EXPECT_FALSE(answer);
    EXPECT_EQ(answer.status(), cancel_status::in_progress);
    EXPECT_EQ(test::thrown([&] { (void)answer.response(); }), "55000");
}

TYPED_TEST(compensate, goes_by_scope) {
    this->do_it("undo(jsonb)", {.scope = "one's"});
    EXPECT_EQ(this->cancel().status(), cancel_status::tombstoned);
    EXPECT_EQ(this->cancel({.scope = "one's"}).status(), cancel_status::compensated);
}

TYPED_TEST(compensate, is_confirmed_by_scope) {
    this->do_it("undo(jsonb)", {.scope = "one's"});
    const auto confirm = [&](std::string_view scope) {
        TypeParam tx;
        idem::confirm(*tx, this->key, scope);
        tx.commit();
    };
    EXPECT_EQ(test::thrown([&] { confirm(""); }), idem::sqlstate::not_completed);
    confirm("one's");
    EXPECT_EQ(this->cancel({.scope = "one's"}).status(), cancel_status::refused);
    EXPECT_EQ(this->cancel().status(), cancel_status::tombstoned);
    EXPECT_EQ(test::thrown([&] { confirm(""); }), idem::sqlstate::key_cancelled);
}

TYPED_TEST(compensate, is_forgotten_with_the_transaction) {
    this->do_it();
    {
        TypeParam tx;
        EXPECT_EQ(idem::cancel(*tx, this->key).status(), cancel_status::compensated);
    }
    EXPECT_EQ(this->times_undone(), "0");
    EXPECT_EQ(this->cancel().status(), cancel_status::compensated);
}

TYPED_TEST(compensate, has_a_deadline) {
    this->do_it("undo(jsonb)", {.deadline = 2h});
    EXPECT_EQ(this->direct.value("SELECT date_trunc('hour', deadline - now() + interval '30 min') "
                                 "FROM idem_compensations WHERE key = '" +
                                 this->key + "'"),
              "02:00:00");
}

TYPED_TEST(compensate, reports_what_the_server_refuses_by_its_sqlstate) {
    namespace sqlstate = idem::sqlstate;
    using namespace std::string_view_literals;
    const auto refused = [](auto&& call) {
        TypeParam tx;
        return test::thrown([&] { call(*tx); });
    };
    const auto claimed = [&](std::string_view handler, std::string_view args, const idem::compensate_options& options) {
        return refused([&](auto&& tx) {
            (void)idem::claim(tx, this->key, idem::unchecked);
            idem::compensate_with(tx, this->key, handler, args, options);
        });
    };
    EXPECT_EQ(refused([&](auto&& tx) { idem::compensate_with(tx, this->key, "undo(jsonb)", "1"); }),
              sqlstate::not_claimed);
    EXPECT_EQ(claimed("undo(jsonb)", "1", {.deadline = -1ms}), sqlstate::invalid_interval);
    EXPECT_EQ(claimed("undo(jsonb)", "not JSON", {}), "22P02");
    EXPECT_EQ(claimed("undo(jsonb)", "1\0"sv, {}), "22021");
    EXPECT_EQ(claimed("nothing(jsonb)", "1", {}), "42883");
    EXPECT_EQ(claimed("now()", "1", {}), sqlstate::handler_not_callable);
    EXPECT_EQ(refused([&](auto&& tx) { idem::confirm(tx, this->key); }), sqlstate::not_completed);
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::cancel(tx, ""); }), sqlstate::invalid_key);
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::cancel(tx, "a\0b"sv); }), "22021");
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::cancel(tx, this->key, {.scope = std::string(256, 'x')}); }),
              sqlstate::invalid_scope);
    EXPECT_EQ(refused([&](auto&& tx) { (void)idem::cancel(tx, this->key, {.wait = -1ms}); }),
              sqlstate::invalid_interval);
    EXPECT_EQ(refused([&](auto&& tx) {
                  (void)idem::claim(tx, this->key, idem::unchecked);
                  (void)idem::cancel(tx, this->key);
              }),
              sqlstate::already_claimed);
}

namespace {

template <typename Way>
class compensate_in_run : public testing::Test {
protected:
    // Queues up for the key, which is held; the next to hold it.
    std::future<cancel_status> cancel_behind() {
        auto answer =
            std::async(std::launch::async, [this] { return idem::cancel(direct.get(), key, {.wait = 60s}).status(); });
        test::session other;
        const std::string pid = std::to_string(PQbackendPID(direct.get()));
        while (other.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = " + pid) == "0")
            std::this_thread::sleep_for(1ms);
        return answer;
    }

    const std::string key = test::fresh_key("compensate");
    typename Way::client client{""};
    test::session direct{};
};
TYPED_TEST_SUITE(compensate_in_run, test::both, );

} // namespace

TYPED_TEST(compensate_in_run, is_registered_by_the_callback_and_answers_cancelled_after) {
    const auto run = [&] {
        return idem::run(this->client, this->key, idem::unchecked, [&](auto& tx) {
            idem::compensate_with(tx, this->key, "undo(jsonb)", "1");
            return std::string{"1"};
        });
    };
    EXPECT_EQ(run().status(), idem::run_status::executed);
    EXPECT_EQ(run().status(), idem::run_status::replayed);
    EXPECT_EQ(idem::cancel(this->direct.get(), this->key).status(), cancel_status::compensated);
    const auto late = run();
    EXPECT_EQ(late.status(), idem::run_status::cancelled);
    EXPECT_FALSE(late);
    EXPECT_EQ(late.attempts(), 0);
    EXPECT_EQ(test::thrown([&] { (void)late.response(); }), "55000");
}

// In the middle of the action: it waits, and finds what there is to undo.
TYPED_TEST(compensate_in_run, a_cancellation_waits_for_the_action) {
    std::future<cancel_status> cancelled;
    const auto outcome = idem::run(this->client, this->key, idem::unchecked, [&](auto& tx) {
        idem::compensate_with(tx, this->key, "undo(jsonb)", "1");
        cancelled = this->cancel_behind();
        return std::string{"1"};
    });
    EXPECT_EQ(outcome.status(), idem::run_status::executed);
    EXPECT_EQ(cancelled.get(), cancel_status::compensated);
}

// The action was committed, its reply lost, and it was undone before run could ask.
TYPED_TEST(compensate_in_run, a_commit_in_doubt_that_was_undone_is_cancelled) {
    idem::test::proxy proxy{test::upstream()};
    std::atomic<bool> armed{true};
    proxy.at_commit([&](const idem::test::commit&) {
        return armed.exchange(false) ? idem::test::drop(idem::test::place::after_commit) : idem::test::pass();
    });
    typename TypeParam::client on{test::through(proxy)};
    std::future<cancel_status> cancelled;
    const auto outcome = idem::run(on, this->key, idem::unchecked, [&](auto& tx) {
        idem::compensate_with(tx, this->key, "undo(jsonb)", "1");
        cancelled = this->cancel_behind();
        return std::string{"1"};
    });
    EXPECT_EQ(outcome.status(), idem::run_status::cancelled);
    EXPECT_EQ(outcome.attempts(), 1);
    EXPECT_EQ(outcome.in_doubt(), 1);
    EXPECT_EQ(cancelled.get(), cancel_status::compensated);
}

TEST(cancel_status_names, are_spelt_as_in_the_extension) {
    EXPECT_EQ(to_string(cancel_status::compensated), "compensated");
    EXPECT_EQ(to_string(cancel_status::already), "already");
    EXPECT_EQ(to_string(cancel_status::tombstoned), "tombstoned");
    EXPECT_EQ(to_string(cancel_status::refused), "refused");
    EXPECT_EQ(to_string(cancel_status::in_progress), "in_progress");
    EXPECT_EQ(test::thrown([] { idem::detail::parse_cancel_status("else"); }), "0A000");
}
