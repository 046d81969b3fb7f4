// transition in a transaction of the caller's, over libpq and over libpqxx.
#include "support.hpp"

#include <future>
#include <thread>

namespace {

using idem::transition_status;
using namespace std::chrono_literals;
using states = std::vector<std::string>;

template <typename Transaction>
class transition : public testing::Test {
protected:
    static void SetUpTestSuite() {
        test::session{}.exec("SET client_min_messages = warning; DROP SCHEMA IF EXISTS \"it's a \"\"shop\" CASCADE; "
                             "CREATE SCHEMA \"it's a \"\"shop\"; "
                             "CREATE TABLE \"it's a \"\"shop\".\"Or\"\"ders\" (\"the Id\" text PRIMARY KEY, "
                             "\"St\"\"ate\" text); "
                             "SELECT idem_attach('\"it''s a \"\"shop\".\"Or\"\"ders\"', 'St\"ate', 'order'); "
                             "DROP TABLE IF EXISTS steps; CREATE TABLE steps (id int PRIMARY KEY, state text); "
                             "SELECT idem_attach('steps', 'state', 'order')");
    }
    void SetUp() override { direct.exec("DELETE FROM steps; INSERT INTO steps VALUES (1, 'created'), (2, 'created')"); }
    std::string state() { return direct.value("SELECT state FROM steps WHERE id = 1"); }

    const idem::stateful steps{.table = "steps", .machine = "order"};
    test::session direct{};
};
TYPED_TEST_SUITE(transition, test::transactions, );

} // namespace

TYPED_TEST(transition, is_applied_then_already) {
    TypeParam tx;
    const auto first = idem::transition(*tx, this->steps, "1", "paid");
    EXPECT_TRUE(first);
    EXPECT_EQ(first.status(), transition_status::applied);
    EXPECT_EQ(first.state(), "paid");
    EXPECT_EQ(first.allowed(), states{"completed"});
    const auto second = idem::transition(*tx, this->steps, "1", "paid");
    EXPECT_TRUE(second);
    EXPECT_EQ(second.status(), transition_status::already);
    EXPECT_EQ(second.state(), "paid");
    EXPECT_EQ(second.allowed(), states{"completed"});
    tx.commit();
    EXPECT_EQ(this->state(), "paid");
    EXPECT_EQ(this->direct.value("SELECT state FROM steps WHERE id = 2"), "created");
}

TYPED_TEST(transition, that_is_refused_leaves_the_transaction_whole) {
    TypeParam tx;
    const auto refused = idem::transition(*tx, this->steps, "1", "completed");
    EXPECT_FALSE(refused);
    EXPECT_EQ(refused.status(), transition_status::refused);
    EXPECT_EQ(refused.state(), "created");
    EXPECT_EQ(refused.allowed(), (states{"cancelled", "paid"}));
    EXPECT_TRUE(idem::transition(*tx, this->steps, "1", "cancelled"));
    const auto final = idem::transition(*tx, this->steps, "1", "paid");
    EXPECT_EQ(final.status(), transition_status::refused);
    EXPECT_EQ(final.state(), "cancelled");
    EXPECT_EQ(final.allowed(), states{});
    EXPECT_EQ(idem::transition(*tx, this->steps, "1", "no such state").status(), transition_status::refused);
    tx.commit();
    EXPECT_EQ(this->state(), "cancelled");
}

TYPED_TEST(transition, of_no_row_is_not_found) {
    TypeParam tx;
    const auto nothing = idem::transition(*tx, this->steps, "3", "paid");
    EXPECT_FALSE(nothing);
    EXPECT_EQ(nothing.status(), transition_status::not_found);
    EXPECT_EQ(nothing.state(), std::nullopt);
    EXPECT_EQ(nothing.allowed(), states{});
}

// From before the guard, say.
TYPED_TEST(transition, of_a_row_without_a_state_goes_to_the_first) {
    this->direct.exec("SET session_replication_role = replica; UPDATE steps SET state = NULL WHERE id = 1");
    TypeParam tx;
    const auto refused = idem::transition(*tx, this->steps, "1", "paid");
    EXPECT_EQ(refused.status(), transition_status::refused);
    EXPECT_EQ(refused.state(), std::nullopt);
    EXPECT_EQ(refused.allowed(), states{"created"});
    EXPECT_EQ(idem::transition(*tx, this->steps, "1", "created").status(), transition_status::applied);
}

TYPED_TEST(transition, quotes_names_and_values) {
    const idem::stateful shop{.table = "Or\"ders",
                              .machine = "order",
                              .key_column = "the Id",
                              .state_column = "St\"ate",
                              .schema = "it's a \"shop"};
    TypeParam tx;
    tx.value("INSERT INTO \"it's a \"\"shop\".\"Or\"\"ders\" VALUES ('it''s \\', 'created') RETURNING 1");
    EXPECT_EQ(idem::transition(*tx, shop, "it's \\", "it's \\").status(), transition_status::refused);
    EXPECT_EQ(idem::transition(*tx, shop, "it's \\", "paid").status(), transition_status::applied);
}

TYPED_TEST(transition, of_an_enum) {
    TypeParam tx;
    tx.value("DO $$ BEGIN CREATE TYPE pg_temp.how AS ENUM ('created', 'paid', 'completed', 'cancelled');"
             "CREATE TEMP TABLE enums (id int, state pg_temp.how); INSERT INTO enums VALUES (1, 'created'); END $$;"
             "SELECT 1");
    const idem::stateful enums{.table = "enums", .machine = "order"};
    EXPECT_EQ(idem::transition(*tx, enums, "1", "completed").status(), transition_status::refused);
    EXPECT_EQ(idem::transition(*tx, enums, "1", "paid").state(), "paid");
    EXPECT_EQ(test::thrown([&] { (void)idem::transition(*tx, enums, "1", "no label"); }), "22P02");
}

// Another transaction takes the row elsewhere: its state counts, not the one that this statement began with.
TYPED_TEST(transition, waits_for_who_changes_the_row) {
    const std::vector<std::pair<std::string, transition_status>> elsewhere{{"cancelled", transition_status::refused},
                                                                           {"paid", transition_status::already}};
    for (const auto& [state, expected] : elsewhere) {
        this->SetUp();
        test::session other;
        other.exec("BEGIN; UPDATE steps SET state = '" + state + "' WHERE id = 1");
        TypeParam tx;
        const std::string pid = tx.value("SELECT pg_backend_pid()");
        auto answer = std::async(std::launch::async, [&] { return idem::transition(*tx, this->steps, "1", "paid"); });
        while (this->direct.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = " + pid) == "0")
            std::this_thread::sleep_for(1ms);
        other.exec("COMMIT");
        const auto got = answer.get();
        EXPECT_EQ(got.status(), expected) << state;
        EXPECT_EQ(got.state(), state);
    }
}

// A change that leaves the state as it is: the step goes on from the newest version of the row.
TYPED_TEST(transition, keeps_what_others_did_to_the_row) {
    this->direct.exec("ALTER TABLE steps ADD IF NOT EXISTS note text");
    test::session other;
    other.exec("BEGIN; UPDATE steps SET note = 'kept' WHERE id = 1");
    TypeParam tx;
    const std::string pid = tx.value("SELECT pg_backend_pid()");
    auto answer = std::async(std::launch::async, [&] { return idem::transition(*tx, this->steps, "1", "paid"); });
    while (this->direct.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = " + pid) == "0")
        std::this_thread::sleep_for(1ms);
    other.exec("COMMIT");
    EXPECT_EQ(answer.get().status(), transition_status::applied);
    tx.commit();
    EXPECT_EQ(this->direct.value("SELECT state || note FROM steps WHERE id = 1"), "paidkept");
}

// The answer stays true until the transaction ends, whatever it was.
TYPED_TEST(transition, keeps_the_row_locked) {
    for (const std::string to : {"created", "paid", "completed"}) {
        TypeParam tx;
        (void)idem::transition(*tx, this->steps, "1", to);
        EXPECT_EQ(test::thrown([&] { this->direct.exec("SELECT FROM steps WHERE id = 1 FOR NO KEY UPDATE NOWAIT"); }),
                  "55P03")
            << to;
    }
}

TYPED_TEST(transition, reports_what_the_server_refuses_by_its_sqlstate) {
    using namespace std::string_view_literals;
    const auto refused = [](const idem::stateful& rows, std::string_view key = "1", std::string_view to = "paid") {
        TypeParam tx;
        return test::thrown([&] { (void)idem::transition(*tx, rows, key, to); });
    };
    EXPECT_EQ(refused({.table = "steps", .machine = "no such machine"}), "42704");
    EXPECT_EQ(refused({.table = "no such table", .machine = "order"}), "42P01");
    EXPECT_EQ(refused({.table = "steps", .machine = "order", .key_column = "no"}), "42703");
    EXPECT_EQ(refused({.table = "steps", .machine = "order", .state_column = "no"}), "42703");
    EXPECT_EQ(refused({.table = std::string("steps\0"sv), .machine = "order"}), "22021");
    EXPECT_EQ(refused(this->steps, "1\0"sv), "22021");
    EXPECT_EQ(refused(this->steps, "not a number"), "22P02");
    this->direct.exec("SET session_replication_role = replica; UPDATE steps SET state = 'stray'");
    EXPECT_EQ(refused(this->steps), "22023");
}

// Asked for by one machine, guarded by another.
TYPED_TEST(transition, that_only_the_guard_refuses_is_an_error) {
    this->direct.exec("INSERT INTO idem_transitions (machine, from_state, to_state) "
                      "VALUES ('back', NULL, 'paid'), ('back', 'paid', 'created') ON CONFLICT DO NOTHING");
    TypeParam tx;
    ASSERT_TRUE(idem::transition(*tx, this->steps, "1", "paid"));
    EXPECT_EQ(test::thrown([&] { (void)idem::transition(*tx, {.table = "steps", .machine = "back"}, "1", "created"); }),
              idem::sqlstate::transition_refused);
}

// Whatever comes of it.
TEST(transition_on_the_wire, takes_one_round_trip) {
    test::session{}.exec(
        "SET client_min_messages = warning; DROP TABLE IF EXISTS wire_steps; "
        "CREATE TABLE wire_steps (id int PRIMARY KEY, state text); "
        "SELECT idem_attach('wire_steps', 'state', 'order'); INSERT INTO wire_steps VALUES (1, 'created')");
    idem::test::proxy proxy{test::upstream()};
    test::session open{test::through(proxy)};
    for (const std::string to : {"completed", "paid", "paid"}) {
        const auto before = proxy.totals().round_trips;
        (void)idem::transition(open.get(), {.table = "wire_steps", .machine = "order"}, "1", to);
        EXPECT_EQ(proxy.totals().round_trips, before + 1) << to;
    }
}

TEST(transition_status_names, are_as_in_the_header) {
    EXPECT_EQ(to_string(transition_status::applied), "applied");
    EXPECT_EQ(to_string(transition_status::already), "already");
    EXPECT_EQ(to_string(transition_status::refused), "refused");
    EXPECT_EQ(to_string(transition_status::not_found), "not_found");
    EXPECT_EQ(test::thrown([] { idem::detail::parse_transition_status("else"); }), "0A000");
}
