// What happens to the server as a whole: it stops, it crashes, its standby is away. On a private server of its own.
#include "support.hpp"

#include <cstdlib>
#include <thread>

namespace {

using idem::run_status;
using namespace std::chrono_literals;

class server {
public:
    server() {
        command("destroy");
        command("start");
    }
    ~server() { static_cast<void>(std::system(line("destroy").c_str())); }
    server(const server&) = delete;
    server& operator=(const server&) = delete;

    static void command(const std::string& verb) {
        if (std::system(line(verb).c_str()) != 0) throw std::runtime_error{"scripts/server " + verb + " failed"};
    }

    // Where it is, as conninfo.
    static std::string conninfo() {
        FILE* const shell = popen(("eval \"$(" + line("env") +
                                   ")\"; echo \"host='$PGHOST' port=$PGPORT password=$PGPASSWORD dbname=$PGDATABASE\"")
                                      .c_str(),
                                  "r");
        std::string text(1000, '\0');
        text.resize(fread(text.data(), 1, text.size(), shell));
        pclose(shell);
        return text;
    }

private:
    static std::string line(const std::string& verb) {
        return "'" IDEM_SOURCE_DIR "/scripts/server' " + verb + " sdk-faults";
    }
};

template <typename Way>
class server_faults : public testing::Test {
protected:
    static void SetUpTestSuite() {
        own = std::make_unique<server>();
        test::session{server::conninfo()}.exec("CREATE EXTENSION idem; CREATE TABLE effects (key text)");
    }
    static void TearDownTestSuite() { own.reset(); }

    static inline std::unique_ptr<server> own;
    const std::string conninfo = server::conninfo();
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
                                               server::command(how);
                                               server::command("start");
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
    server::command("stop");
    EXPECT_EQ(test::thrown([&] {
                  (void)idem::run(client, this->key, idem::unchecked, [](auto&) { return std::string{"1"}; },
                                  {.deadline = 50ms});
              }),
              idem::sqlstate::cannot_connect);
    server::command("start");
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
    };
    const auto cancel = [&] { // the one that waits for the standby
        while (admin.value("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") ==
               "0") {}
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
