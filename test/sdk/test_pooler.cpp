// run behind a pooler that hands out server connections by transaction: what one client has prepared, the next one
// may find, and the first may miss. Skipped where there is no pgbouncer.
#include "support.hpp"

#include <sys/stat.h>

#include <fstream>
#include <thread>
#include <vector>

namespace {

using idem::run_status;
using namespace std::chrono_literals;

// A private pgbouncer on a unix socket, with as many server connections as asked for.
class pooler {
public:
    explicit pooler(int size) {
        if (mkdtemp(directory_.data()) == nullptr) throw std::runtime_error{"no temporary directory"};
        const auto env = [](const char* name) { return test::environment(name, ""); };
        std::ofstream{directory_ + "/ini"}
            << "[databases]\n* = host=" << env("PGHOST") << " port=" << env("PGPORT") << " user=" << env("PGUSER")
            << " password=" << env("PGPASSWORD") << "\n[pgbouncer]\npool_mode = transaction\nauth_type = any\n"
            << "listen_addr =\nlisten_port = 6432\nunix_socket_dir = " << directory_ << "\npidfile = " << directory_
            << "/pid\nlogfile = " << directory_ << "/log\ndefault_pool_size = " << size << '\n';
        // It refuses to run as root, as the server does, and is a daemon a moment before it listens.
        run("if [ $(id -u) = 0 ]; then chown -R postgres '" + directory_ +
            "'; fi; PATH=$PATH:/usr/sbin '" IDEM_SOURCE_DIR "/scripts/server' as-user pgbouncer -q -d '" + directory_ +
            "/ini' && timeout 10 sh -c 'until test -S " + directory_ + "/.s.PGSQL.6432; do sleep 0.01; done'");
    }
    ~pooler() {
        static_cast<void>(std::system(("kill $(cat '" + directory_ + "/pid'); rm -r '" + directory_ + "'").c_str()));
    }
    pooler(const pooler&) = delete;
    pooler& operator=(const pooler&) = delete;

    static bool there() { return std::system("PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null") == 0; }
    [[nodiscard]] std::string conninfo() const { return "port=6432 host=" + directory_; }

private:
    static void run(const std::string& line) {
        if (std::system(line.c_str()) != 0) throw std::runtime_error{"failed: " + line};
    }
    std::string directory_ = "/tmp/idem-pooler-XXXXXX";
};

template <typename Way>
class behind_a_pooler : public testing::Test {
protected:
    void SetUp() override {
        if (!pooler::there()) GTEST_SKIP() << "no pgbouncer here";
    }
    // Answers with how many statements the callback found prepared.
    static std::string executed(typename Way::client& client) {
        const auto outcome = idem::run(client, test::fresh_key("pooled"), idem::unchecked, [](auto& tx) {
            return Way::value(tx, "SELECT count(*) FROM pg_prepared_statements");
        });
        EXPECT_EQ(outcome.status(), run_status::executed);
        EXPECT_EQ(outcome.attempts(), 1);
        return outcome.response();
    }
};
TYPED_TEST_SUITE(behind_a_pooler, test::both, );

} // namespace

TYPED_TEST(behind_a_pooler, what_was_prepared_is_gone_or_was_prepared_by_another) {
    const pooler pool{2};
    typename TypeParam::client first{pool.conninfo()}, second{pool.conninfo()};
    EXPECT_EQ(this->executed(first), "2");
    test::session holder{pool.conninfo()}; // of the server connection that this was on
    holder.exec("BEGIN");
    EXPECT_EQ(this->executed(first), "0");  // gone
    EXPECT_EQ(this->executed(second), "2"); // as the first for that connection
    holder.exec("COMMIT");
    typename TypeParam::client third{pool.conninfo()};
    EXPECT_EQ(this->executed(third), "2"); // there already
    for (auto* each : {&first, &second, &third}) this->executed(*each);
}

TYPED_TEST(behind_a_pooler, many_share_few_connections) {
    const pooler pool{3};
    std::vector<std::thread> all;
    for (int i = 0; i < 8; ++i)
        all.emplace_back([&] {
            try {
                typename TypeParam::client client{pool.conninfo()};
                for (int n = 0; n < 50; ++n) this->executed(client);
            } catch (const std::exception& failure) {
                ADD_FAILURE() << failure.what();
            }
        });
    for (std::thread& each : all) each.join();
}

TYPED_TEST(behind_a_pooler, last_statements_leave_nothing_prepared) {
    const pooler pool{1};
    typename TypeParam::client first{pool.conninfo()}, second{pool.conninfo()};
    const auto last = [](auto& client, const std::string& divisor) {
        (void)idem::run(client, test::fresh_key("pooled"), idem::unchecked, [&](auto&) {
            return idem::last_statement{"SELECT to_jsonb(6 / $1::int)", {divisor}};
        });
    };
    for (auto* each : {&first, &second, &first}) {
        last(*each, "2");
        EXPECT_EQ(test::thrown([&] { last(*each, "0"); }), "22012");
        EXPECT_EQ(test::thrown([&] { last(*each, "two"); }), "22P02");
    }
    EXPECT_EQ(test::session{pool.conninfo()}.value(
                  "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'idem_last%'"),
              "0");
}
