// The NATS sink alone, with servers that are killed, frozen and full of limits.
#include "nats.hpp"

#include <nats_url.hpp>
#include <sink.hpp>

#include <gtest/gtest.h>

#include <thread>

namespace {

using idem::message;
using namespace idem::relay;
using namespace std::chrono_literals;

message numbered(std::int64_t seq, std::string payload = "{}") {
    message m;
    m.id = 1000 + seq;
    m.topic = "orders";
    m.payload = std::move(payload);
    m.created_at = "2024-05-31T09:07:03.141592+00:00";
    m.lane = 2;
    m.seq = seq;
    m.source = "events@7.1";
    m.message_id = "7.1." + std::to_string(m.id);
    return m;
}
std::vector<message> numbered(std::int64_t from, std::int64_t to) {
    std::vector<message> all;
    for (auto seq = from; seq <= to; ++seq) all.push_back(numbered(seq, std::to_string(seq)));
    return all;
}

std::unique_ptr<sink> open(const std::string& url) { return open_sinks(url, "events")(); }

std::string refused(const std::string& url) {
    try {
        open(url);
    } catch (const bad_url& wrong) {
        return wrong.what();
    }
    return "";
}

template <typename Call>
std::string is_away(Call&& call) {
    try {
        call();
    } catch (const away& gone) {
        return gone.what();
    }
    return "";
}

void deliver(sink& to, const std::vector<message>& batch) { EXPECT_FALSE(to.deliver(batch)); }

struct nats : testing::Test {
    test::nats_server server{};
    void SetUp() override { server.start(); }
};

} // namespace

TEST(nats_url, is_taken_apart) {
    const nats_url plain = parse_nats_url("nats://broker");
    EXPECT_EQ(plain.servers, std::vector<std::string>{"nats://broker:4222"});
    EXPECT_EQ(plain.stream + plain.prefix, "idemidem");
    EXPECT_FALSE(plain.tls);

    const nats_url full =
        parse_nats_url("tls://me:p%40ss%2Fw:rd@a:1,[::1]:2,c/SHOP?subject=shop.v1&creds=/etc/%63reds");
    EXPECT_EQ(full.servers, (std::vector<std::string>{"nats://a:1", "nats://[::1]:2", "nats://c:4222"}));
    EXPECT_EQ(full.user, "me");
    EXPECT_EQ(full.password, "p@ss/w:rd");
    EXPECT_EQ(full.stream, "SHOP");
    EXPECT_EQ(full.prefix, "shop.v1");
    EXPECT_EQ(full.credentials, "/etc/creds");
    EXPECT_TRUE(full.tls);
    EXPECT_EQ(full.shown(), "tls://a:1,[::1]:2,c:4222");

    EXPECT_EQ(parse_nats_url("nats://t0ken@a/").token, "t0ken");
    EXPECT_EQ(parse_nats_url("nats://a/S").prefix, "S");
}

TEST(nats_url, is_refused_when_malformed) {
    for (const std::string wrong : {"nats://",
                                    "nats:///S",
                                    "nats://a:b",
                                    "nats://a:0",
                                    "nats://a:65536",
                                    "nats://a:",
                                    "nats://a,,b",
                                    "nats://a,",
                                    "nats://@a",
                                    "nats://:p@a",
                                    "nats://a b",
                                    "nats://[::1",
                                    "nats://a/S.T",
                                    "nats://a/*",
                                    "nats://a/S T",
                                    "nats://a/S/T",
                                    "nats://a/%zz",
                                    "nats://a/%0",
                                    "nats://a/%00",
                                    "nats://a/S?",
                                    "nats://a/S?subject",
                                    "nats://a/S?subject=",
                                    "nats://a/S?subject=a..b",
                                    "nats://a/S?subject=.a",
                                    "nats://a/S?subject=a.",
                                    "nats://a/S?subject=a.*",
                                    "nats://a/S?subject=%3E",
                                    "nats://a/S?subject=a%20b",
                                    "nats://a/S?stream=T"})
        EXPECT_NE(refused(wrong).find("nats://[USER:PASSWORD@]HOST"), std::string::npos) << wrong;
    for (const std::string wrong : {"", "nats", "nats:/a", "kafka://a", "stdout", "stdout://x"})
        EXPECT_NE(refused(wrong), "") << wrong;
    EXPECT_EQ(refused("nats://me:secret@a:b").find("secret"), std::string::npos);
}

TEST(nats_subject, holds_any_topic) {
    EXPECT_EQ(nats_subject("p", "orders"), "p.orders");
    EXPECT_EQ(nats_subject("p.q", "shop.orders.v1"), "p.q.shop.orders.v1");
    EXPECT_EQ(nats_subject("p", "Größe/1-2_3"), "p.Größe/1-2_3");
    EXPECT_EQ(nats_subject("p", "a*b>c d\te%"), "p.a%2Ab%3Ec%20d%09e%25");
    EXPECT_EQ(nats_subject("p", ".a..b."), "p.%2Ea.%2Eb%2E");
    EXPECT_EQ(nats_subject("p", "."), "p.%2E");
}

TEST(nats_header, holds_any_text) {
    EXPECT_EQ(nats_header(""), "");
    EXPECT_EQ(nats_header("a key: with ü"), "a key: with ü");
    EXPECT_EQ(nats_header(" a b "), "%20a b%20");
    EXPECT_EQ(nats_header("50%\r\nNats-Rollup: all\t"), "50%25%0D%0ANats-Rollup: all%09");
}

TEST_F(nats, stores_messages_with_what_the_receiver_needs) {
    message first = numbered(1, R"({"n": 1.10})");
    first.key = "k 1\n";
    first.type = "created";
    first.headers =
        R"({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b%20c",
        "n": 1, "none": null, "two\nlines": "x", "bad": "a\r\nb", "nats-Msg-Id": "mine", "Idem-seq": "9", "empty": "", "ü": "x", "": "y"})";
    message second = numbered(2, "null");
    second.key = "";
    second.topic = "a b";
    const auto to = open(server.url());
    to->connect();
    deliver(*to, {first, second, numbered(3, "")});

    test::nats_session session{server};
    const auto all = session.all("idem");
    ASSERT_EQ(all.size(), 3U);
    EXPECT_EQ(all[0].subject, "idem.orders");
    EXPECT_EQ(all[0].data, R"({"n": 1.10})");
    EXPECT_EQ(all[0].headers, (std::map<std::string, std::string>{
                                  {"Nats-Msg-Id", "events@7.1/2/1"},
                                  {"Nats-Expected-Stream", "idem"},
                                  {"Idem-Consumer", "events"},
                                  {"Idem-Source", "events@7.1"},
                                  {"Idem-Lane", "2"},
                                  {"Idem-Seq", "1"},
                                  {"Idem-Message-Id", "7.1.1001"},
                                  {"Idem-Topic", "orders"},
                                  {"Idem-Key", "k 1%0A"},
                                  {"Idem-Type", "created"},
                                  {"Idem-Created-At", "2024-05-31T09:07:03.141592+00:00"},
                                  {"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
                                  {"tracestate", "a=b%20c"},
                              }));
    EXPECT_EQ(all[1].subject, "idem.a%20b");
    EXPECT_EQ(all[1].data, "null");
    EXPECT_EQ(all[1].headers.count("Idem-Key"), 0U);
    EXPECT_EQ(all[1].headers.count("Idem-Tombstone"), 0U);
    EXPECT_EQ(all[2].data, "");
    EXPECT_EQ(all[2].headers.at("Idem-Tombstone"), "true");
}

TEST_F(nats, drops_what_is_repeated) {
    const auto to = open(server.url("/S"));
    to->connect();
    deliver(*to, numbered(1, 1000));
    deliver(*to, numbered(1, 1000));
    open(server.url("/S"))->connect();
    const auto other = open(server.url("/S"));
    other->connect();
    deliver(*other, numbered(500, 1500));
    test::nats_session session{server};
    EXPECT_EQ(session.count("S"), 1500);
    EXPECT_EQ(session.all("S").at(1499).data, "1500");
}

TEST_F(nats, makes_a_stream_and_alters_none) {
    test::nats_session session{server};
    const char* subjects[] = {"other.>"};
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    config.Name = "HIS";
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.MaxMsgSize = 1000;
    test::require(js_AddStream(nullptr, session.js(), &config, nullptr, nullptr), "js_AddStream");

    const auto his = open(server.url("/HIS?subject=other"));
    his->connect();
    deliver(*his, numbered(1, 3));
    EXPECT_EQ(session.count("HIS"), 3);
    EXPECT_EQ(session.count("idem"), -1);

    // it does not take those subjects: for its owner to mend, while the relay tries again
    const auto lost = open(server.url("/HIS?subject=mine"));
    lost->connect();
    EXPECT_NE(is_away([&] { deliver(*lost, numbered(1, 3)); }), "");
    EXPECT_EQ(session.count("HIS"), 3);
    // another one does
    const auto wrong = open(server.url("/MINE?subject=mine"));
    wrong->connect();
    EXPECT_NE(is_away([&] { deliver(*lost, numbered(1, 3)); }), "");
    EXPECT_EQ(session.count("MINE"), 0);
}

TEST_F(nats, refuses_what_is_too_large_for_the_server) {
    const auto to = open(server.url());
    to->connect();
    // headers count too: about the limit it is one or the other, and never a lost connection
    for (int over = -1000; over <= 100; over += 10) {
        auto batch = numbered(10'000 + 3 * over, 10'000 + 3 * over + 2);
        batch[1].payload = '"' + std::string(static_cast<std::size_t>((1 << 20) - 2 + over), 'x') + '"';
        const auto answer = to->deliver(batch);
        if (over < -600) {
            EXPECT_FALSE(answer) << over;
        }
        if (over > 0) {
            ASSERT_TRUE(answer) << over;
        }
        if (answer) {
            EXPECT_EQ(answer->index, 1U);
        }
    }
}

TEST_F(nats, refuses_what_is_too_large_for_the_stream) {
    test::nats_session session{server};
    const char* subjects[] = {"S.>"};
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    config.Name = "S";
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.MaxMsgSize = 1000;
    test::require(js_AddStream(nullptr, session.js(), &config, nullptr, nullptr), "js_AddStream");
    const auto to = open(server.url("/S"));
    to->connect();
    auto batch = numbered(1, 100);
    batch[40].payload = batch[60].payload = '"' + std::string(1000, 'x') + '"';
    const auto answer = to->deliver(batch);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->index, 40U);
    EXPECT_NE(answer->why, "");
    // as a tombstone it gets through
    batch[40].payload = batch[60].payload = "";
    deliver(*to, batch);
    EXPECT_EQ(session.count("S"), 100);

    auto headed = numbered(101, 103);
    headed[1].headers = R"({"large": ")" + std::string(70'000, 'x') + R"("})";
    const auto of_headers = to->deliver(headed);
    ASSERT_TRUE(of_headers);
    EXPECT_EQ(of_headers->index, 1U);
}

TEST_F(nats, goes_on_when_the_server_comes_back) {
    const auto to = open(server.url());
    to->connect();
    deliver(*to, numbered(1, 10));
    server.kill(SIGKILL);
    EXPECT_NE(is_away([&] { deliver(*to, numbered(11, 20)); }), "");
    EXPECT_NE(is_away([&] { to->connect(); }), "");
    server.start();
    for (int i = 0; i < 100 && !is_away([&] { to->connect(); }).empty(); ++i) std::this_thread::sleep_for(100ms);
    deliver(*to, numbered(11, 20));
    test::nats_session session{server};
    EXPECT_EQ(session.count("idem"), 20);
}

TEST_F(nats, is_killed_in_the_midst) {
    const auto to = open(server.url());
    to->connect();
    int tries = 0;
    auto longest = 0ns;
    for (int round = 0; round < 3; ++round) {
        std::thread killer{[&] {
            std::this_thread::sleep_for(5ms * (round + 1));
            server.kill(SIGKILL);
            server.start();
        }};
        for (int batch = 0; batch < 20; ++batch) {
            const auto from = 1 + 10'000 * round + 500 * batch;
            const auto attempt = [&] {
                to->connect();
                deliver(*to, numbered(from, from + 499));
            };
            for (;; ++tries) {
                const auto began = std::chrono::steady_clock::now();
                const bool done = is_away(attempt).empty();
                longest = std::max<std::chrono::nanoseconds>(longest, std::chrono::steady_clock::now() - began);
                if (done) break;
                std::this_thread::sleep_for(100ms);
            }
        }
        killer.join();
    }
    test::nats_session session{server};
    EXPECT_EQ(session.count("idem"), 30'000);
    EXPECT_GT(tries, 0);
    EXPECT_LT(longest, 8s); // it does not wait for answers that are lost
}

// Then libnats answers for it.
TEST_F(nats, gives_up_on_a_server_that_is_silent) {
    const auto to = open(server.url());
    to->connect();
    server.kill(SIGSTOP);
    EXPECT_NE(is_away([&] { deliver(*to, numbered(1, 1000)); }), "");
    server.kill(SIGCONT);
    for (int i = 0; i < 100 && !is_away([&] { to->connect(); }).empty(); ++i) std::this_thread::sleep_for(100ms);
    deliver(*to, numbered(1, 1000));
    test::nats_session session{server};
    EXPECT_EQ(session.count("idem"), 1000);
}

TEST(nats_server, says_why_it_is_away) {
    EXPECT_NE(is_away([] { open("nats://127.0.0.1:1")->connect(); }).find("127.0.0.1:1"), std::string::npos);
    test::nats_server plain{""};
    plain.start();
    const auto without = is_away([&] { open(plain.url("/S"))->connect(); });
    EXPECT_NE(without.find("stream \"S\""), std::string::npos) << without;
}

TEST(nats_server, knows_who_may) {
    test::nats_server closed{"jetstream {}\nauthorization { user: me, password: \"p@ss\" }"};
    closed.start();
    const std::string at = "127.0.0.1:" + std::to_string(closed.port());
    const auto why = is_away([&] { open("nats://me:wrong@" + at)->connect(); });
    EXPECT_NE(why, "");
    EXPECT_EQ(why.find("wrong"), std::string::npos) << why;
    EXPECT_NE(is_away([&] { open("nats://" + at)->connect(); }), "");
    const auto to = open("nats://me:p%40ss@" + at);
    to->connect();
    deliver(*to, numbered(1, 1));

    test::nats_server with_token{"jetstream {}\nauthorization { token: t0ken }"};
    with_token.start();
    open("nats://t0ken@127.0.0.1:" + std::to_string(with_token.port()))->connect();
}
