// Counted on the wire: an idempotent transaction costs no more round trips than the same one without idempotency.
#include "support.hpp"

namespace {

const std::string statement = "SELECT 1";

int plain(idem::client& on, int statements) {
    idem::transaction tx{on.connection(), std::chrono::seconds{60}};
    tx.exec("BEGIN");
    for (int i = 0; i < statements; ++i) tx.exec(statement);
    tx.exec("COMMIT");
    return 0;
}

int plain(idem::pqxx_client& on, int statements) {
    pqxx::work tx{on.connection()};
    for (int i = 0; i < statements; ++i) tx.exec(statement);
    tx.commit();
    return 0;
}

template <typename Way>
class round_trips : public testing::Test {
protected:
    // How many `call` needs.
    template <typename Call>
    std::uint64_t of(Call&& call) {
        const auto before = proxy.totals().round_trips;
        call();
        return proxy.totals().round_trips - before;
    }
    std::uint64_t of_run(const std::string& key, int statements) {
        return of([&] {
            EXPECT_TRUE(idem::run(client, key, R"({"a":1})", [&](auto& tx) {
                for (int i = 0; i < statements; ++i) tx.exec(statement);
                return std::string{"1"};
            }));
        });
    }

    idem::test::proxy proxy{test::upstream()};
    typename Way::client client{test::through(proxy)};
};
TYPED_TEST_SUITE(round_trips, test::both, );

} // namespace

TYPED_TEST(round_trips, are_no_more_than_without_idempotency) {
    for (const int n : {0, 1, 5}) {
        const auto bare = this->of([&] { plain(this->client, n); });
        const auto idempotent = this->of_run(test::fresh_key("trips"), n);
        EXPECT_EQ(idempotent, static_cast<std::uint64_t>(n) + 2) << n << " statements";
        if (n > 0) {
            EXPECT_LE(idempotent, bare) << n << " statements";
        }
    }
}

TYPED_TEST(round_trips, are_one_less_with_a_last_statement) {
    const std::string key = test::fresh_key("trips");
    EXPECT_EQ(this->of([&] {
        EXPECT_TRUE(idem::run(this->client, key, R"({"a":1})", [](auto& tx) {
            tx.exec(statement);
            return idem::last_statement{"SELECT to_jsonb($1::int)", {"1"}};
        }));
    }),
              3U);
}

TYPED_TEST(round_trips, of_a_replay_are_two) {
    const std::string key = test::fresh_key("trips");
    this->of_run(key, 1);
    EXPECT_EQ(this->of_run(key, 1), 2U);
}
