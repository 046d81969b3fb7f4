// run, over libpq and over libpqxx: outcomes, retries, exceptions.
#include "support.hpp"

#include <stdexcept>

namespace {

using idem::run_status;
using namespace std::chrono_literals;

template <typename Way>
class run : public testing::Test {
protected:
    run() {
        direct.exec("SET client_min_messages = warning");
        direct.exec("CREATE TABLE IF NOT EXISTS run_effects (key text, n int)");
    }

    // The work of most tests.
    auto effect(std::string response = R"({"done":true})") {
        return [this, response](auto& tx) {
            ++calls;
            tx.exec("INSERT INTO run_effects VALUES ('" + key + "')");
            return response;
        };
    }
    std::string effects() { return direct.value("SELECT count(*) FROM run_effects WHERE key = '" + key + "'"); }

    const std::string key = test::fresh_key("run");
    int calls = 0;
    test::session direct{};
    typename Way::client client{""};
};
TYPED_TEST_SUITE(run, test::both, );

} // namespace

TYPED_TEST(run, executes_once_and_replays_the_same_bytes) {
    const auto first = idem::run(this->client, this->key, R"({"a":1})", this->effect(R"({"z":1, "a":[ 1,2 ]})"));
    EXPECT_EQ(first.status(), run_status::executed);
    EXPECT_EQ(first.attempts(), 1);
    EXPECT_EQ(first.in_doubt(), 0);
    EXPECT_EQ(first.response(), R"({"a": [1, 2], "z": 1})");

    const auto second = idem::run(this->client, this->key, R"({"a": 1})", this->effect("2"));
    EXPECT_EQ(second.status(), run_status::replayed);
    EXPECT_EQ(second.response(), first.response());
    EXPECT_EQ(second.attempts(), 0);
    EXPECT_EQ(this->calls, 1);
    EXPECT_EQ(this->effects(), "1");
}

TYPED_TEST(run, answers_with_what_its_last_statement_returns) {
    const auto last = [this](auto&) {
        ++this->calls;
        return idem::last_statement{"INSERT INTO run_effects VALUES ($1, $2) -- with a comment\n"
                                    "RETURNING jsonb_build_object('n', n, 'it''s', $3::text)",
                                    {this->key, "4711", std::nullopt}};
    };
    const auto first = idem::run(this->client, this->key, R"({"a":1})", last);
    EXPECT_EQ(first.status(), run_status::executed);
    EXPECT_EQ(first.response(), R"({"n": 4711, "it's": null})");
    EXPECT_EQ(idem::run(this->client, this->key, R"({"a":1})", last).response(), first.response());
    EXPECT_EQ(this->calls, 1);
    EXPECT_EQ(this->effects(), "1");

    // one row of any type that JSON can be made of, also where the text ends in a comment
    const auto returns = [this](const std::string& sql) {
        return idem::run(this->client, test::fresh_key("last"), idem::unchecked,
                         [&](auto&) { return idem::last_statement{sql}; })
            .response();
    };
    EXPECT_EQ(returns("SELECT '{\"b\":1}'::json"), R"({"b": 1})");
    EXPECT_EQ(returns("VALUES ('[1]') -- all"), "[1]");
    EXPECT_EQ(returns("WITH two AS (SELECT 2 AS n) SELECT to_jsonb(n) FROM two"), "2");
}

TYPED_TEST(run, refuses_a_last_statement_that_makes_no_response) {
    const auto refused = [this](const std::string& sql) {
        return test::thrown([&] {
            (void)idem::run(this->client, this->key, idem::unchecked, [&](auto& tx) {
                tx.exec("INSERT INTO run_effects VALUES ('" + this->key + "')");
                return idem::last_statement{sql};
            });
        });
    };
    EXPECT_EQ(refused("UPDATE run_effects SET n = 1 WHERE key = 'nobody' RETURNING '1'::jsonb"), "22004");
    EXPECT_EQ(refused("SELECT NULL::jsonb"), "22004");
    EXPECT_EQ(refused("VALUES ('1'), ('2')"), "21000");
    EXPECT_EQ(refused("SELECT 'no JSON'"), "22P02");
    EXPECT_EQ(refused("SELEC 1"), "42601");
    EXPECT_EQ(refused("SELECT to_jsonb(1); COMMIT"), "42601");
    EXPECT_EQ(refused("SELECT to_jsonb(1 / 0)"), "22012");
    EXPECT_EQ(refused(std::string("SELECT 1\0", 9)), "22021");
    EXPECT_EQ(refused("SELECT to_jsonb($1::text)"), "42601"); // a parameter is missing, which is not the key
    EXPECT_EQ(this->effects(), "0");
    EXPECT_EQ(this->direct.status(this->key), "unknown");

    EXPECT_EQ(test::thrown([&] { // and here is one too many
                  (void)idem::run(this->client, this->key, idem::unchecked, [](auto&) {
                      return idem::last_statement{"SELECT to_jsonb($1::text)", {"1", "2"}};
                  });
              }),
              "42601");
    EXPECT_EQ(test::thrown([&] { // and this fails at COMMIT
                  (void)idem::run(this->client, this->key, idem::unchecked, [](auto& tx) {
                      tx.exec("CREATE TEMP TABLE twice (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
                              "INSERT INTO twice VALUES (1)");
                      return idem::last_statement{"INSERT INTO twice VALUES (1) RETURNING '1'"};
                  });
              }),
              "23505");

    // none of which is in the way of the next
    EXPECT_TRUE(
        idem::run(this->client, this->key, idem::unchecked, [](auto&) { return idem::last_statement{"SELECT '1'"}; }));
}

TYPED_TEST(run, refuses_another_request_under_the_same_key) {
    EXPECT_TRUE(idem::run(this->client, this->key, R"({"a":1})", this->effect()));
    const auto refused = idem::run(this->client, this->key, R"({"a":2})", this->effect());
    EXPECT_EQ(refused.status(), run_status::mismatch);
    EXPECT_FALSE(refused);
    EXPECT_EQ(test::thrown([&] { (void)refused.response(); }), "55000");
    EXPECT_TRUE(idem::run(this->client, this->key, idem::unchecked, this->effect()));
    EXPECT_EQ(this->effects(), "1");
}

TYPED_TEST(run, says_in_progress_while_another_holds_the_key) {
    test::session holder;
    holder.exec("BEGIN");
    ASSERT_TRUE(idem::claim(holder.get(), this->key, idem::unchecked));
    const auto refused = idem::run(this->client, this->key, idem::unchecked, this->effect(), {.wait = 0ms});
    EXPECT_EQ(refused.status(), run_status::in_progress);
    EXPECT_EQ(this->calls, 0);

    holder.exec("ROLLBACK");
    EXPECT_EQ(idem::run(this->client, this->key, idem::unchecked, this->effect()).status(), run_status::executed);
}

TYPED_TEST(run, keeps_scopes_apart_and_takes_a_ttl) {
    for (const std::string scope : {"one", "two's"})
        EXPECT_EQ(
            idem::run(this->client, this->key, idem::unchecked, this->effect(), {.scope = scope, .ttl = 3h}).status(),
            run_status::executed);
    EXPECT_EQ(this->effects(), "2");
    EXPECT_EQ(this->direct.value("SELECT expires_at - completed_at FROM idem_status('" + this->key + "', 'one')"),
              "03:00:00");
}

TYPED_TEST(run, frees_the_key_when_the_callback_throws) {
    EXPECT_THROW((void)idem::run(this->client, this->key, idem::unchecked,
                                 [&](auto& tx) -> std::string {
                                     this->effect()(tx);
                                     throw std::logic_error{"no"};
                                 }),
                 std::logic_error);
    EXPECT_EQ(this->calls, 1);
    EXPECT_EQ(this->direct.status(this->key), "unknown");
    EXPECT_EQ(this->effects(), "0");
    EXPECT_EQ(idem::run(this->client, this->key, idem::unchecked, this->effect()).status(), run_status::executed);
    EXPECT_EQ(this->effects(), "1");
}

TYPED_TEST(run, passes_database_errors_that_a_retry_would_not_heal) {
    const auto failing = [&](const std::string& sql, std::string response = "1") {
        return test::thrown([&] {
            (void)idem::run(this->client, this->key, idem::unchecked, [&](auto& tx) {
                this->effect()(tx);
                tx.exec(sql);
                return response;
            });
        });
    };
    EXPECT_EQ(failing("SELECT 1/0"), "22012");
    EXPECT_EQ(failing("SELECT 1", "not JSON"), "22P02");
    EXPECT_EQ(failing("SELECT idem_complete('" + this->key + "', '1')"), idem::sqlstate::already_completed);
    EXPECT_EQ(failing("ROLLBACK"), "25P01");
    EXPECT_EQ(failing("COMMIT"), idem::sqlstate::claim_open);
    // At COMMIT, by a deferred constraint.
    this->direct.exec("CREATE TABLE IF NOT EXISTS run_deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
    EXPECT_EQ(failing("INSERT INTO run_deferred VALUES (1), (1)"), "23505");
    EXPECT_EQ(this->calls, 6);
    EXPECT_EQ(this->effects(), "0");
    EXPECT_EQ(test::thrown([&] { (void)idem::run(this->client, "", idem::unchecked, this->effect()); }),
              idem::sqlstate::invalid_key);
    EXPECT_EQ(idem::run(this->client, this->key, idem::unchecked, this->effect()).status(), run_status::executed);
}

TYPED_TEST(run, does_not_commit_what_has_failed) {
    EXPECT_EQ(test::thrown([&] {
                  (void)idem::run(this->client, this->key, idem::unchecked, [&](auto& tx) -> std::string {
                      this->effect()(tx);
                      try {
                          tx.exec("SELECT 1/0");
                      } catch (const std::exception&) {} // which it should have let pass
                      return "1";
                  });
              }),
              "25P02");
    EXPECT_EQ(this->effects(), "0");
    EXPECT_EQ(this->direct.status(this->key), "unknown");
}

TYPED_TEST(run, uses_the_isolation_level_asked_for) {
    using idem::isolation;
    const auto level = [&](std::optional<isolation> wanted) {
        return idem::run(this->client, test::fresh_key(), idem::unchecked,
                         [](auto& tx) { return '"' + TypeParam::value(tx, "SHOW transaction_isolation") + '"'; },
                         {.isolation = wanted})
            .response();
    };
    EXPECT_EQ(level(isolation::read_committed), "\"read committed\"");
    EXPECT_EQ(level(isolation::repeatable_read), "\"repeatable read\"");
    EXPECT_EQ(level(isolation::serializable), "\"serializable\"");
    EXPECT_EQ(level({}), "\"read committed\"");
}

TYPED_TEST(run, bounds_the_idle_time_of_its_transaction_only) {
    const auto shown = [&](std::chrono::milliseconds idle) {
        return idem::run(this->client, test::fresh_key(), idem::unchecked,
                         [](auto& tx) {
                             return '"' + TypeParam::value(tx, "SHOW idle_in_transaction_session_timeout") + '"';
                         },
                         {.idle_timeout = idle})
            .response();
    };
    EXPECT_EQ(shown(1234ms), "\"1234ms\"");
    EXPECT_EQ(shown(0ms), "\"0\"");
}

// ---- retries ----

TYPED_TEST(run, retries_a_serialization_failure) {
    this->direct.exec("INSERT INTO run_effects VALUES ('" + this->key + "', 0)");
    const std::string increment = "UPDATE run_effects SET n = n + 1 WHERE key = '" + this->key + "'";
    const auto outcome = idem::run(this->client, this->key, idem::unchecked,
                                   [&](auto& tx) {
                                       std::string before = TypeParam::value(
                                           tx, "SELECT n FROM run_effects WHERE key = '" + this->key + "'");
                                       if (++this->calls == 1)
                                           this->direct.exec(increment); // another transaction is quicker
                                       tx.exec(increment);
                                       return before;
                                   },
                                   {.isolation = idem::isolation::repeatable_read});
    EXPECT_EQ(outcome.status(), run_status::executed);
    EXPECT_EQ(outcome.attempts(), 2);
    EXPECT_EQ(outcome.response(), "1");
    EXPECT_EQ(this->direct.value("SELECT n FROM run_effects WHERE key = '" + this->key + "'"), "2");
}

// Here it is the COMMIT that fails.
TYPED_TEST(run, retries_a_serialization_failure_at_commit) {
    const auto read_then_write = [](auto& tx, const std::string& read, const std::string& write) {
        tx.exec("SELECT count(*) FROM run_effects WHERE key = '" + read + "'");
        tx.exec("INSERT INTO run_effects VALUES ('" + write + "')");
    };
    const std::string other = this->key + "-other";
    const auto outcome = idem::run(this->client, this->key, idem::unchecked,
                                   [&](auto& tx) {
                                       test::session rival;
                                       if (++this->calls == 1) {
                                           rival.exec("BEGIN ISOLATION LEVEL SERIALIZABLE");
                                           read_then_write(rival, this->key, other);
                                       }
                                       read_then_write(tx, other, this->key);
                                       if (this->calls == 1) rival.exec("COMMIT");
                                       return std::string{"1"};
                                   },
                                   {.isolation = idem::isolation::serializable});
    EXPECT_EQ(outcome.status(), run_status::executed);
    EXPECT_EQ(outcome.attempts(), 2);
    EXPECT_EQ(this->effects(), "1");
}

TYPED_TEST(run, retries_what_its_last_statement_collided_with) {
    this->direct.exec("INSERT INTO run_effects VALUES ('" + this->key + "', 1)");
    const auto outcome =
        idem::run(this->client, this->key, idem::unchecked,
                  [this](auto& tx) {
                      ++this->calls;
                      tx.exec("SELECT 1"); // takes the snapshot
                      if (this->calls == 1)
                          this->direct.exec("UPDATE run_effects SET n = n + 1 WHERE key = '" + this->key + "'");
                      return idem::last_statement{
                          "UPDATE run_effects SET n = n + 1 WHERE key = $1 RETURNING to_jsonb(n)", {this->key}};
                  },
                  {.isolation = idem::isolation::repeatable_read});
    EXPECT_EQ(outcome.attempts(), 2);
    EXPECT_EQ(outcome.response(), "3");
}

TYPED_TEST(run, retries_a_deadlock) {
    const std::string a = this->key + "-a", b = this->key + "-b";
    this->direct.exec("INSERT INTO run_effects VALUES ('" + a + "', 0), ('" + b + "', 0)");
    const auto increment = [](const std::string& row) {
        return "UPDATE run_effects SET n = n + 1 WHERE key = '" + row + "'";
    };
    test::session rival;
    const std::string rival_pid = rival.value("SELECT pg_backend_pid()");
    const auto outcome = idem::run(this->client, this->key, idem::unchecked, [&](auto& tx) {
        if (++this->calls == 1) {
            rival.exec("SET deadlock_timeout = '1min'"); // so it is not the one to give way
            rival.exec("BEGIN");
            rival.exec(increment(b));
            tx.exec("SET LOCAL deadlock_timeout = '1ms'");
            tx.exec(increment(a));
            EXPECT_EQ(PQsendQuery(rival.get(), increment(a).c_str()), 1);
            while (this->direct.value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " +
                                      rival_pid) != "t") {}
        } else {
            while (PGresult* const done = PQgetResult(rival.get())) PQclear(done);
            rival.exec("COMMIT");
            tx.exec(increment(a));
        }
        tx.exec(increment(b));
        return std::string{"1"};
    });
    EXPECT_EQ(outcome.status(), run_status::executed);
    EXPECT_EQ(outcome.attempts(), 2);
    EXPECT_EQ(
        this->direct.value("SELECT string_agg(n::text, ',') FROM run_effects WHERE key IN ('" + a + "', '" + b + "')"),
        "2,2");
}

TYPED_TEST(run, gives_up_after_max_attempts_or_the_deadline) {
    const auto hopeless = [&](auto& tx) -> std::string {
        ++this->calls;
        tx.exec("DO $$ BEGIN RAISE 'again' USING ERRCODE = '40001'; END $$");
        return "1";
    };
    const auto tries = [&](const idem::run_options& options) {
        this->calls = 0;
        EXPECT_EQ(test::thrown([&] { (void)idem::run(this->client, this->key, idem::unchecked, hopeless, options); }),
                  "40001");
        return this->calls;
    };
    EXPECT_EQ(tries({.max_attempts = 4, .backoff = 1ms}), 4);
    EXPECT_EQ(tries({.max_attempts = 1}), 1);
    EXPECT_EQ(tries({.deadline = 0ms}), 1);
    EXPECT_EQ(this->direct.status(this->key), "unknown");
}

TYPED_TEST(run, reconnects_when_the_server_ends_the_session) {
    const auto kill = [&] {
        this->direct.exec("SELECT pg_terminate_backend(" + std::to_string(PQbackendPID(TypeParam::raw(this->client))) +
                          ", 10000)");
    };
    kill(); // between two runs
    EXPECT_EQ(idem::run(this->client, test::fresh_key(), idem::unchecked, this->effect()).status(),
              run_status::executed);

    this->calls = 0; // and in the middle of one
    const auto outcome = idem::run(this->client, this->key, idem::unchecked, [&](auto& tx) {
        this->effect()(tx);
        if (this->calls == 1) kill();
        tx.exec("SELECT 1");
        return std::string{"1"};
    });
    EXPECT_EQ(outcome.status(), run_status::executed);
    EXPECT_EQ(outcome.attempts(), 2);
    EXPECT_EQ(outcome.in_doubt(), 0);

    this->calls = 0; // or after its last statement
    EXPECT_EQ(idem::run(this->client, test::fresh_key(), idem::unchecked,
                        [&](auto& tx) {
                            tx.exec("SELECT 1");
                            if (++this->calls == 1) kill();
                            return std::string{"1"};
                        })
                  .status(),
              run_status::executed);
    EXPECT_EQ(this->calls, 2);
}

// ---- its own statements, prepared on the connection ----

namespace {

// How often each was executed, within the callback.
const std::string plans = "SELECT coalesce(string_agg(name || ' ' || generic_plans + custom_plans, ' ' ORDER BY name), "
                          "'none') FROM pg_prepared_statements WHERE name LIKE 'idem%'";
std::string used(int claim, int complete) {
    return "\"idem_claim_" IDEM_VERSION " " + std::to_string(claim) + " idem_complete_" IDEM_VERSION " " +
           std::to_string(complete) + '"';
}

// A run that answers with that.
template <typename Way>
idem::outcome look(typename Way::client& client) {
    return idem::run(client, test::fresh_key("look"), idem::unchecked,
                     [](auto& tx) { return '"' + Way::value(tx, plans) + '"'; });
}

// Between runs.
template <typename Way>
void between(typename Way::client& client, const std::string& sql) {
    idem::transaction{Way::raw(client), 60s}.exec(sql);
}

} // namespace

TYPED_TEST(run, prepares_its_statements_once_for_each_connection) {
    EXPECT_EQ(look<TypeParam>(this->client).response(), used(1, 0));
    EXPECT_EQ(look<TypeParam>(this->client).response(), used(2, 1));
    this->direct.exec("SELECT pg_terminate_backend(" + std::to_string(PQbackendPID(TypeParam::raw(this->client))) +
                      ", 10000)");
    EXPECT_EQ(look<TypeParam>(this->client).response(), used(1, 0));
    EXPECT_EQ(test::thrown([&] { (void)idem::run(this->client, "", idem::unchecked, this->effect()); }),
              idem::sqlstate::invalid_key);
    EXPECT_EQ(look<TypeParam>(this->client).response(), used(3, 1));
}

TYPED_TEST(run, goes_on_without_statements_that_are_gone) {
    EXPECT_EQ(look<TypeParam>(this->client).response(), used(1, 0));
    between<TypeParam>(this->client, "DISCARD ALL");
    for (int i = 0; i < 2; ++i) {
        const auto outcome = look<TypeParam>(this->client);
        EXPECT_EQ(outcome.response(), "\"none\"");
        EXPECT_EQ(outcome.attempts(), 1);
    }
}

TYPED_TEST(run, goes_on_without_statements_whose_names_are_taken) {
    for (const std::string name : {"claim", "complete"}) {
        typename TypeParam::client other{""};
        between<TypeParam>(other, "PREPARE \"idem_" + name + "_" IDEM_VERSION "\" AS SELECT 'another'");
        for (int i = 0; i < 2; ++i) EXPECT_EQ(look<TypeParam>(other).attempts(), 1);
    }
    between<TypeParam>(this->client, "PREPARE \"idem_last_" IDEM_VERSION "\" AS SELECT 'another'");
    const auto last = idem::run(this->client, test::fresh_key("taken"), idem::unchecked,
                                [](auto&) { return idem::last_statement{"SELECT '1'"}; });
    EXPECT_EQ(last.response(), "1");
    EXPECT_EQ(last.attempts(), 2);
}

TYPED_TEST(run, tries_again_when_the_callback_deallocates_its_statements) {
    const auto deallocate = [&](auto& tx) {
        tx.exec("DEALLOCATE ALL");
        return this->effect()(tx);
    };
    EXPECT_EQ(test::thrown(
                  [&] { (void)idem::run(this->client, this->key, idem::unchecked, deallocate, {.max_attempts = 1}); }),
              "26000");
    typename TypeParam::client other{""};
    EXPECT_EQ(idem::run(other, this->key, idem::unchecked, deallocate).attempts(), 2);
    EXPECT_EQ(this->effects(), "1");
    EXPECT_EQ(idem::run(other, test::fresh_key(), idem::unchecked, deallocate).attempts(), 1);
    // What the callback itself has not prepared is its own affair.
    EXPECT_EQ(test::thrown([&] {
                  (void)idem::run(this->client, test::fresh_key(), idem::unchecked, [](auto& tx) {
                      tx.exec("EXECUTE never_prepared");
                      return std::string{"1"};
                  });
              }),
              "26000");
}

// ---- what only one of the two can do ----

TEST(run_over_libpq, gives_a_silent_statement_up) {
    idem::client client{""};
    test::session direct;
    int calls = 0;
    const auto outcome =
        idem::run(client, test::fresh_key(), idem::unchecked,
                  [&](idem::transaction& tx) {
                      if (++calls == 1)
                          tx.exec("SET LOCAL client_connection_check_interval = '10ms'; SELECT pg_sleep(600)");
                      return std::string{"1"};
                  },
                  {.response_timeout = 200ms});
    EXPECT_EQ(outcome.status(), run_status::executed);
    EXPECT_EQ(outcome.attempts(), 2);
}

// libpqxx does not tell this end of a connection from others, and such a callback is retried.
TEST(run_over_libpq, does_not_retry_a_callback_that_idles_too_long) {
    idem::client client{""};
    test::session direct;
    const std::string key = test::fresh_key("idle"), pid = std::to_string(PQbackendPID(client.connection()));
    int calls = 0;
    EXPECT_EQ(test::thrown([&] {
                  (void)idem::run(client, key, idem::unchecked,
                                  [&](idem::transaction& tx) {
                                      ++calls;
                                      while (direct.value("SELECT count(*) FROM pg_stat_activity WHERE pid = " + pid) !=
                                             "0") {}
                                      return std::string{tx.exec("SELECT 1").text(0, 0)};
                                  },
                                  {.idle_timeout = 50ms});
              }),
              "25P03");
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(direct.status(key), "unknown");
}

TEST(run_over_libpqxx, keeps_what_was_prepared_on_its_connection) {
    idem::pqxx_client client{""};
    client.connection().prepare("twice", "SELECT 2 * $1::int");
    for (int i = 1; i <= 2; ++i) {
        const auto outcome = idem::run(client, test::fresh_key(), idem::unchecked, [](pqxx::transaction_base& tx) {
#if PQXX_VERSION_MAJOR < 7
            const pqxx::result rows = tx.exec_prepared("twice", 21);
#else
            const pqxx::result rows = tx.exec(pqxx::prepped{"twice"}, pqxx::params{21});
#endif
            return std::string{rows[0][0].c_str()};
        });
        EXPECT_EQ(outcome.response(), "42");
    }
    pqxx::work own{client.connection()};
    own.exec("SELECT 1");
}
