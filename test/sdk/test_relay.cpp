// idem-relay as a shell sees it: options, lines, exit statuses, signals.
#include "support.hpp"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <thread>

namespace {

using namespace std::chrono_literals;

struct answer {
    int status;
    std::string out;
};

answer shell(const std::string& command) {
    FILE* const pipe = popen(command.c_str(), "r");
    answer got{0, {}};
    std::array<char, 4096> part{};
    while (const auto n = fread(part.data(), 1, part.size(), pipe)) got.out.append(part.data(), n);
    got.status = WEXITSTATUS(pclose(pipe));
    return got;
}

struct relay : testing::Test {
    const std::string name = test::fresh_key("relay"), topic = test::fresh_key("topic");
    const std::string program = "'" IDEM_RELAY "' ", command = program + "--consumer " + name + " ";
    const std::string file = testing::TempDir() + name;
    test::session direct{};

    void SetUp() override { direct.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + topic + "'])"); }
    void TearDown() override {
        direct.exec("SELECT idem_unsubscribe(consumer) FROM idem_consumers WHERE consumer LIKE '" + name + "%'");
        std::remove(file.c_str());
    }
    void publish(int from, int to) {
        for (int i = from; i <= to; ++i) idem::publish(direct.get(), topic, std::to_string(i));
    }
    // A member of each line, as the server reads it.
    std::string each(const std::string& lines, const std::string& member) {
        const auto joined =
            idem::transaction{direct.get(), 60s}.exec("SELECT string_agg(l::jsonb->>$2, ' ' ORDER BY n) FROM "
                                                      "unnest(string_to_array(rtrim($1, E'\\n'), E'\\n')) "
                                                      "WITH ORDINALITY AS t (l, n)",
                                                      {lines, member});
        return std::string{joined.text(0, 0)};
    }
    std::string left() { return direct.value("SELECT depth FROM idem_consumers WHERE consumer = '" + name + "'"); }
};

} // namespace

TEST_F(relay, helps) {
    const auto help = shell(program + "--help");
    EXPECT_EQ(help.status, 0);
    for (const std::string has :
         {"--dsn", "--consumer", "--topics", "--batch", "--once", "AT LEAST ONCE", "Exit status"})
        EXPECT_NE(help.out.find(has), std::string::npos) << has;
    EXPECT_EQ(shell(program + "--version").out, "idem-relay " IDEM_VERSION "\n");
}

TEST_F(relay, refuses_wrong_usage) {
    for (const std::string wrong : {"", "--consumer", "--consumer x --batch 0", "--consumer x --batch 100001",
                                    "--consumer x --nonsense", "--consumer x y"})
        EXPECT_EQ(shell(program + wrong + " 2>&1").status, 2) << wrong;
}

TEST_F(relay, says_what_is_wrong) {
    const auto unknown = shell(program + "--once --consumer nobody-knows 2>&1");
    EXPECT_EQ(unknown.status, 1);
    EXPECT_NE(unknown.out.find("nobody-knows"), std::string::npos) << unknown.out;
    EXPECT_NE(unknown.out.find("--topics"), std::string::npos) << unknown.out;
    EXPECT_EQ(shell(command + "--once --topics other,topics 2>&1").status, 1); // it has others
    EXPECT_EQ(shell(command + "--once --dsn 'host=/nowhere' 2>&1").status, 3);
    EXPECT_EQ(shell(command + "--once --dsn 'no conninfo' 2>&1").status, 3);
}

TEST_F(relay, writes_what_there_is_as_json_lines) {
    idem::publish(direct.get(), topic, R"({"n": 1.10, "big": 123456789012345678901234567890, "s": "ü\n\"\\"})",
                  {.key = "k\"\n\\ü", .type = "t", .headers = R"({"h": 1})"});
    const auto id = idem::publish(direct.get(), topic, "[2]");
    const auto got = shell(command + "--once");
    EXPECT_EQ(got.status, 0);
    EXPECT_EQ(std::count(got.out.begin(), got.out.end(), '\n'), 2);
    EXPECT_NE(got.out.find(R"("n": 1.10)"), std::string::npos) << got.out;
    EXPECT_NE(got.out.find("123456789012345678901234567890"), std::string::npos) << got.out;
    const std::string second = got.out.substr(got.out.find('\n') + 1), first = got.out.substr(0, got.out.find('\n'));
    EXPECT_EQ(each(first, "key"), "k\"\n\\ü");
    EXPECT_EQ(each(first, "type"), "t");
    EXPECT_EQ(each(first, "headers"), R"({"h": 1})");
    EXPECT_EQ(each(got.out, "topic"), topic + ' ' + topic);
    EXPECT_EQ(each(second, "id"), std::to_string(id));
    EXPECT_EQ(each(second, "payload"), "[2]");
    EXPECT_NE(second.find(R"("key":null,"type":null,)"), std::string::npos) << second;
    EXPECT_EQ(shell(command + "--once").out, "");
}

TEST_F(relay, writes_utf8_whatever_the_environment_says) {
    idem::publish(direct.get(), topic, R"("ü")", {.key = "ü"});
    const auto got = shell("PGCLIENTENCODING=LATIN1 " + command + "--once");
    EXPECT_EQ(got.status, 0);
    EXPECT_EQ(each(got.out, "key"), "ü");
    EXPECT_EQ(each(got.out, "payload"), "ü");
}

TEST_F(relay, subscribes_a_new_consumer) {
    const std::string other = program + "--consumer " + name + "-2 --once --topics 'a," + topic + "'";
    EXPECT_EQ(shell(other).status, 0);
    publish(1, 3);
    EXPECT_EQ(each(shell(other).out, "payload"), "1 2 3");
}

TEST_F(relay, goes_on_until_it_is_told_to_stop) {
    publish(1, 5);
    for (const std::string signal : {"TERM", "INT"}) {
        const auto got = shell("{ " + command + "--batch 2 & sleep 0.3; kill -" + signal + " $!; wait $!; } > " + file +
                               "; echo $?; cat " + file);
        EXPECT_EQ(got.out.substr(0, 2), "0\n") << got.out;
        if (signal == "TERM") {
            EXPECT_EQ(each(got.out.substr(2), "payload"), "1 2 3 4 5");
        } else {
            EXPECT_EQ(got.out, "0\n");
        }
    }
}

// Nothing is acknowledged that could not be written.
TEST_F(relay, loses_nothing_when_its_output_is_gone) {
    publish(1, 3);
    EXPECT_EQ(shell(command + "--once 2>&1 > /dev/full").status, 1);
    EXPECT_NE(shell(command + "--once 2>&1 >&-").status, 0);
    EXPECT_NE(shell("trap '' PIPE; { " + command + "--once 2>/dev/null; echo $? >" + file + "; } | :; cat " + file).out,
              "0\n");
    EXPECT_EQ(left(), "3");
    EXPECT_EQ(each(shell(command + "--once").out, "payload"), "1 2 3");
}

// Killed again and again: each message is there, and once the repeats are dropped, once.
TEST_F(relay, is_at_least_once_when_killed) {
    std::thread publisher{[this] {
        test::session session;
        for (int i = 1; i <= 500; ++i) idem::publish(session.get(), topic, std::to_string(i));
    }};
    shell("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do " + command + "--batch 3 >> " + file +
          " & sleep 0.0$((i + 20)); kill -9 $!; wait $! 2>/dev/null; done");
    publisher.join();
    EXPECT_EQ(shell(command + "--once >> " + file).status, 0);
    const auto lines = shell("cat " + file).out;
    EXPECT_EQ(direct.value("SELECT count(*) FROM (SELECT DISTINCT x FROM unnest(string_to_array('" + each(lines, "id") +
                           "', ' ')) AS x) AS t"),
              "500");
}

TEST_F(relay, goes_on_after_a_lost_connection) {
    idem::test::proxy proxy{test::upstream()};
    publish(1, 1);
    std::thread cutter{[&] {
        while (left() != "0") std::this_thread::sleep_for(1ms);
        proxy.drop_all();
        publish(2, 2);
        while (left() != "0") std::this_thread::sleep_for(1ms);
        shell("kill -TERM $(cat " + file + ")");
    }};
    const auto got =
        shell(command + "--dsn '" + test::through(proxy) + "' 2>/dev/null & echo $! > " + file + "; wait $!");
    cutter.join();
    EXPECT_EQ(got.status, 0);
    EXPECT_EQ(each(got.out, "payload"), "1 2");
}
