// What happens to the server as a whole: it stops, it crashes, its standby is away. On a private server of its own.
#include "server.hpp"
#include "support.hpp"

#include <thread>

namespace {

using idem::run_status;
using namespace std::chrono_literals;

template <typename Way>
class server_faults : public testing::Test {
protected:
    static void SetUpTestSuite() {
        own = std::make_unique<test::server>("sdk-faults");
        test::session{own->conninfo()}.exec("CREATE EXTENSION idem; CREATE TABLE effects (key text)");
    }
    static void TearDownTestSuite() { own.reset(); }

    static inline std::unique_ptr<test::server> own;
    const std::string conninfo = own->conninfo();
    const std::string key = test::fresh_key("fault");
};
TYPED_TEST_SUITE(server_faults, test::both, );

} // namespace

TYPED_TEST(server_faults, a_restart_or_a_crash_in_the_middle_of_a_run) {
    for (const std::string how : {"stop", "crash"}) {
        const std::string at = this->key + how;
        typename TypeParam::client client{this->conninfo};
        int calls = 0;
        const auto outcome = idem::run(client, at, idem::unchecked,
                                       [&](auto& tx) {
                                           tx.exec("INSERT INTO effects VALUES ('" + at + "')");
                                           if (++calls == 1) {
                                               this->own->command(how);
                                               this->own->command("start");
                                           }
                                           tx.exec("SELECT 1");
                                           return std::string{"1"};
                                       },
                                       {.idle_timeout = 5min});
        EXPECT_EQ(outcome.status(), run_status::executed) << how;
        EXPECT_EQ(outcome.attempts(), 2) << how;
        EXPECT_EQ(test::session{this->conninfo}.value("SELECT count(*) FROM effects WHERE key = '" + at + "'"), "1");
        EXPECT_EQ(idem::run(client, at, idem::unchecked, [](auto&) { return std::string{"2"}; }).response(), "1");
    }
}

TYPED_TEST(server_faults, a_server_that_is_away_until_the_deadline) {
    typename TypeParam::client client{this->conninfo};
    this->own->command("stop");
    EXPECT_EQ(test::thrown([&] {
                  (void)idem::run(client, this->key, idem::unchecked, [](auto&) { return std::string{"1"}; },
                                  {.deadline = 50ms});
              }),
              idem::sqlstate::cannot_connect);
    this->own->command("start");
    EXPECT_EQ(idem::run(client, this->key, idem::unchecked, [](auto&) { return std::string{"1"}; }).status(),
              run_status::executed);
}

// A COMMIT whose wait for the synchronous standby is cancelled answers COMMIT, with a warning. That is not good enough.
TYPED_TEST(server_faults, a_commit_that_may_not_be_replicated_is_in_doubt) {
    test::session admin{this->conninfo};
    admin.exec("SET synchronous_commit = local");
    typename TypeParam::client client{this->conninfo};
    const auto standby = [&](const std::string& names) {
        admin.exec("ALTER SYSTEM SET synchronous_standby_names = '" + names + "'");
        admin.exec("SELECT pg_reload_conf()");
        while (admin.value("SHOW synchronous_standby_names") != names) {}
        admin.exec("CHECKPOINT"); // that process tells all others whether there is one to wait for
    };
    const std::string waits = " FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'";
    const auto cancel = [&] { // what waits for the standby; it is gone when this returns, lest it be cancelled twice
        std::string since;
        while (since.empty())
            since = admin.value("SELECT coalesce(min(query_start) FILTER (WHERE pg_cancel_backend(pid))::text, '')" +
                                waits);
        while (admin.value("SELECT count(*)" + waits + " AND query_start = '" + since + "'") != "0") {}
    };
    standby("nobody");
    std::thread operations{[&] {
        cancel(); // the COMMIT
        cancel(); // the claim that asks what became of it
        standby("");
    }};
    const auto outcome = idem::run(client, this->key, idem::unchecked, [&](auto& tx) {
        tx.exec("INSERT INTO effects VALUES ('" + this->key + "')");
        return std::string{"1"};
    });
    operations.join();
    EXPECT_EQ(outcome.status(), run_status::executed);
    EXPECT_EQ(outcome.attempts(), 1);
    EXPECT_EQ(outcome.in_doubt(), 1);
    EXPECT_EQ(admin.value("SELECT count(*) FROM effects WHERE key = '" + this->key + "'"), "1");
}
