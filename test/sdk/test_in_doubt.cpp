// Connections that are cut, or go silent, around COMMIT: every run ends with one effect and the right answer.
// IDEM_IN_DOUBT sets how often each case is tried.
#include "support.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <thread>
#include <tuple>
#include <vector>

namespace {

using idem::run_status;
using idem::test::fate;
using idem::test::place;
using namespace std::chrono_literals;

struct in_doubt : testing::TestWithParam<std::tuple<fate, place>> {
    const fate what = std::get<0>(GetParam());
    const place where = std::get<1>(GetParam());
    const std::string table = "in_doubt_" + std::to_string(getpid()) + (what == fate::drop ? "_cut" : "_silence") +
                              std::to_string(static_cast<int>(where));
    test::session direct{};
    mutable std::atomic<int> tries{0}; // of all workers

    void SetUp() override { direct.exec("CREATE TABLE " + table + " (key text)"); }
    void TearDown() override { direct.exec("DROP TABLE " + table); }

    // One worker: `count` keys, one after the other, the first COMMIT of each is lost.
    template <typename Way>
    void work(int count, bool half_open) const {
        auto behind = test::upstream();
        behind.half_open = half_open;
        std::atomic<bool> armed{false};
        idem::test::proxy proxy{behind};
        proxy.at_commit([&](const idem::test::commit&) {
            return armed.exchange(false) ? idem::test::verdict{what, where} : idem::test::pass();
        });
        typename Way::client client{test::through(proxy)};
        test::session checker;
        const idem::run_options options{.max_attempts = 1000,
                                        .deadline = 5min,
                                        .response_timeout = what == fate::silence ? 100ms : 10000ms,
                                        .idle_timeout = half_open ? 200ms : 10000ms};
        for (int i = 0; i < count; ++i) {
            const std::string key = test::fresh_key("doubt");
            const bool with_last = tries++ % 2 == 1;
            armed = true;
            const auto outcome = idem::run(
                client, key, R"({"pence":100})",
                [&](auto& tx) -> idem::work_result {
                    if (with_last)
                        return idem::last_statement{
                            "INSERT INTO " + table + " VALUES ($1) RETURNING jsonb_build_object('key', key)", {key}};
                    tx.exec("INSERT INTO " + table + " VALUES ('" + key + "')");
                    return R"({"key":")" + key + R"("})";
                },
                options);
            proxy.let_go();
            ASSERT_FALSE(armed) << key;
            ASSERT_EQ(outcome.status(), run_status::executed) << key;
            if (where != place::in_reply) { // where the word COMMIT may have come through
                ASSERT_GE(outcome.in_doubt(), 1) << key;
            }
            ASSERT_EQ(outcome.response(), R"({"key": ")" + key + R"("})");
            ASSERT_EQ(checker.value("SELECT response FROM idem_status('" + key + "')"), outcome.response());
        }
        if (what == fate::drop) { // silence may come when a hasty client has gone already
            ASSERT_EQ(proxy.totals().dropped_at(where), static_cast<std::uint64_t>(count));
        }
    }

    template <typename Way>
    void workers(int threads, int count, bool half_open = false) {
        std::vector<std::thread> all;
        all.reserve(static_cast<std::size_t>(threads));
        for (int i = 0; i < threads; ++i)
            all.emplace_back([=, this] {
                const int share = count / threads + (i < count % threads ? 1 : 0);
                try {
                    work<Way>(share, half_open);
                } catch (const std::exception& failure) {
                    ADD_FAILURE() << failure.what();
                }
            });
        for (std::thread& each : all) each.join();
        EXPECT_EQ(direct.value("SELECT count(*) FROM " + table), std::to_string(count));
        EXPECT_EQ(direct.value("SELECT count(DISTINCT key) FROM " + table), std::to_string(count));
    }

    // Those who wait for silence can do so side by side.
    [[nodiscard]] int threads() const { return what == fate::silence ? 12 : 3; }
    [[nodiscard]] static int count() { return std::max(std::stoi(test::environment("IDEM_IN_DOUBT", "1000")), 1); }
};

} // namespace

TEST_P(in_doubt, leaves_one_effect_over_libpq) { workers<test::libpq>(threads(), count()); }

TEST_P(in_doubt, leaves_one_effect_over_libpqxx) { workers<test::libpqxx>(threads(), std::max(count() / 10, 1)); }

// The server does not learn of the loss: what it holds open ends by idle_timeout, and until then the key is in
// progress.
TEST_P(in_doubt, waits_for_a_half_open_predecessor) {
    if (what == fate::silence) workers<test::libpq>(threads(), std::max(count() / 10, 1), true);
}

static std::string case_name(const testing::TestParamInfo<in_doubt::ParamType>& parameters) {
    static constexpr std::array places{"before_commit", "after_commit", "in_reply"};
    const auto [what, where] = parameters.param;
    return std::string{what == fate::drop ? "cut_" : "silent_"} + places.at(static_cast<std::size_t>(where));
}
INSTANTIATE_TEST_SUITE_P(around_commit, in_doubt,
                         testing::Combine(testing::Values(fate::drop, fate::silence),
                                          testing::Values(place::before_commit, place::after_commit, place::in_reply)),
                         case_name);

// Our COMMIT never arrived, and another call with the same key was first: then it is a replay, not ours.
TEST(in_doubt_resolution, tells_our_commit_from_anothers) {
    idem::test::proxy proxy{test::upstream()};
    test::session rival;
    const std::string key = test::fresh_key("rival");
    std::atomic<bool> armed{true};
    proxy.at_commit([&](const idem::test::commit&) {
        return armed.exchange(false) ? idem::test::drop(place::before_commit) : idem::test::pass();
    });
    idem::client client{test::through(proxy)};
    std::thread other;
    const auto outcome =
        idem::run(client, key, idem::unchecked,
                  [&](idem::transaction&) {
                      other = std::thread{[&] { // waits for the key until our connection is cut
                          rival.exec("BEGIN");
                          EXPECT_TRUE(idem::claim(rival.get(), key, idem::unchecked, {.wait = 60s}));
                          idem::complete(rival.get(), key, "\"theirs\"");
                          rival.exec("COMMIT");
                      }};
                      test::session direct;
                      while (direct.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = " +
                                          std::to_string(PQbackendPID(rival.get()))) == "0") {}
                      return std::string{"\"ours\""};
                  },
                  {.wait = 60s});
    other.join();
    EXPECT_EQ(outcome.status(), run_status::replayed);
    EXPECT_EQ(outcome.response(), "\"theirs\"");
    EXPECT_EQ(outcome.in_doubt(), 1);
}

TEST(in_doubt_resolution, says_so_when_the_deadline_comes_first) {
    idem::test::proxy proxy{test::upstream()};
    idem::client client{test::through(proxy)};
    const std::string key = test::fresh_key("unresolved");
    proxy.at_commit([&](const idem::test::commit&) { return idem::test::drop(place::after_commit); });
    const auto one = [&](idem::transaction&) {
        proxy.refuse(true); // nobody gets through any more
        return std::string{"1"};
    };
    EXPECT_EQ(test::thrown([&] { (void)idem::run(client, key, idem::unchecked, one, {.deadline = 100ms}); }),
              idem::sqlstate::in_doubt);
    proxy.refuse(false);
    EXPECT_EQ(idem::run(client, key, idem::unchecked, one).status(), run_status::replayed);
}
