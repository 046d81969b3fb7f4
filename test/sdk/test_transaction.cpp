#include "support.hpp"

namespace {

using namespace std::chrono_literals;

struct transaction : testing::Test {
    test::session session{};
    idem::transaction tx{session.get(), 60s};
};

} // namespace

TEST_F(transaction, passes_parameters_as_text_or_null) {
    const std::string own = "it's";
    const auto row = tx.exec("SELECT $1, $2::int + 1, $3::text, ''", {own, "41", std::nullopt});
    EXPECT_EQ(row.rows(), 1);
    EXPECT_EQ(row.columns(), 4);
    EXPECT_EQ(row.text(0, 0), "it's");
    EXPECT_EQ(row.text(0, 1), "42");
    EXPECT_TRUE(row.is_null(0, 2));
    EXPECT_FALSE(row.is_null(0, 3));
}

TEST_F(transaction, tells_what_was_done) {
    const auto done = tx.exec("CREATE TEMP TABLE t (n int); INSERT INTO t VALUES (1), (2)");
    EXPECT_EQ(done.tag(), "INSERT 0 2");
    EXPECT_EQ(done.affected(), "2");
}

TEST_F(transaction, throws_what_the_server_says) {
    try {
        tx.exec("SELECT 1/0");
        FAIL();
    } catch (const idem::error& refused) {
        EXPECT_EQ(refused.sqlstate(), "22012");
        EXPECT_STREQ(refused.what(), "ERROR:  division by zero");
    }
    EXPECT_EQ(test::thrown([&] { tx.exec("SELECT 1; SELECT 1/0; SELECT 2"); }), "22012");
    EXPECT_EQ(tx.exec("SELECT 'usable'").text(0, 0), "usable");
}

TEST_F(transaction, refuses_what_it_cannot_do) {
    using namespace std::string_view_literals;
    EXPECT_EQ(test::thrown([&] { tx.exec("SELECT $1", {"a\0b"sv}); }), "22021");
    EXPECT_EQ(test::thrown([&] { tx.exec("COPY pg_class TO STDOUT"); }), "0A000");
}

TEST_F(transaction, gives_a_silent_server_up) {
    idem::transaction hasty{session.get(), 50ms};
    EXPECT_EQ(test::thrown([&] { hasty.exec("SELECT pg_sleep(60)"); }), idem::sqlstate::connection_lost);
}

TEST_F(transaction, notices_that_the_server_went) {
    test::session other;
    other.exec("SELECT pg_terminate_backend(" + session.value("SELECT pg_backend_pid()") + ", 10000)");
    EXPECT_EQ(test::thrown([&] { tx.exec("SELECT 1"); }), "57P01");
    EXPECT_EQ(test::thrown([&] { tx.exec("SELECT 1"); }), idem::sqlstate::connection_lost);
}

TEST_F(transaction, sends_and_receives_more_than_a_socket_holds) {
    const std::string large(8 << 20, 'x');
    EXPECT_EQ(tx.exec("SELECT $1 || 'y'", {large}).text(0, 0), large + 'y');
}
