// The proxy in front of a real server, found as libpq finds it (PGHOST, PGPORT, …).
#include "proxy.hpp"
#include "wire.hpp"

#include <gtest/gtest.h>
#include <libpq-fe.h>

#include <cstdlib>
#include <poll.h>

namespace {

using namespace idem::test;

using connection = std::unique_ptr<PGconn, decltype(&PQfinish)>;
using result = std::unique_ptr<PGresult, decltype(&PQclear)>;

proxy::options upstream() {
    const auto env = [](const char* name, const char* otherwise) {
        const auto value = std::getenv(name);
        return std::string{value ? value : otherwise};
    };
    return {.host = env("PGHOST", "/var/run/postgresql"), .port = env("PGPORT", "5432")};
}

connection direct() { return {PQconnectdb(""), PQfinish}; }

connection through(const proxy& p) {
    return {PQconnectdb(("host=127.0.0.1 hostaddr=127.0.0.1 port=" + std::to_string(p.port())).c_str()), PQfinish};
}

std::string run(const connection& c, const char* sql) {
    const result r{PQexec(c.get(), sql), PQclear};
    switch (PQresultStatus(r.get())) {
    case PGRES_TUPLES_OK: return PQgetvalue(r.get(), 0, 0);
    case PGRES_COMMAND_OK: return PQcmdStatus(r.get());
    default: return "error";
    }
}

// Whether the server says anything within a quarter of a second.
bool hears(const connection& c) {
    pollfd fd{PQsocket(c.get()), POLLIN, 0};
    return poll(&fd, 1, 250) > 0;
}

class Proxy : public testing::Test {
protected:
    const connection look = direct();
    proxy between{upstream()};

    void SetUp() override {
        ASSERT_EQ(PQstatus(look.get()), CONNECTION_OK) << PQerrorMessage(look.get());
        run(look, "SET client_min_messages = error");
        run(look, "DROP TABLE IF EXISTS proxy_test");
        ASSERT_EQ(run(look, "CREATE TABLE proxy_test (n int)"), "CREATE TABLE");
    }
    void TearDown() override { run(look, "DROP TABLE IF EXISTS proxy_test"); }

    std::string rows() const { return run(look, "SELECT count(*) FROM proxy_test"); }

    // The rows once no other session is at work on them.
    std::string rows_at_rest() const {
        run(look, "DO $$ BEGIN LOCK TABLE proxy_test; END $$"); // waits for the transaction that was cut
        return rows();
    }
};

TEST(Wire, KnowsACommitWhenItSeesOne) {
    for (auto sql : {"COMMIT", "commit;", " Commit ; ;\n", "END", "COMMIT WORK", "SELECT f('x'); COMMIT",
                     "SELECT 1;commit transaction;"})
        EXPECT_TRUE(wire::ends_in_commit(sql)) << sql;
    for (auto sql : {"", ";", "BEGIN", "COMMIT; SELECT 1", "SELECT 'x; COMMIT'", "COMMIT PREPARED 'x'", "-- COMMIT",
                     "ROLLBACK", "RECOMMIT"})
        EXPECT_FALSE(wire::ends_in_commit(sql)) << sql;
}

TEST(Wire, FindsTheEndOfAMessage) {
    const std::string message{"Q\0\0\0\x08"
                              "abc\0",
                              9};
    for (std::size_t n = 0; n < message.size(); ++n) EXPECT_EQ(wire::message_length(message.substr(0, n), true), 0u);
    EXPECT_EQ(wire::message_length(message + "Q", true), message.size());
    EXPECT_THROW(wire::message_length("GET / HTTP/1.1", true), std::runtime_error);
}

TEST_F(Proxy, CountsRoundTripsAndNotTheStartup) {
    auto c = through(between);
    EXPECT_EQ(between.totals().round_trips, 0u);
    run(c, "BEGIN");
    run(c, "INSERT INTO proxy_test VALUES (1); INSERT INTO proxy_test VALUES (2)");
    run(c, "COMMIT");
    const auto port = between.connections().at(0).client_port;
    EXPECT_GT(port, 0);
    c.reset();
    const auto all = between.totals();
    EXPECT_EQ(all.connections, 1u);
    EXPECT_EQ(all.round_trips, 3u);
    EXPECT_EQ(all.messages, 3u);
    EXPECT_EQ(all.commits, 1u);
    EXPECT_EQ(all.commits_done, 1u);
    EXPECT_EQ(all.lost(), 0u);
    EXPECT_EQ(rows(), "2");
}

TEST_F(Proxy, APipelineIsOneRoundTripAndItsCommitIsSeen) {
    auto c = through(between);
    PQenterPipelineMode(c.get());
    for (auto sql : {"BEGIN", "INSERT INTO proxy_test VALUES (1)", "COMMIT"})
        PQsendQueryParams(c.get(), sql, 0, nullptr, nullptr, nullptr, nullptr, 0);
    PQpipelineSync(c.get());
    for (bool synced = false; !synced;) {
        const result r{PQgetResult(c.get()), PQclear};
        synced = r && PQresultStatus(r.get()) == PGRES_PIPELINE_SYNC;
        ASSERT_EQ(PQstatus(c.get()), CONNECTION_OK);
    }
    EXPECT_EQ(between.connections().at(0).round_trips, 1u);
    EXPECT_EQ(between.totals().commits_done, 1u);
}

TEST_F(Proxy, DropsWhereItIsTold) {
    for (const auto where : {place::before_commit, place::after_commit, place::in_reply}) {
        between.at_commit([where](auto&) { return drop(where); });
        for (const auto commit : {"COMMIT", "SELECT 1; COMMIT"}) {
            auto c = through(between);
            run(c, "BEGIN; INSERT INTO proxy_test VALUES (1)");
            EXPECT_EQ(run(c, commit), "error");
            EXPECT_EQ(PQstatus(c.get()), CONNECTION_BAD);
        }
        EXPECT_EQ(between.totals().dropped_at(where), 2u);
        EXPECT_EQ(rows_at_rest(), where == place::before_commit ? "0" : "2");
        run(look, "TRUNCATE proxy_test");
    }
}

TEST_F(Proxy, ACommitInAPreparedStatementCounts) {
    auto c = through(between);
    between.at_commit([](auto& commit) { return commit.nth_here == 2 ? drop(place::after_commit) : pass(); });
    result{PQprepare(c.get(), "done", "COMMIT", 0, nullptr), PQclear};
    const auto commit = [&] {
        run(c, "BEGIN; INSERT INTO proxy_test VALUES (1)");
        const result r{PQexecPrepared(c.get(), "done", 0, nullptr, nullptr, nullptr, 0), PQclear};
        return PQresultStatus(r.get()) == PGRES_COMMAND_OK;
    };
    EXPECT_TRUE(commit());
    EXPECT_FALSE(commit());
    EXPECT_EQ(rows(), "2");
}

TEST_F(Proxy, SilenceIsABlackHole) {
    for (const auto where : {place::before_commit, place::after_commit, place::in_reply}) {
        between.at_commit([where](auto&) { return silence(where); });
        auto c = through(between);
        run(c, "BEGIN; INSERT INTO proxy_test VALUES (1)");
        PQsendQuery(c.get(), "COMMIT");
        if (where == place::in_reply) {
            EXPECT_TRUE(hears(c));
            PQconsumeInput(c.get());
        }
        EXPECT_FALSE(hears(c));
        EXPECT_EQ(PQstatus(c.get()), CONNECTION_OK);
        EXPECT_EQ(between.totals().silenced_at(where), 1u);
    }
    EXPECT_EQ(rows_at_rest(), "2");
}

TEST_F(Proxy, AHalfOpenPredecessorHoldsItsLocksUntilLetGo) {
    between.half_open(true);
    between.at_commit([](auto&) { return silence(place::before_commit); });
    auto c = through(between);
    run(c, "BEGIN; INSERT INTO proxy_test VALUES (1)");
    PQsendQuery(c.get(), "COMMIT");
    EXPECT_FALSE(hears(c));
    c.reset();
    run(look, "BEGIN");
    EXPECT_EQ(run(look, "LOCK TABLE proxy_test NOWAIT"), "error");
    run(look, "ROLLBACK");
    between.let_go();
    EXPECT_EQ(rows_at_rest(), "0");
}

TEST_F(Proxy, LosesAllOnDemand) {
    auto c = through(between), d = through(between);
    between.drop_all();
    EXPECT_EQ(run(c, "SELECT 1"), "error");
    EXPECT_EQ(run(d, "SELECT 1"), "error");
    EXPECT_EQ(between.totals().dropped_at(place::on_demand), 2u);

    between.refuse(true);
    EXPECT_EQ(PQstatus(through(between).get()), CONNECTION_BAD);
    between.refuse(false);
    auto e = through(between);
    EXPECT_EQ(run(e, "SELECT 1"), "1");

    between.silence_all();
    PQsendQuery(e.get(), "SELECT 1");
    EXPECT_FALSE(hears(e));
    between.let_go();
    EXPECT_TRUE(hears(e));
}

TEST_F(Proxy, DropsAtRandomBySeed) {
    const auto survived = [](std::uint64_t seed) {
        auto o = upstream();
        o.seed = seed, o.drop_probability = 0.1;
        proxy p{o};
        auto c = through(p);
        int n = 0;
        while (n < 1000 && run(c, "SELECT 1") == "1") ++n;
        EXPECT_EQ(p.totals().dropped_at(place::at_random), n < 1000 ? 1u : 0u);
        return n;
    };
    EXPECT_EQ(survived(1), survived(1));
    EXPECT_LT(survived(2), 1000);
}

TEST_F(Proxy, DelaysEachDirection) {
    between.delay(std::chrono::milliseconds{20}, std::chrono::milliseconds{10});
    auto c = through(between);
    const auto before = std::chrono::steady_clock::now();
    EXPECT_EQ(run(c, "SELECT 1"), "1");
    EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds{30});
}

TEST_F(Proxy, PassesLongMessages) {
    auto c = through(between);
    EXPECT_EQ(run(c, ("SELECT length('" + std::string(5'000'000, 'x') + "')").c_str()), "5000000");
    EXPECT_EQ(run(c, "SELECT repeat('y', 5000000)").size(), 5'000'000u);
}

TEST_F(Proxy, PassesCancelRequests) {
    auto c = through(between);
    PQsendQuery(c.get(), "SELECT pg_sleep(600)");
    const std::unique_ptr<PGcancel, decltype(&PQfreeCancel)> cancel{PQgetCancel(c.get()), PQfreeCancel};
    char why[256];
    // The server may not be at the query yet: ask until it answers.
    do ASSERT_TRUE(PQcancel(cancel.get(), why, sizeof why)) << why;
    while (!hears(c));
    const result r{PQgetResult(c.get()), PQclear};
    EXPECT_EQ(std::string{PQresultErrorField(r.get(), PG_DIAG_SQLSTATE)}, "57014");
}

TEST_F(Proxy, AnUnreachableServerIsARefusal) {
    proxy nowhere{{.host = "127.0.0.1", .port = "1"}};
    EXPECT_EQ(PQstatus(through(nowhere).get()), CONNECTION_BAD);
    EXPECT_EQ(nowhere.totals().refused, 1u);
}

} // namespace
