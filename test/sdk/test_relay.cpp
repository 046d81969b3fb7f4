// idem-relay as a shell sees it: options, lines, exit statuses, signals.
#include "loopback.hpp"
#include "process.hpp"
#include "support.hpp"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <map>
#include <regex>
#include <sstream>
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

    void SetUp() override { subscribe(name, 1); }
    void TearDown() override {
        direct.exec("SELECT idem_unsubscribe(consumer) FROM idem_subscriptions WHERE consumer LIKE '" + name + "%'");
        std::remove(file.c_str());
    }
    void subscribe(const std::string& consumer, int lanes) {
        direct.exec("SELECT idem_subscribe('" + consumer + "', ARRAY['" + topic + "'], " + std::to_string(lanes) +
                    ", external => true)");
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
    std::string left() { return direct.value("SELECT sum(depth) FROM idem_consumers WHERE consumer = '" + name + "'"); }
};

} // namespace

TEST_F(relay, helps) {
    const auto help = shell(program + "--help");
    EXPECT_EQ(help.status, 0);
    for (const std::string has : {"--dsn", "--consumer", "--sink", "--topics", "--lanes", "--batch", "--once",
                                  "--metrics", "AT LEAST ONCE", "stdout://", "nats://", "Exit status"})
        EXPECT_NE(help.out.find(has), std::string::npos) << has;
    EXPECT_EQ(shell(program + "--version").out, "idem-relay " IDEM_VERSION "\n");
}

TEST_F(relay, refuses_wrong_usage) {
    for (const std::string wrong :
         {"", "--consumer", "--consumer x --batch 0", "--consumer x --batch 100001", "--consumer x --nonsense",
          "--consumer x y", "--consumer x --lanes 0", "--consumer x --lanes 257", "--consumer x --sink ''",
          "--consumer x --sink pigeon://post", "--consumer x --sink stdout://file",
          "--consumer x --sink nats://host:port", "--consumer x --sink 'nats://host/a stream'",
          "--consumer x --metrics 9187", "--consumer x --metrics host:", "--consumer x --metrics :1"})
        EXPECT_EQ(shell(program + wrong + " 2>&1").status, 2) << wrong;
}

// Which is seen before anything is connected to.
TEST_F(relay, refuses_a_sink_or_metrics_that_cannot_be) {
    const auto sink = shell(command + "--dsn 'host=/nowhere' --sink nats://me:secret@host:port 2>&1");
    EXPECT_EQ(sink.status, 2);
    EXPECT_NE(sink.out.find("--sink: \"port\" is no port; the form is nats://"), std::string::npos) << sink.out;
    EXPECT_EQ(sink.out.find("secret"), std::string::npos) << sink.out;
    const auto metrics = shell(command + "--dsn 'host=/nowhere' --metrics localhost 2>&1");
    EXPECT_EQ(metrics.status, 2);
    EXPECT_NE(metrics.out.find("--metrics: \"localhost\" is not HOST:PORT"), std::string::npos) << metrics.out;
}

TEST_F(relay, says_what_is_wrong) {
    const auto unknown = shell(program + "--once --consumer nobody-knows 2>&1");
    EXPECT_EQ(unknown.status, 1);
    EXPECT_NE(unknown.out.find("nobody-knows"), std::string::npos) << unknown.out;
    EXPECT_NE(unknown.out.find("--topics"), std::string::npos) << unknown.out;
    EXPECT_EQ(shell(command + "--once --topics other,topics 2>&1").status, 1); // it has others
    EXPECT_EQ(shell(command + "--once --dsn 'host=/nowhere' 2>&1").status, 3);
    EXPECT_EQ(shell(command + "--dsn 'no conninfo' 2>&1").status, 3);

    direct.exec("SELECT idem_subscribe('" + name + "-internal', ARRAY['" + topic + "'])");
    publish(1, 1);
    const auto internal = shell(program + "--consumer " + name + "-internal 2>&1");
    EXPECT_EQ(internal.status, 1);
    EXPECT_NE(internal.out.find("is internal"), std::string::npos) << internal.out;
    EXPECT_NE(internal.out.find("external => true"), std::string::npos) << internal.out;
    EXPECT_EQ(shell(program + "--topics " + topic + " --consumer " + name + "-internal 2>&1").status, 1);
    EXPECT_EQ(direct.value("SELECT depth FROM idem_consumers WHERE consumer = '" + name + "-internal'"), "1");
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
    EXPECT_EQ(each(got.out, "lane"), "0 0");
    EXPECT_EQ(each(got.out, "seq"), "1 2");
    const std::string here = direct.value("SELECT idem_incarnation()");
    EXPECT_TRUE(each(second, "source").starts_with(name + '@' + here)) << second;
    EXPECT_EQ(each(second, "message_id"), here + '.' + std::to_string(id));
    EXPECT_EQ(second.find("tombstone"), std::string::npos);
    EXPECT_EQ(shell(command + "--once").out, "");
}

TEST_F(relay, writes_utf8_whatever_the_environment_says) {
    idem::publish(direct.get(), topic, R"("ü")", {.key = "ü"});
    const auto got = shell("PGCLIENTENCODING=LATIN1 " + command + "--once");
    EXPECT_EQ(got.status, 0);
    EXPECT_EQ(each(got.out, "key"), "ü");
    EXPECT_EQ(each(got.out, "payload"), "ü");
}

// The seq of a message that was given up.
TEST_F(relay, writes_tombstones) {
    const auto id = idem::publish(direct.get(), topic, "1");
    const auto next = idem::publish(direct.get(), topic, "null");
    direct.exec("SELECT idem_fetch('" + name + "')"); // its bounds
    direct.exec("BEGIN; SET LOCAL idem.max_attempts = 1;"
                "CREATE TEMP TABLE held ON COMMIT DROP AS SELECT * FROM idem_fetch('" +
                name + "'); SELECT idem_nack('" + name + "', batch, " + std::to_string(id) +
                ", 'of no use') FROM held LIMIT 1; SELECT idem_ack('" + name + "', batch) FROM held LIMIT 1; COMMIT");
    const auto got = shell(command + "--once");
    EXPECT_EQ(each(got.out, "seq"), "1 2");
    EXPECT_EQ(each(got.out, "id"), std::to_string(id) + ' ' + std::to_string(next));
    const auto second = got.out.find('\n') + 1;
    EXPECT_NE(got.out.find(R"("payload":null,"tombstone":true})"), std::string::npos) << got.out;
    EXPECT_EQ(got.out.find("tombstone", second), std::string::npos) << got.out;
    EXPECT_NE(got.out.find(R"("payload":null})", second), std::string::npos) << got.out;
}

TEST_F(relay, serves_all_lanes) {
    const auto publish_keyed = [&](int from, int to) {
        direct.exec("SELECT idem_publish('" + topic + "', to_jsonb(n), (n % 17)::text) FROM generate_series(" +
                    std::to_string(from) + ", " + std::to_string(to) + ") AS n");
    };
    // of each lane its seqs without a hole, of each key its numbers in their order
    const auto expect_all = [&](const std::string& lines, const std::string& lanes) {
        const auto found = idem::transaction{direct.get(), 60s}.exec(
            "WITH l AS (SELECT n, l::jsonb FROM unnest(string_to_array(rtrim($1, E'\\n'), E'\\n')) WITH ORDINALITY AS "
            "t (l, n)),"
            " r AS (SELECT l->>'lane' AS lane, (l->>'seq')::int - row_number() OVER (PARTITION BY l->>'lane' ORDER BY "
            "n) AS hole,"
            " (l->>'payload')::int < lag((l->>'payload')::int) OVER (PARTITION BY l->>'key' ORDER BY n) AS back FROM l)"
            "SELECT count(*), count(DISTINCT lane), count(*) FILTER (WHERE hole <> 0), count(*) FILTER (WHERE back) "
            "FROM r",
            {lines});
        EXPECT_EQ(std::string{found.text(0, 0)}, "1000");
        EXPECT_EQ(std::string{found.text(0, 1)}, lanes);
        EXPECT_EQ(std::string{found.text(0, 2)}, "0");
        EXPECT_EQ(std::string{found.text(0, 3)}, "0");
    };
    EXPECT_EQ(shell(command + "--once --lanes 4").status, 0);
    EXPECT_EQ(shell(command + "--once --lanes 2").status, 0); // it keeps them
    EXPECT_EQ(direct.value("SELECT lanes FROM idem_subscriptions WHERE consumer = '" + name + "'"), "4");
    publish_keyed(1, 1000);
    expect_all(shell(command + "--once --batch 7").out, "4");

    // added while it runs
    const auto grown =
        shell("{ " + command + "--batch 7 & pid=$!; sleep 0.5; psql -qAtc \"SELECT idem_subscribe('" + name +
              "', ARRAY['" + topic + "'], 6, external => true)\" -c \"SELECT count(idem_publish('" + topic +
              "', to_jsonb(n), n::text)) FROM generate_series(1, 600) AS n\" >&2; sleep 8; kill $pid; "
              "wait $pid; } 2>/dev/null");
    EXPECT_EQ(std::count(grown.out.begin(), grown.out.end(), '\n'), 600);
    EXPECT_NE(each(grown.out, "lane").find('5'), std::string::npos);
    EXPECT_EQ(left(), "0");
}

// A lane is in one's hand at a time; when one is killed, the other goes on.
TEST_F(relay, is_not_alone) {
    const auto wait_for = [&](const std::string& depth) {
        for (int i = 0; i < 1000 && left() != depth; ++i) std::this_thread::sleep_for(10ms);
        EXPECT_EQ(left(), depth);
    };
    test::process first{{IDEM_RELAY, "--consumer", name, "--lanes", "3", "--batch", "3"}, file + "-1"};
    test::process second{{IDEM_RELAY, "--consumer", name, "--lanes", "3", "--batch", "3"}, file + "-2"};
    publish(1, 200);
    wait_for("0");
    const auto lines = [&] { return shell("cat " + file + "-1 " + file + "-2").out; };
    const auto both = lines();
    EXPECT_EQ(std::count(both.begin(), both.end(), '\n'), 200);
    EXPECT_EQ(first.end(SIGKILL), -1);
    publish(201, 300);
    wait_for("0");
    EXPECT_EQ(second.end(SIGTERM), 0);
    const auto all = lines();
    shell("rm " + file + "-?");
    EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 300);
    EXPECT_EQ(
        direct.value("SELECT count(DISTINCT x) FROM unnest(string_to_array('" + each(all, "id") + "', ' ')) AS x"),
        "300");
}

TEST_F(relay, waits_for_a_sink) {
    publish(1, 1);
    const std::string to = command + "--sink nats://127.0.0.1:1 ";
    const auto once = shell(to + "--once 2>&1");
    EXPECT_EQ(once.status, 3);
    EXPECT_NE(once.out.find("idem-relay: nats://127.0.0.1:1: "), std::string::npos) << once.out;
    test::process patient{{IDEM_RELAY, "--consumer", name, "--sink", "nats://127.0.0.1:1"}, file};
    std::this_thread::sleep_for(2500ms);
    EXPECT_TRUE(patient.runs());
    EXPECT_EQ(patient.end(SIGTERM), 0);
    EXPECT_EQ(left(), "1");
    const auto said = shell("cat " + file).out; // once, however often it has tried
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    EXPECT_NE(said.find("; trying again\n"), std::string::npos) << said;
}

TEST_F(relay, waits_for_the_database) {
    publish(1, 1);
    test::process patient{{IDEM_RELAY, "--consumer", name, "--dsn", "host=/nowhere"}, file};
    std::this_thread::sleep_for(500ms);
    EXPECT_TRUE(patient.runs());
    EXPECT_EQ(patient.end(SIGTERM), 0);
    const auto said = shell("cat " + file).out;
    EXPECT_NE(said.find("; trying again\n"), std::string::npos) << said;
}

// As Prometheus reads them: comments, and lines of name{labels} value.
TEST_F(relay, serves_metrics) {
    const int port = test::free_port();
    const std::string at = "127.0.0.1:" + std::to_string(port);
    publish(1, 10);
    test::process serving{{IDEM_RELAY, "--consumer", name, "--metrics", at}, file};
    const auto text = [&] { return test::ask(port, "GET /metrics HTTP/1.0"); };
    const std::string messages = "idem_relay_messages_total{consumer=\"" + name + "\",lane=\"0\"} 10\n";
    for (int i = 0; i < 500 && text().find(messages) == std::string::npos; ++i) std::this_thread::sleep_for(10ms);
    const std::string answer = text();
    const std::string got = answer.substr(std::min(answer.size(), answer.find("\r\n\r\n") + 4));
    const std::regex sample{R"re(([a-z_]+)(?:\{(?:[a-z_]+="[^"\\]*",?)+\})? (-?[0-9.e+-]+|NaN))re"};
    std::map<std::string, double> values;
    std::istringstream lines{got};
    for (std::string each; std::getline(lines, each);) {
        std::smatch parts;
        if (each.starts_with("# HELP ") || each.starts_with("# TYPE ")) continue;
        ASSERT_TRUE(std::regex_match(each, parts, sample)) << each;
        if (each.find("consumer=\"" + name + '"') == std::string::npos) continue;
        const auto label = each.find("to=\"") != std::string::npos ? each.substr(each.find("to=\"")) : "";
        values[parts[1].str() + label.substr(0, label.find('}'))] = std::stod(parts[2]);
    }
    EXPECT_NE(got.find("# TYPE idem_relay_messages_total counter\n"), std::string::npos) << got;
    EXPECT_EQ(values["idem_relay_messages_total"], 10);
    EXPECT_GE(values["idem_relay_batches_total"], 1);
    EXPECT_EQ(values["idem_relay_last_seq"], 10);
    EXPECT_EQ(values["idem_relay_connectedto=\"database\""], 1);
    EXPECT_EQ(values["idem_relay_connectedto=\"sink\""], 1);
    EXPECT_EQ(values.count("idem_relay_retries_total"), 1U);
    EXPECT_GT(values["idem_relay_last_age_seconds"], -1);
    EXPECT_LT(values["idem_relay_last_age_seconds"], 60);

    const auto taken = shell(command + "--once --metrics " + at + " 2>&1");
    EXPECT_EQ(taken.status, 1);
    EXPECT_NE(taken.out.find("cannot serve metrics on " + at), std::string::npos) << taken.out;
    EXPECT_EQ(serving.end(SIGTERM), 0);
}

TEST_F(relay, subscribes_a_new_consumer) {
    const std::string other = program + "--consumer " + name + "-2 --once --topics 'a," + topic + "'";
    EXPECT_EQ(shell(other).status, 0);
    publish(1, 3);
    EXPECT_EQ(each(shell(other).out, "payload"), "1 2 3");
}

TEST_F(relay, goes_on_until_it_is_told_to_stop) {
    publish(1, 5);
    for (const int signal : {SIGTERM, SIGINT}) {
        test::process going{{IDEM_RELAY, "--consumer", name, "--batch", "2"}, file};
        for (int i = 0; i < 1000 && left() != "0"; ++i) std::this_thread::sleep_for(10ms);
        std::this_thread::sleep_for(300ms); // it waits for more
        EXPECT_TRUE(going.runs());
        EXPECT_EQ(going.end(signal), 0);
        EXPECT_EQ(each(shell("cat " + file).out, "payload"), "1 2 3 4 5");
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
