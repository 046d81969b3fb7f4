// execute and execute_many, over libpq and libpqxx, in a transaction of the caller's and through a client.
#include "support.hpp"

#include <atomic>
#include <thread>
#include <vector>

namespace {

using idem::execute_status;
using namespace std::chrono_literals;
using namespace std::string_literals;

// A table, and a function that adds a row to it, all with names of this process.
class execute : public testing::Test {
protected:
    execute() {
        direct.exec("CREATE TABLE " + table + " (key text, pence int CHECK (pence > 0))");
        direct.exec("CREATE FUNCTION " + table + "(request jsonb) RETURNS jsonb LANGUAGE sql AS 'INSERT INTO " + table +
                    " VALUES (request->>''key'', (request->>''pence'')::int) RETURNING request - ''pence'''");
    }
    ~execute() override { direct.exec("DROP FUNCTION " + table + "; DROP TABLE " + table); }

    static std::string request(const std::string& key, int pence = 100) {
        return R"({"key": ")" + key + R"(", "pence": )" + std::to_string(pence) + "}";
    }
    static std::string response(const std::string& key) { return R"({"key": ")" + key + R"("})"; }
    static std::vector<execute_status> statuses(const std::vector<idem::execution>& all) {
        std::vector<execute_status> of;
        for (const auto& one : all) of.push_back(one.status());
        return of;
    }
    std::string rows(const std::string& key) {
        return direct.value("SELECT count(*) FROM " + table + " WHERE key = '" + key + "'");
    }

    test::session direct{};
    const std::string table = "execute_" + std::to_string(getpid());
    const std::string handler = table + "(jsonb)";
    const std::string fresh = test::fresh_key("execute");
};

template <typename Open>
class execute_in : public execute {
protected:
    Open open{};
};
TYPED_TEST_SUITE(execute_in, test::transactions, );

template <typename Way>
class execute_through : public execute {
protected:
    idem::test::proxy proxy{test::upstream()};
    typename Way::client client{test::through(proxy)};
};
TYPED_TEST_SUITE(execute_through, test::both, );

} // namespace

TYPED_TEST(execute_in, commits_with_the_transaction) {
    const auto& key = this->fresh;
    auto done = idem::execute(*this->open, this->handler, key, this->request(key));
    EXPECT_TRUE(done);
    EXPECT_EQ(done.status(), execute_status::executed);
    EXPECT_EQ(done.response(), this->response(key));
    EXPECT_FALSE(done.failure());
    EXPECT_EQ(idem::execute(*this->open, this->handler, key, this->request(key)).status(), execute_status::completed);
    EXPECT_EQ(this->rows(key), "0");
    this->open.commit();
    EXPECT_EQ(this->rows(key), "1");

    auto again = idem::execute(this->direct.get(), this->handler, key, this->request(key));
    EXPECT_EQ(again.status(), execute_status::completed);
    EXPECT_EQ(again.response(), done.response());
}

TYPED_TEST(execute_in, says_why_not) {
    const auto& key = this->fresh;
    (void)idem::execute(this->direct.get(), this->handler, key, this->request(key));
    auto other = idem::execute(*this->open, this->handler, key, this->request(key, 5));
    EXPECT_FALSE(other);
    EXPECT_EQ(other.status(), execute_status::mismatch);
    EXPECT_EQ(test::thrown([&] { (void)other.response(); }), "55000");
    (void)idem::cancel(this->direct.get(), key + "'never", {.scope = "it's a scope"});
    EXPECT_EQ(idem::execute(*this->open, this->handler, key + "'never", "1", {.scope = "it's a scope"}).status(),
              execute_status::cancelled);
}

TYPED_TEST(execute_in, keeps_the_key_for_its_ttl) {
    (void)idem::execute(*this->open, this->handler, this->fresh, this->request(this->fresh), {.ttl = 1h});
    EXPECT_EQ(this->open.value("SELECT expires_at - completed_at FROM idem_status('" + this->fresh + "')"), "01:00:00");
}

TYPED_TEST(execute_in, passes_the_functions_error) {
    EXPECT_EQ(test::thrown(
                  [&] { (void)idem::execute(*this->open, this->handler, this->fresh, this->request(this->fresh, 0)); }),
              "23514");
    EXPECT_EQ(this->direct.status(this->fresh), "unknown");
}

TEST_F(execute, refuses_what_is_wrong) {
    pqxx::connection connection;
    const auto refusal = [&](auto&& call) {
        auto over_libpq = test::thrown([&] { call(direct.get()); });
        pqxx::work tx{connection};
        EXPECT_EQ(test::thrown([&] { call(tx); }), over_libpq);
        return over_libpq;
    };
    EXPECT_EQ(refusal([&](auto&& tx) { (void)idem::execute(tx, handler, "", "1"); }), idem::sqlstate::invalid_key);
    EXPECT_EQ(refusal([&](auto&& tx) { (void)idem::execute(tx, handler, "k\0k"s, "1"); }), "22021");
    EXPECT_EQ(refusal([&](auto&& tx) { (void)idem::execute(tx, handler, "k", "no json"); }), "22P02");
    EXPECT_EQ(refusal([&](auto&& tx) { (void)idem::execute(tx, "nothing(jsonb)", "k", "1"); }), "42883");
    EXPECT_EQ(refusal([&](auto&& tx) { (void)idem::execute(tx, "lower(text)", "k", "1"); }),
              idem::sqlstate::handler_not_callable);
    const std::vector<idem::execute_item> many(501, idem::execute_item{"k", "1"});
    EXPECT_EQ(refusal([&](auto&& tx) { (void)idem::execute_many(tx, handler, many); }), "22023");
    const std::vector<idem::execute_item> scoped{{"k", "1", std::string(256, 'x')}};
    EXPECT_EQ(refusal([&](auto&& tx) { (void)idem::execute_many(tx, handler, scoped); }),
              idem::sqlstate::invalid_scope);
}

TYPED_TEST(execute_in, of_many_one_fails_alone) {
    const auto& key = this->fresh;
    const std::string a = key + "-a", b = key + "'b", c = key + "-c\\";
    const std::vector<idem::execute_item> items{{a, this->request(a)},
                                                {b, this->request(b, 0)},
                                                {c, R"({"key": "c\\", "pence": 1})"},
                                                {a, this->request(a)},
                                                {a, this->request(a, 7)}};
    const auto all = idem::execute_many(*this->open, this->handler, items);
    EXPECT_EQ(this->statuses(all),
              (std::vector{execute_status::executed, execute_status::failed, execute_status::executed,
                           execute_status::completed, execute_status::mismatch}));
    EXPECT_EQ(all[0].response(), this->response(a));
    EXPECT_EQ(all[2].response(), R"({"key": "c\\"})");
    EXPECT_EQ(all[3].response(), this->response(a));
    EXPECT_FALSE(all[1]);
    ASSERT_TRUE(all[1].failure());
    EXPECT_EQ(all[1].failure()->sqlstate(), "23514");
    EXPECT_NE(std::string{all[1].failure()->what()}.find("check constraint"), std::string::npos);
    EXPECT_EQ(test::thrown([&] { (void)all[1].response(); }), "23514");
    this->open.commit();
    EXPECT_EQ(this->rows(a), "1");
    EXPECT_EQ(this->direct.value("SELECT count(*) FROM " + this->table), "2");
    EXPECT_TRUE(idem::execute_many(this->direct.get(), this->handler, {}).empty());
}

// The same key in two scopes is two keys; an item without its own has that of the options.
TYPED_TEST(execute_in, of_many_each_has_a_scope) {
    const auto& key = this->fresh;
    const std::vector<idem::execute_item> items{
        {key, this->request(key), "it's a"}, {key, this->request(key), "b"},    {key, this->request(key)},
        {key, this->request(key), "it's a"}, {key, this->request(key, 7), "b"}, {key, this->request(key), ""}};
    EXPECT_EQ(this->statuses(idem::execute_many(*this->open, this->handler, items, {.scope = "all"})),
              (std::vector{execute_status::executed, execute_status::executed, execute_status::executed,
                           execute_status::completed, execute_status::mismatch, execute_status::executed}));
    EXPECT_EQ(this->open.value("SELECT string_agg(scope, ',' ORDER BY scope) FROM idem_keys WHERE key = '" + key + "'"),
              ",all,b,it's a");
    EXPECT_EQ(idem::execute(*this->open, this->handler, key, this->request(key), {.scope = "it's a"}).status(),
              execute_status::completed);
    EXPECT_EQ(this->statuses(
                  idem::execute_many(*this->open, this->handler, std::span{items}.subspan(2, 1), {.scope = "it's a"})),
              std::vector{execute_status::completed});
}

TYPED_TEST(execute_in, says_until_when_it_may_be_cached) {
    const auto& key = this->fresh;
    this->direct.exec("CREATE OR REPLACE FUNCTION " + this->table +
                      "(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN IF request->>''undo'' IS NOT NULL THEN "
                      "PERFORM idem_compensate_with(request->>''undo'', ''" +
                      this->handler + "'', ''1''); END IF; RETURN request; END'");
    const auto held = [](const std::string& of) { return R"({"undo": ")" + of + R"("})"; };
    const auto until = [this](const std::string& of) {
        return this->open.value("SELECT expires_at FROM idem_status('" + of + "')");
    };
    const auto done = idem::execute(*this->open, this->handler, key, "1");
    EXPECT_EQ(done.cacheable_until(), until(key));
    EXPECT_EQ(idem::execute(*this->open, this->handler, key, "1").cacheable_until(), until(key));
    EXPECT_FALSE(idem::execute(*this->open, this->handler, key, "2").cacheable_until());
    EXPECT_FALSE(idem::execute(*this->open, this->handler, key + "-held", held(key + "-held")).cacheable_until());

    const std::vector<idem::execute_item> items{{key, "1"},
                                                {key + "-new", "1"},
                                                {key + "-undo", held(key + "-undo")},
                                                {key + "-held", held(key + "-held")},
                                                {key + "-failed", held("nothing")}};
    const auto all = idem::execute_many(*this->open, this->handler, items);
    EXPECT_EQ(this->statuses(all),
              (std::vector{execute_status::completed, execute_status::executed, execute_status::executed,
                           execute_status::completed, execute_status::failed}));
    EXPECT_EQ(all[0].cacheable_until(), until(key));
    EXPECT_EQ(all[1].cacheable_until(), until(key + "-new"));
    for (const auto& not_at_all : std::span{all}.subspan(2)) EXPECT_FALSE(not_at_all.cacheable_until());
}

// A context reaches the handler of its key, and is not compared.
TYPED_TEST(execute_in, of_many_each_has_a_context) {
    const auto& key = this->fresh;
    this->open.value("CREATE OR REPLACE FUNCTION pg_temp.tell(request jsonb) RETURNS jsonb LANGUAGE sql AS "
                     "'SELECT coalesce(idem_context(), request)'; SELECT 1");
    std::vector<idem::execute_item> items{{key, "1", {}, R"({"trace": "it's"})"}, {key + "2", "2"}};
    const auto all = idem::execute_many(*this->open, "pg_temp.tell(jsonb)", items, {.scope = "all"});
    EXPECT_EQ(all[0].response(), R"({"trace": "it's"})");
    EXPECT_EQ(all[1].response(), "2");
    items[0].context = "3";
    items[0].scope = "all";
    EXPECT_EQ(idem::execute_many(*this->open, "pg_temp.tell(jsonb)", items, {.scope = "all"})[0].response(),
              all[0].response());
}

TYPED_TEST(execute_through, is_one_round_trip) {
    const auto& key = this->fresh;
    const std::vector<idem::execute_item> items{{key, this->request(key)}, {key + "2", this->request(key)}};
    const auto before = this->proxy.totals().round_trips;
    EXPECT_EQ(idem::execute(this->client, this->handler, key, this->request(key), {.scope = "one"}).status(),
              execute_status::executed);
    EXPECT_EQ(this->proxy.totals().round_trips - before, 1U);
    EXPECT_EQ(this->statuses(idem::execute_many(this->client, this->handler, items)),
              (std::vector{execute_status::executed, execute_status::executed}));
    EXPECT_EQ(this->proxy.totals().round_trips - before, 2U);
}

// The connection is cut while the statement runs, or before its answer arrives: one effect, and the answer.
TYPED_TEST(execute_through, asks_again_when_the_connection_is_lost) {
    this->direct.exec("CREATE OR REPLACE FUNCTION " + this->table +
                      "(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT pg_sleep(0.3); INSERT INTO " +
                      this->table + " VALUES (request->>''key'', 1) RETURNING request - ''pence'''");
    const std::string cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE state = 'active' AND "
                            "query LIKE '%idem_execute%" +
                            this->table + "(jsonb)%' AND pid <> pg_backend_pid()";
    std::atomic<int> cuts{0};
    for (int i = 0; i < 5; ++i) {
        const std::string key = test::fresh_key("lost");
        std::atomic<bool> over{false};
        std::thread cutter{[&, this] {
            std::this_thread::sleep_for(50ms * i);
            while (!over && cuts == i) cuts += std::stoi(this->direct.value(cut));
        }};
        const auto done = idem::execute(this->client, this->handler, key, this->request(key));
        over = true;
        cutter.join();
        EXPECT_TRUE(done) << to_string(done.status());
        EXPECT_EQ(done.response(), this->response(key));
        EXPECT_EQ(this->rows(key), "1");
    }
    EXPECT_EQ(cuts, 5);
}

// A server that is silent is given up, and asked again while the first statement still runs there: the key tells.
TYPED_TEST(execute_through, asks_again_when_the_server_is_silent) {
    const auto& key = this->fresh;
    this->direct.exec("CREATE OR REPLACE FUNCTION " + this->table +
                      "(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT pg_sleep(0.7); INSERT INTO " +
                      this->table + " VALUES (request->>''key'', 1) RETURNING request - ''pence'''");
    const auto done =
        idem::execute(this->client, this->handler, key, this->request(key), {}, {.response_timeout = 300ms});
    EXPECT_TRUE(done) << to_string(done.status());
    EXPECT_EQ(done.response(), this->response(key));
    EXPECT_EQ(this->rows(key), "1");

    // many are not waited for there: "in progress" is our own first try
    const std::string held = test::fresh_key("held");
    const std::vector<idem::execute_item> items{{held, this->request(held)}};
    const auto all = idem::execute_many(this->client, this->handler, items, {}, {.response_timeout = 300ms});
    EXPECT_EQ(this->statuses(all), std::vector{execute_status::completed});
    EXPECT_EQ(this->rows(held), "1");

    // and at the deadline it says so
    const std::string late = test::fresh_key("late");
    EXPECT_EQ(test::thrown([&] {
                  (void)idem::execute(this->client, this->handler, late, this->request(late), {},
                                      {.deadline = 200ms, .response_timeout = 100ms});
              }),
              idem::sqlstate::in_doubt);
}

// What another session holds is not ours to wait for, if nothing was in doubt.
TYPED_TEST(execute_through, is_in_progress_elsewhere) {
    const auto& key = this->fresh;
    test::session other;
    other.exec("BEGIN; SELECT idem_claim('" + key + "')");
    const std::vector<idem::execute_item> items{{key, this->request(key)}, {key + "2", this->request(key)}};
    EXPECT_EQ(this->statuses(idem::execute_many(this->client, this->handler, items)),
              (std::vector{execute_status::in_progress, execute_status::executed}));
    other.exec("ROLLBACK");
}

TYPED_TEST(execute_through, tries_again_after_a_serialization_failure) {
    this->direct.exec("CREATE SEQUENCE " + this->table + "_tries");
    this->direct.exec("CREATE OR REPLACE FUNCTION " + this->table +
                      "(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN IF nextval(''" + this->table +
                      "_tries'') < 3 THEN RAISE SQLSTATE ''40001''; END IF; RETURN request - ''pence''; END'");
    EXPECT_EQ(idem::execute(this->client, this->handler, this->fresh, this->request(this->fresh)).status(),
              execute_status::executed);
    EXPECT_EQ(this->direct.value("SELECT last_value FROM " + this->table + "_tries"), "3");
    this->direct.exec("DROP SEQUENCE " + this->table + "_tries");
}

TYPED_TEST(execute_through, needs_no_transaction) {
    PGconn* const raw = TypeParam::raw(this->client);
    idem::transaction{raw, 60s}.exec("BEGIN");
    EXPECT_EQ(test::thrown([&] { (void)idem::execute(this->client, this->handler, this->fresh, "1"); }), "25001");
    idem::transaction{raw, 60s}.exec("ROLLBACK");
}
