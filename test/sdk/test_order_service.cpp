// The order service over HTTP, on a PostgreSQL server of the test's own: what it answers to which request, and that
// whatever dies on the way, each order that was accepted is there once.
#include "comes_true.hpp"
#include "http.hpp"
#include "process.hpp"
#include "server.hpp"
#include "support.hpp"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <regex>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
using test::http_answer;
using test::http_client;

const std::string order = R"({"customer": "12345", "country": "United Kingdom", "placed_at": "2010-12-01T08:26:00", )"
                          R"("lines": [{"sku": "85123A", "description": "HEART \"T-LIGHT\" é", "quantity": 6, )"
                          R"("unit_pence": 255}, {"sku": "71053", "description": "LANTERN", "quantity": 2, )"
                          R"("unit_pence": 339}]})"; // 2208

using headers = std::vector<std::string>;
headers with_key(const std::string& key, headers more = {}) {
    more.insert(more.begin(), {"Authorization: Bearer secret of acme", "Idempotency-Key: " + key});
    return more;
}
headers authorized(headers more = {}) {
    more.insert(more.begin(), "Authorization: Bearer secret of acme");
    return more;
}

std::string text_of(const std::string& method, const std::string& path, const headers& all = {},
                    const std::string& body = "") {
    std::string text = method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n";
    for (const std::string& each : all) text += each + "\r\n";
    if (!body.empty() || method == "POST") text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    return text + "\r\n" + body;
}

// What stays the same from the first answer to the last replay.
std::string stored_part(const http_answer& of) {
    std::string text = std::to_string(of.status) + "\n";
    for (const auto& [name, value] : of.headers)
        if (name != "date" && name != "traceparent" && name != "idempotency-replayed" && name != "connection")
            text += name + ": " + value + "\n";
    return text + of.body;
}

std::string type_of(const http_answer& of) {
    std::smatch found;
    const std::regex type{R"re(^\{"type": "urn:idem:problem:([a-z-]+)")re"};
    if (of.header("content-type") != "application/problem+json" || !std::regex_search(of.body, found, type)) return "";
    return found[1];
}

std::string contents(const std::string& file) {
    std::stringstream text;
    text << std::ifstream{file}.rdbuf();
    return text.str();
}

template <typename Condition>
bool soon(Condition&& condition) {
    return test::comes_true(condition, 20s);
}

// The shop's database, which all tests have in common.
class shop {
public:
    shop() {
        test::session postgres{server.conninfo()};
        postgres.exec("CREATE DATABASE shop");
        postgres.exec("CREATE ROLE shop_service");
        run_psql("-c 'CREATE EXTENSION idem' -v service=shop_service -f '" IDEM_SOURCE_DIR
                 "/sdk/examples/order_service/orders.sql'");
        test::session{conninfo()}.exec(
            "INSERT INTO clients VALUES (sha256('secret of acme'), 'acme'), "
            "(sha256('another secret of acme'), 'acme'), (sha256('secret of evil'), 'evil')");
    }

    [[nodiscard]] std::string conninfo() const { return server.conninfo() + " dbname=shop"; }
    // With no rights but those that it was given.
    [[nodiscard]] std::string of_service() const { return conninfo() + " options='-c role=shop_service'"; }

    test::server server{"order-service"};

private:
    void run_psql(const std::string& arguments) const {
        std::string target = conninfo();
        for (std::size_t at = 0; (at = target.find('\'', at)) != std::string::npos; at += 4)
            target.replace(at, 1, "'\\''");
        std::erase(target, '\n');
        const std::string line = "psql -qX -v ON_ERROR_STOP=1 -d '" + target + "' " + arguments + " >/dev/null";
        if (std::system(line.c_str()) != 0) throw std::runtime_error{line};
    }
};

// A service that runs.
class running {
public:
    explicit running(const std::string& conninfo, std::vector<std::string> more = {}, bool await = true) {
        std::string name = std::filesystem::temp_directory_path() / "idem-order-service-XXXXXX";
        log_ = mkdtemp(name.data());
        std::vector<std::string> command{
            IDEM_ORDER_SERVICE, "--listen",  "127.0.0.1:" + std::to_string(port_), "--dsn", conninfo,
            "--access-log",     access_log()};
        command.insert(command.end(), more.begin(), more.end());
        process_ = std::make_unique<test::process>(command, messages());
        if (await && !soon([this] { return ask("GET", "/healthz").status == 200; }))
            throw std::runtime_error{"order-service did not start: " + contents(messages())};
    }
    ~running() {
        process_.reset();
        std::filesystem::remove_all(log_);
    }
    running(const running&) = delete;
    running& operator=(const running&) = delete;

    http_answer ask(const std::string& method, const std::string& path, const headers& all = {},
                    const std::string& body = "") const {
        return raw(text_of(method, path, all, body), method != "HEAD");
    }
    http_answer raw(const std::string& text, bool has_body = true) const {
        http_client client{port_};
        client.send(text);
        return client.receive(has_body);
    }
    http_answer place(const std::string& key, const std::string& body = order) const {
        return ask("POST", "/orders", with_key(key), body);
    }

    [[nodiscard]] int port() const { return port_; }
    [[nodiscard]] std::string messages() const { return log_ + "/messages"; }
    [[nodiscard]] std::string access_log() const { return log_ + "/access"; }
    int end(int signal) { return process_->end(signal); }
    void signal(int signal) const { process_->send(signal); }

    double metric(const std::string& name) const {
        const std::string all = ask("GET", "/metrics").body;
        const std::size_t at = all.find("\n" + name + " ");
        return at == std::string::npos ? 0 : std::stod(all.substr(at + name.size() + 2));
    }

private:
    int port_ = test::free_port();
    std::string log_{};
    std::unique_ptr<test::process> process_{};
};

class order_service : public testing::Test {
protected:
    static void SetUpTestSuite() { shop_ = std::make_unique<shop>(); }
    static void TearDownTestSuite() { shop_.reset(); }

    static std::string rows(const std::string& key, const std::string& client = "acme") {
        return test::session{shop_->conninfo()}.value("SELECT count(*) FROM orders WHERE client = '" + client +
                                                      "' AND id = '" + key + "'");
    }

    static std::unique_ptr<shop> shop_;
    const std::string fresh = test::fresh_key("order");
};
std::unique_ptr<shop> order_service::shop_{};

// One service for the tests of the class.
class answers : public order_service {
protected:
    static void SetUpTestSuite() {
        order_service::SetUpTestSuite();
        service_ = std::make_unique<running>(shop_->of_service());
    }
    static void TearDownTestSuite() {
        service_.reset();
        order_service::TearDownTestSuite();
    }

    static http_answer step(const std::string& what, const std::string& id, const std::string& key,
                            const std::string& body = "") {
        return service_->ask("POST", "/orders/" + id + "/" + what, key.empty() ? authorized() : with_key(key), body);
    }

    static std::unique_ptr<running> service_;
};
std::unique_ptr<running> answers::service_{};

} // namespace

// ---- what it answers ----

TEST_F(answers, an_order_is_placed_once) {
    const http_answer first = service_->place(fresh);
    EXPECT_EQ(first.status, 201);
    EXPECT_EQ(first.body, R"({"id": ")" + fresh + R"(", "state": "created", "total_pence": 2208})");
    EXPECT_EQ(first.header("location"), "/orders/" + fresh);
    EXPECT_EQ(first.header("content-type"), "application/json");
    EXPECT_EQ(first.header("idempotency-replayed"), "");
    EXPECT_NE(first.header("date"), "");

    const http_answer again = service_->place(fresh);
    EXPECT_EQ(stored_part(again), stored_part(first));
    EXPECT_EQ(again.header("idempotency-replayed"), "true");
    EXPECT_EQ(rows(fresh), "1");

    const http_answer found = service_->ask("GET", first.header("location"), authorized());
    EXPECT_EQ(found.status, 200);
    EXPECT_NE(found.body.find(R"("lines": [{"sku": "85123A", "quantity": 6, "unit_pence": 255, )"
                              R"("description": "HEART \"T-LIGHT\" é"})"),
              std::string::npos)
        << found.body;
    EXPECT_EQ(service_->ask("GET", "/orders/" + fresh + "x", authorized()).status, 404);
}

TEST_F(answers, another_request_under_the_key_is_refused) {
    ASSERT_EQ(service_->place(fresh).status, 201);
    std::string other = order;
    other.replace(other.find("255"), 3, "256");
    const http_answer refused = service_->place(fresh, other);
    EXPECT_EQ(refused.status, 422);
    EXPECT_EQ(type_of(refused), "key-reused");
    EXPECT_EQ(type_of(step("pay", fresh, fresh, R"({"pence": 2208})")), "key-reused"); // another path

    std::string same = order; // the same JSON
    for (std::size_t at = 0; (at = same.find(", ", at)) != std::string::npos; ++at) same.erase(at + 1, 1);
    EXPECT_EQ(service_->place(fresh, same).header("idempotency-replayed"), "true");
}

TEST_F(answers, a_key_is_a_string_with_or_without_quotes) {
    ASSERT_EQ(service_->place(fresh).status, 201);
    EXPECT_EQ(service_->place('"' + fresh + '"').header("idempotency-replayed"), "true");
    const http_answer odd = service_->place(R"("a \"b\" /\\ ?%)" + fresh + '"');
    EXPECT_EQ(odd.status, 201);
    EXPECT_EQ(odd.header("location"), "/orders/a%20%22b%22%20%2F%5C%20%3F%25" + fresh);
    EXPECT_EQ(service_->ask("GET", odd.header("location"), authorized()).status, 200);
    EXPECT_EQ(rows(R"(a "b" /\ ?%)" + fresh), "1");
    EXPECT_EQ(service_->place(std::string(255 - fresh.size(), 'k') + fresh).status, 201);

    for (const std::string& key : {""s, "\"\""s, std::string(256, 'k'), "a b"s, "a,b"s, "\"a"s, "a\""s, "\"a\"b"s,
                                   R"("a\b")"s, "\"a\\"s, "\xc3\xa9"s, "\"\t\""s, "a;b=1"s, "."s, ".."s}) {
        const http_answer refused = service_->place(key);
        EXPECT_EQ(refused.status, 400) << key;
        EXPECT_EQ(type_of(refused), key.starts_with(".") ? "bad-id" : "key-missing") << key;
    }
    EXPECT_EQ(type_of(service_->ask("POST", "/orders", authorized(), order)), "key-missing");
    EXPECT_EQ(type_of(service_->ask("POST", "/orders", with_key("a", {"idempotency-key: a"}), order)), "key-missing");
    EXPECT_EQ(type_of(step("pay", fresh, "", R"({"pence": 2208})")), "key-missing");
    EXPECT_EQ(type_of(step("complete", fresh, "")), "key-missing");
}

// The server would refuse each of them, and all that are in the same statement.
TEST_F(answers, what_is_not_json_is_refused) {
    const std::vector<std::string> bad{
        "{",
        "[1,]",
        R"({"a": 1} x)",
        "{a: 1}",
        "\xEF\xBB\xBF{}",
        "\"\\u0000\"",
        R"({"\u0000": 1})",
        R"("\ud800")",
        "\"\xff\"",
        "\"\xc0\xaf\"",
        "\"a\nb\"",
        "1e99999",
        "1e-99999",
        "0e-99999",
        "0." + std::string(20'000, '1'),
        std::string(2'000, '1'),
        std::string(20'000, '[') + std::string(20'000, ']'),
        "NaN",
        "'a'",
        "\0"s,
        " ",
    };
    for (const std::string& each : bad) {
        const http_answer refused = service_->place(fresh, each);
        EXPECT_EQ(refused.status, 400) << each.substr(0, 40);
        EXPECT_EQ(type_of(refused), "not-json") << each.substr(0, 40);
    }
    EXPECT_EQ(step("cancel", fresh, "", "{").status, 400);
    EXPECT_EQ(service_->place(fresh).status, 201); // nothing was done under the key
}

// JSON, but no order.
TEST_F(answers, what_is_no_order_is_refused) {
    for (const std::string body :
         {"", "{}", "[]", "3", "null", R"({"lines": 3})", R"({"lines": []})",
          R"({"country": "UK", "placed_at": "2010-12-01", "lines": [{"quantity": 1.5, "unit_pence": 1}]})",
          R"({"country": "UK", "placed_at": "yesteryear", "lines": [{"quantity": 1, "unit_pence": 1}]})",
          R"({"country": "UK", "placed_at": "2010-12-01", "lines": [{"quantity": 9e18, "unit_pence": 9e18}]})"}) {
        const http_answer refused = service_->place(fresh, body);
        EXPECT_EQ(refused.status, 422) << body << refused.body;
        EXPECT_EQ(type_of(refused), "invalid-request") << body;
    }
    EXPECT_EQ(rows(fresh), "0");
    EXPECT_EQ(service_->place(fresh).status, 201);
}

TEST_F(answers, only_clients_are_served) {
    for (const headers& all : {headers{},
                               {"Authorization: Bearer nonsense"},
                               {"Authorization: Basic c2VjcmV0IG9mIGFjbWU="},
                               {"Authorization: secret of acme"},
                               {"Authorization: Bearer "},
                               {"Authorization: Bearer"},
                               authorized({"Authorization: Bearer secret of evil"})}) {
        headers sent = all;
        sent.push_back("Idempotency-Key: " + fresh);
        const http_answer refused = service_->ask("POST", "/orders", sent, order);
        EXPECT_EQ(refused.status, 401);
        EXPECT_EQ(type_of(refused), "unauthorized");
        EXPECT_EQ(refused.header("www-authenticate"), "Bearer");
        EXPECT_EQ(service_->ask("GET", "/orders/" + fresh, all).status, 401);
    }
    EXPECT_EQ(rows(fresh), "0");
    // the scheme's name has no case
    EXPECT_EQ(service_->ask("GET", "/orders/" + fresh, {"authorization: bearer another secret of acme"}).status, 404);
}

TEST_F(answers, clients_do_not_share_keys) {
    const auto as = [&](const std::string& secret, const std::string& method, const std::string& path,
                        const std::string& body = "") {
        return service_->ask(method, path, {"Authorization: Bearer " + secret, "Idempotency-Key: " + fresh}, body);
    };
    ASSERT_EQ(as("secret of acme", "POST", "/orders", order).status, 201);
    EXPECT_EQ(as("secret of evil", "GET", "/orders/" + fresh).status, 404);
    EXPECT_EQ(as("secret of evil", "POST", "/orders/" + fresh + "/pay", R"({"pence": 2208})").status, 404);
    const http_answer theirs = as("secret of evil", "POST", "/orders", order);
    EXPECT_EQ(theirs.status, 201);
    EXPECT_EQ(theirs.header("idempotency-replayed"), "");
    EXPECT_EQ(rows(fresh), "1");
    EXPECT_EQ(rows(fresh, "evil"), "1");

    EXPECT_EQ(as("another secret of acme", "POST", "/orders", order).header("idempotency-replayed"), "true");
    EXPECT_EQ(as("another secret of acme", "GET", "/orders/" + fresh).status, 200);
}

TEST_F(answers, clients_are_read_again) {
    const headers late{"Authorization: Bearer a late secret"};
    EXPECT_EQ(service_->ask("GET", "/orders/x", late).status, 401);
    test::session direct{shop_->conninfo()};
    direct.exec("INSERT INTO clients VALUES (sha256('a late secret'), 'late')");
    service_->signal(SIGHUP);
    EXPECT_TRUE(soon([&] { return service_->ask("GET", "/orders/x", late).status == 404; }));
    direct.exec("DELETE FROM clients WHERE name = 'late'");
    service_->signal(SIGHUP);
    EXPECT_TRUE(soon([&] { return service_->ask("GET", "/orders/x", late).status == 401; }));
}

TEST_F(answers, other_paths_and_methods) {
    for (const std::string path : {"/", "/order", "/orders/", "/orders//pay", "/orders/x/refund", "/orders/x/pay/",
                                   "/orders/x/pay/twice", "*", "/healthz/x"}) {
        const http_answer none = service_->ask("GET", path, authorized());
        EXPECT_EQ(none.status, 404) << path;
        EXPECT_EQ(type_of(none), "no-such-resource") << path;
    }
    const std::vector<std::array<std::string, 3>> methods{
        {"GET", "/orders", "POST"},         {"PUT", "/orders", "POST"},          {"DELETE", "/orders/x", "GET, HEAD"},
        {"POST", "/orders/x", "GET, HEAD"}, {"GET", "/orders/x/pay", "POST"},    {"FROB", "/orders/x/cancel", "POST"},
        {"POST", "/healthz", "GET, HEAD"},  {"OPTIONS", "/metrics", "GET, HEAD"}};
    for (const auto& [method, path, allowed] : methods) {
        const http_answer refused = service_->ask(method, path, authorized());
        EXPECT_EQ(refused.status, 405) << method << path;
        EXPECT_EQ(refused.header("allow"), allowed) << method << path;
    }
    for (const std::string id : {"%", "%4", "%zz", "%00", "%C3%A9", "a%0Ab"})
        EXPECT_EQ(type_of(service_->ask("GET", "/orders/" + id, authorized())), "bad-id") << id;
    EXPECT_EQ(service_->ask("GET", "/orders/" + std::string(256, 'x'), authorized()).status, 400);
    EXPECT_EQ(service_->ask("GET", "/orders/" + std::string(255, 'x'), authorized()).status, 404);

    http_client client{service_->port()};
    client.send(text_of("HEAD", "/healthz") + text_of("GET", "/healthz?verbose"));
    const http_answer head = client.receive(false), body = client.receive();
    EXPECT_EQ(head.status, 200);
    EXPECT_EQ(head.header("content-length"), body.header("content-length"));
    EXPECT_EQ(body.body, R"({"status":"ok"})");
}

// ---- what becomes of an order ----

TEST_F(answers, an_order_is_paid_and_completed) {
    ASSERT_EQ(service_->place(fresh).status, 201);
    const http_answer wrong = step("pay", fresh, fresh + "-pay", R"({"pence": 2207})");
    EXPECT_EQ(wrong.status, 422);
    EXPECT_EQ(type_of(wrong), "amount-mismatch");
    EXPECT_EQ(step("pay", fresh, fresh + "-pay2", R"({"pounds": 22.08})").status, 422);
    const http_answer early = step("complete", fresh, fresh + "-complete");
    EXPECT_EQ(early.status, 409);
    EXPECT_EQ(type_of(early), "invalid-transition");
    EXPECT_NE(early.body.find(R"("allowed": ["cancelled", "paid"])"), std::string::npos) << early.body;

    // what was refused may be asked for again under the same key
    const http_answer paid = step("pay", fresh, fresh + "-pay3", R"({"pence": 2208})");
    EXPECT_EQ(paid.status, 200);
    EXPECT_EQ(paid.body, R"({"id": ")" + fresh + R"(", "state": "paid"})");
    EXPECT_EQ(stored_part(step("pay", fresh, fresh + "-pay3", R"({"pence": 2208})")), stored_part(paid));
    EXPECT_EQ(step("pay", fresh, fresh + "-pay4", R"({"pence": 2208})").status, 409);
    const http_answer completed = step("complete", fresh, fresh + "-complete");
    EXPECT_EQ(completed.status, 200);
    EXPECT_EQ(completed.body, R"({"id": ")" + fresh + R"(", "state": "completed"})");
    EXPECT_EQ(step("complete", fresh, fresh + "-complete").header("idempotency-replayed"), "true");

    const http_answer late = step("cancel", fresh, "");
    EXPECT_EQ(late.status, 409);
    EXPECT_NE(late.body.find(R"("allowed": [])"), std::string::npos) << late.body;

    EXPECT_EQ(step("pay", fresh + "-never", fresh + "-pay5", R"({"pence": 2208})").status, 404);
    EXPECT_EQ(type_of(step("complete", fresh + "-never", fresh + "-complete2")), "no-such-order");
    EXPECT_EQ(test::session{shop_->conninfo()}.value(
                  "SELECT string_agg(type || ' ' || (payload->>'pence'), ', ' ORDER BY id) "
                  "FROM idem_outbox WHERE key = 'acme/" +
                  fresh + "'"),
              "booked 2208, paid 0, completed 0");
}

TEST_F(answers, an_order_is_cancelled) {
    ASSERT_EQ(service_->place(fresh).status, 201);
    const http_answer cancelled = step("cancel", fresh, "", R"({"reason": "second thoughts"})");
    EXPECT_EQ(cancelled.status, 200);
    EXPECT_EQ(cancelled.body, R"({"id": ")" + fresh + R"(", "state": "cancelled"})");
    EXPECT_EQ(stored_part(step("cancel", fresh, "")), stored_part(cancelled));
    EXPECT_EQ(service_->place(fresh).status, 410);
    EXPECT_EQ(type_of(service_->place(fresh)), "cancelled");
    EXPECT_EQ(step("pay", fresh, fresh + "-pay", R"({"pence": 2208})").status, 409);
    test::session direct{shop_->conninfo()};
    EXPECT_EQ(direct.value("SELECT response->>'reason' FROM idem_keys WHERE scope = 'acme' AND key = '" + fresh + "'"),
              "second thoughts");
    EXPECT_EQ(direct.value("SELECT sum((payload->>'pence')::bigint) FROM idem_outbox WHERE key = 'acme/" + fresh + "'"),
              "0");

    // before it comes: it never will
    const std::string never = fresh + "%20never";
    const http_answer tombstone = step("cancel", never, "");
    EXPECT_EQ(tombstone.status, 202);
    EXPECT_EQ(tombstone.body, R"({"id": ")" + fresh + R"( never", "status": "tombstoned"})");
    EXPECT_EQ(service_->place('"' + fresh + " never\"").status, 410);
    EXPECT_EQ(rows(fresh + " never"), "0");

    // not once it is paid
    const std::string paid = fresh + "-paid";
    ASSERT_EQ(service_->place(paid).status, 201);
    ASSERT_EQ(step("pay", paid, paid + "-pay", R"({"pence": 2208})").status, 200);
    const http_answer refused = step("cancel", paid, "");
    EXPECT_EQ(refused.status, 409);
    EXPECT_EQ(type_of(refused), "invalid-transition");
    EXPECT_NE(refused.body.find(R"("allowed": ["completed"])"), std::string::npos) << refused.body;
}

// Another connection has the key.
TEST_F(answers, a_request_in_flight_is_told_of) {
    test::session other{shop_->conninfo()};
    other.exec("BEGIN");
    other.exec("SELECT idem_claim('" + fresh + "', scope => 'acme')");
    for (const http_answer& told : {service_->place(fresh), step("cancel", fresh, "")}) {
        EXPECT_EQ(told.status, 409);
        EXPECT_EQ(type_of(told), "in-progress");
        EXPECT_EQ(told.header("retry-after"), "1");
    }
    other.exec("ROLLBACK");
    EXPECT_EQ(service_->place(fresh).status, 201);
}

// The order outlives its key.
TEST_F(answers, a_forgotten_key_does_not_double_the_order) {
    ASSERT_EQ(service_->place(fresh).status, 201);
    EXPECT_EQ(test::session{shop_->conninfo()}.value("SELECT idem_confirm('" + fresh +
                                                     "', 'acme'); SELECT idem_evict('" + fresh + "', 'acme')"),
              "t");
    const http_answer refused = service_->place(fresh);
    EXPECT_EQ(refused.status, 409);
    EXPECT_EQ(type_of(refused), "order-exists");
    EXPECT_EQ(rows(fresh), "1");
}

// One that makes the whole transaction fail does so alone.
TEST_F(answers, a_request_that_breaks_its_batch_breaks_alone) {
    test::session direct{shop_->conninfo()};
    direct.exec(
        "CREATE FUNCTION explode() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.country = 'Atlantis' THEN "
        "RAISE EXCEPTION SQLSTATE 'XX001'; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER explode BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION explode()");
    std::string breaking = order;
    breaking.replace(breaking.find("United Kingdom"), 14, "Atlantis");
    direct.exec("BEGIN; LOCK TABLE orders"); // until they are together
    std::vector<std::unique_ptr<http_client>> clients;
    for (int i = 0; i < 40; ++i) {
        clients.push_back(std::make_unique<http_client>(service_->port()));
        clients.back()->send(
            text_of("POST", "/orders", with_key(fresh + std::to_string(i)), i % 7 == 3 ? breaking : order));
        if (i == 1) std::this_thread::sleep_for(300ms); // the threads have these
    }
    std::this_thread::sleep_for(300ms);
    direct.exec("COMMIT");
    for (int i = 0; i < 40; ++i) {
        const http_answer answer = clients[static_cast<std::size_t>(i)]->receive();
        EXPECT_EQ(answer.status, i % 7 == 3 ? 500 : 201) << i;
        EXPECT_EQ(answer.body.find("XX001"), std::string::npos); // that is for the log
    }
    EXPECT_NE(contents(service_->messages()).find("level=error"), std::string::npos);
    direct.exec("DROP FUNCTION explode() CASCADE");
    for (int i = 0; i < 40; ++i) EXPECT_EQ(service_->place(fresh + std::to_string(i)).status, 201) << i;
}

// ---- HTTP ----

TEST_F(answers, what_is_sent_ahead_is_answered_in_order) {
    http_client client{service_->port()};
    std::string all;
    for (int i = 0; i < 50; ++i) {
        all += text_of("POST", "/orders", with_key(fresh + std::to_string(i)), order);
        if (i % 3 == 0) all += text_of("GET", "/healthz");
        if (i % 5 == 0) all += text_of("POST", "/orders", authorized(), order);
    }
    client.send(all);
    for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(client.receive().header("location"), "/orders/" + fresh + std::to_string(i));
        if (i % 3 == 0) {
            EXPECT_EQ(client.receive().body, R"({"status":"ok"})");
        }
        if (i % 5 == 0) {
            EXPECT_EQ(client.receive().status, 400);
        }
    }
}

// However the network cuts it.
TEST_F(answers, a_request_may_come_in_pieces) {
    http_client client{service_->port()};
    for (const char c : text_of("POST", "/orders", with_key(fresh), order)) client.send({&c, 1});
    EXPECT_EQ(client.receive().status, 201);
    std::string chunked =
        "POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret of acme\r\nIdempotency-Key: " + fresh +
        "\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (std::size_t at = 0; at < order.size(); at += 100) {
        const std::string part = order.substr(at, 100);
        std::stringstream size;
        size << std::hex << part.size();
        chunked += size.str() + "\r\n" + part + "\r\n";
    }
    client.send(chunked + "0\r\n\r\n");
    EXPECT_EQ(client.receive().header("idempotency-replayed"), "true");
    client.send(text_of("POST", "/orders", with_key(fresh, {"Expect: 100-continue"})));
    EXPECT_EQ(client.receive().status, 422); // it had no body to wait for

    http_client patient{service_->port()};
    std::string head = text_of("POST", "/orders", with_key(fresh, {"Expect: 100-continue"}), order);
    head.resize(head.size() - order.size());
    patient.send(head);
    EXPECT_EQ(patient.receive().status, 100);
    patient.send(order);
    EXPECT_EQ(patient.receive().status, 201);
}

TEST_F(answers, what_is_too_large_is_refused) {
    const auto refused = [&](const std::string& text, int status) {
        http_client client{service_->port()};
        client.send(text);
        const http_answer answer = client.receive();
        EXPECT_EQ(answer.status, status);
        EXPECT_EQ(answer.header("connection"), "close");
        EXPECT_NE(type_of(answer), "");
        EXPECT_TRUE(client.ended());
    };
    refused(text_of("POST", "/orders", with_key(fresh), '"' + std::string(262'200, 'x') + '"'), 413);
    refused("POST /orders HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413);
    refused("POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n40100\r\n" + std::string(0x40100, 'x') +
                "\r\n0\r\n\r\n",
            413);
    refused(text_of("GET", "/healthz", {"X-Bomb: " + std::string(9'000, 'x')}), 431);
    refused(text_of("GET", "/" + std::string(9'000, 'x')), 431);
    headers many(2'000, "X: y");
    refused(text_of("GET", "/healthz", many), 431);
    EXPECT_EQ(
        service_->place(fresh, order.substr(0, order.size() - 1) + ", \"note\": \"" + std::string(64'000, 'x') + "\"}")
            .status,
        201);
}

TEST_F(answers, what_is_no_http_is_refused) {
    for (const std::string text :
         {"nonsense\r\n\r\n", "GET /healthz\r\n\r\n", "GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
          "\x16\x03\x01\x02\r\n\r\n", "GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
          "GET /healthz HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
          "POST /orders HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
          "POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
        http_client client{service_->port()};
        client.send(text);
        const http_answer answer = client.receive();
        EXPECT_EQ(answer.status, 400) << text;
        EXPECT_TRUE(client.ended()) << text;
    }
    EXPECT_EQ(service_->raw("GET /healthz HTTP/2.0\r\n\r\n").status, 505);
}

TEST_F(answers, connections_are_kept_as_the_client_likes) {
    http_client kept{service_->port()};
    for (int i = 0; i < 3; ++i) {
        kept.send(text_of("GET", "/healthz"));
        EXPECT_EQ(kept.receive().header("connection"), "");
    }
    kept.send(text_of("GET", "/healthz", {"Connection: close"}));
    EXPECT_EQ(kept.receive().header("connection"), "close");
    EXPECT_TRUE(kept.ended());

    http_client old{service_->port()};
    old.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_EQ(old.receive().header("connection"), "keep-alive");
    old.send("GET /healthz HTTP/1.0\r\n\r\n");
    EXPECT_EQ(old.receive().header("connection"), "close");
    EXPECT_TRUE(old.ended());
}

// Three of them, side by side: what takes longer than ten seconds is ended.
TEST_F(answers, slow_clients_are_not_waited_for) {
    http_client in_header{service_->port()}, in_body{service_->port()}, deaf{service_->port()};
    in_header.send("GET /healthz HTTP/1.1\r\n");
    in_body.send(text_of("POST", "/orders", with_key(fresh), order).substr(0, 300));
    std::string flood; // whose answers it does not read
    for (int i = 0; i < 20'000; ++i) flood += text_of("GET", "/metrics");
    std::thread flooding{[&] { deaf.send(flood); }};
    for (int i = 0; i < 40; ++i) { // a byte now and then does not help
        std::this_thread::sleep_for(200ms);
        in_header.send("x");
    }
    for (http_client* each : {&in_header, &in_body}) {
        const http_answer answer = each->receive();
        EXPECT_EQ(answer.status, 408);
        EXPECT_TRUE(each->ended());
    }
    flooding.join(); // it was cut off
    EXPECT_EQ(rows(fresh), "0");
}

// ---- who watches ----

TEST_F(answers, a_trace_goes_from_the_request_into_the_outbox) {
    const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736", parent = "00-" + trace + "-00f067aa0ba902b7-01";
    const auto sent = [&](const std::string& key, const std::string& given) {
        return service_->ask("POST", "/orders", with_key(key, {"traceparent: " + given}), order).header("traceparent");
    };
    test::session direct{shop_->conninfo()};
    const auto published = [&](const std::string& key, const std::string& type) {
        return direct.value("SELECT headers->>'traceparent' FROM idem_outbox WHERE key = 'acme/" + key +
                            "' AND type = '" + type + "'");
    };
    EXPECT_EQ(sent(fresh, parent), parent);
    EXPECT_EQ(published(fresh, "booked"), parent);
    EXPECT_EQ(sent(fresh, "00-" + std::string(32, 'a') + "-00f067aa0ba902b7-01"),
              "00-" + std::string(32, 'a') + "-00f067aa0ba902b7-01");
    EXPECT_EQ(service_->place(fresh).header("idempotency-replayed"), "true"); // no part of the request
    EXPECT_EQ(published(fresh, "booked"), parent);
    EXPECT_EQ(sent(fresh, "cc" + parent.substr(2) + "-what-comes-later"), parent);

    const std::string key = fresh + "-2";
    service_->ask("POST", "/orders", with_key(key, {"traceparent: " + parent}), order);
    service_->ask("POST", "/orders/" + key + "/cancel", authorized({"traceparent: " + parent}));
    EXPECT_EQ(published(key, "cancelled"), parent);

    const std::regex made{"00-[0-9a-f]{32}-[0-9a-f]{16}-01"};
    for (const std::string& bad :
         {""s, "nonsense"s, "ff" + parent.substr(2), parent + "x", "00-" + std::string(32, '0') + parent.substr(35),
          parent.substr(0, 36) + std::string(16, '0') + "-01", "00-" + std::string(32, 'A') + parent.substr(35)}) {
        const std::string answered = sent(fresh, bad);
        EXPECT_TRUE(std::regex_match(answered, made)) << answered;
        EXPECT_NE(answered, parent);
    }
    EXPECT_TRUE(soon([&] {
        return std::regex_search(contents(service_->access_log()),
                                 std::regex{"time=20[-0-9]+T[:0-9]+\\.[0-9]{6}Z method=POST path=/orders status=201 "
                                            "ms=[0-9]+\\.[0-9]{3} client=acme trace=" +
                                            trace + " replayed=false\n"});
    }));
    EXPECT_TRUE(soon([&] { return contents(service_->access_log()).find("replayed=true") != std::string::npos; }));
}

TEST_F(answers, it_counts) {
    const std::string placed = R"(order_service_requests_total{route="orders",status="201"})";
    const double before = service_->metric(placed), replays = service_->metric("order_service_replays_total");
    service_->place(fresh);
    service_->place(fresh);
    EXPECT_EQ(service_->metric(placed), before + 2);
    EXPECT_EQ(service_->metric("order_service_replays_total"), replays + 1);
    EXPECT_GT(service_->metric("order_service_request_seconds_count"), 0);
    EXPECT_GT(service_->metric("order_service_batch_calls_count"), 0);
    EXPECT_TRUE(soon([&] { return service_->metric("order_service_database_connected") == 1; }));
    EXPECT_TRUE(soon([&] { return service_->metric("order_service_connections") >= 1; }));
}

// ---- what is kept in memory ----

TEST_F(order_service, what_nothing_changes_any_more_is_kept) {
    running service{shop_->of_service()};
    const auto hits = [&] { return service.metric("order_service_cache_hits_total"); };
    const http_answer first = service.place(fresh);
    service.place(fresh);
    EXPECT_EQ(hits(), 0); // it could still be cancelled
    const std::string pay = "/orders/" + fresh + "/pay", complete = "/orders/" + fresh + "/complete";
    const http_answer paid = service.ask("POST", pay, with_key(fresh + "-pay"), R"({"pence": 2208})");
    const http_answer again = service.ask("POST", pay, with_key(fresh + "-pay"), R"({"pence": 2208})");
    EXPECT_EQ(hits(), 1);
    EXPECT_EQ(stored_part(again), stored_part(paid));
    EXPECT_EQ(again.header("idempotency-replayed"), "true");
    EXPECT_EQ(type_of(service.ask("POST", pay, with_key(fresh + "-pay"), R"({"pence": 1})")), "key-reused");
    ASSERT_EQ(service.ask("POST", complete, with_key(fresh + "-complete")).status, 200);
    EXPECT_EQ(service.place(fresh).header("idempotency-replayed"), "true"); // confirmed: from now on
    EXPECT_EQ(hits(), 1);
    EXPECT_EQ(stored_part(service.place(fresh)), stored_part(first));
    EXPECT_EQ(hits(), 2);
    EXPECT_EQ(service
                  .ask("POST", pay, {"Authorization: Bearer secret of evil", "Idempotency-Key: " + fresh + "-pay"},
                       R"({"pence": 2208})")
                  .status,
              404);

    // with or without a database
    shop_->server.command("stop");
    EXPECT_EQ(stored_part(service.place(fresh)), stored_part(first));
    shop_->server.command("start");
}

TEST_F(order_service, memory_is_bounded) {
    running service{shop_->of_service(), {"--cache", "1"}};
    ASSERT_EQ(service.place(fresh).status, 201);
    std::string all;
    for (int i = 0; i < 5'000; ++i) all += text_of("POST", "/orders", with_key(fresh + std::to_string(i)), order);
    http_client client{service.port()};
    std::thread sending{[&] { client.send(all); }};
    for (int i = 0; i < 5'000; ++i) ASSERT_EQ(client.receive().status, 201) << i;
    sending.join();
    test::session{shop_->conninfo()}.exec("SELECT idem_confirm(id, client) FROM orders WHERE id ~ '^" + fresh + "'");
    all.clear();
    for (int i = 0; i < 5'000; ++i) all += text_of("POST", "/orders", with_key(fresh + std::to_string(i)), order);
    std::thread again{[&] { client.send(all); }};
    for (int i = 0; i < 5'000; ++i) ASSERT_EQ(client.receive().header("idempotency-replayed"), "true") << i;
    again.join();
    EXPECT_TRUE(soon([&] { return service.metric("order_service_cache_bytes") > 900'000; }));
    EXPECT_LE(service.metric("order_service_cache_bytes"), 1'048'576);
    const double hits = service.metric("order_service_cache_hits_total");
    service.place(fresh + "4999"); // the last one is there, the first is not
    EXPECT_EQ(service.metric("order_service_cache_hits_total"), hits + 1);
    service.place(fresh + "0");
    EXPECT_EQ(service.metric("order_service_cache_hits_total"), hits + 1);
}

// ---- limits ----

TEST_F(order_service, too_many_are_told_to_come_again) {
    running service{shop_->of_service(), {"--queue", "5", "--connections", "30", "--threads", "1"}};
    test::session direct{shop_->conninfo()};
    direct.exec("BEGIN; LOCK TABLE orders");
    std::vector<std::unique_ptr<http_client>> clients;
    for (int i = 0; i < 20; ++i) {
        clients.push_back(std::make_unique<http_client>(service.port()));
        clients.back()->send(text_of("POST", "/orders", with_key(fresh + std::to_string(i)), order));
        std::this_thread::sleep_for(20ms);
    }
    int refused = 0;
    for (std::size_t i = 6; i < 20; ++i) { // one is with the database, five wait
        const http_answer answer = clients[i]->receive();
        EXPECT_EQ(answer.status, 503);
        EXPECT_EQ(type_of(answer), "busy");
        EXPECT_GE(std::stoi(answer.header("retry-after")), 1);
        ++refused;
    }
    EXPECT_EQ(refused, 14);
    direct.exec("COMMIT");
    for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(clients[i]->receive().status, 201);

    for (int i = 0; i < 20; ++i) clients.push_back(std::make_unique<http_client>(service.port()));
    int beyond = 0;
    for (auto& each : clients) {
        each->send(text_of("GET", "/healthz"));
        const http_answer answer = each->receive();
        if (answer.status == 200) continue;
        EXPECT_EQ(type_of(answer), "too-many-connections");
        ++beyond;
    }
    EXPECT_EQ(beyond, 10);
    clients.clear();
    EXPECT_TRUE(soon([&] { return service.ask("GET", "/healthz").status == 200; }));
}

TEST_F(order_service, wrong_usage_is_told) {
    const auto status_of = [](const std::vector<std::string>& more) {
        std::vector<std::string> command{IDEM_ORDER_SERVICE};
        command.insert(command.end(), more.begin(), more.end());
        return test::process{command, "/dev/null"}.end(0);
    };
    EXPECT_EQ(status_of({"--help"}), 0);
    EXPECT_EQ(status_of({"--frob"}), 2);
    EXPECT_EQ(status_of({"--listen", "8081"}), 2);
    EXPECT_EQ(status_of({"--listen", "127.0.0.1:port"}), 1);
    EXPECT_EQ(status_of({"--threads", "0"}), 2);
    running service{shop_->of_service()};
    EXPECT_EQ(status_of({"--listen", "127.0.0.1:" + std::to_string(service.port())}), 1); // taken
}

// ---- whatever dies ----

namespace {

// Clients that place orders, each under a key of its own, and ask again until they are answered.
class load {
public:
    load(std::vector<int> ports, int clients, std::string prefix)
        : ports_{std::move(ports)},
          prefix_{std::move(prefix)} {
        for (int i = 0; i < clients; ++i) threads_.emplace_back([this, i] { run(i); });
    }
    ~load() { end(); }
    void end() {
        ended_ = true;
        for (std::thread& each : threads_)
            if (each.joinable()) each.join();
    }
    [[nodiscard]] int answered() const { return answered_; }
    [[nodiscard]] int cut() const { return cut_; }
    [[nodiscard]] std::string wrong() const {
        const std::lock_guard lock{turn_};
        return wrong_;
    }

    // Each order that a client was told of is there once, and no other.
    void check(const std::string& conninfo) {
        test::session direct{conninfo};
        EXPECT_EQ(wrong(), "");
        EXPECT_EQ(
            direct.value("SELECT count(*) || ' ' || count(DISTINCT id) FROM orders WHERE id LIKE '" + prefix_ + "%'"),
            std::to_string(answered_) + " " + std::to_string(answered_));
        EXPECT_EQ(direct.value("SELECT count(*) || ' ' || count(DISTINCT key) FROM idem_outbox WHERE key LIKE 'acme/" +
                               prefix_ + "%'"),
                  std::to_string(answered_) + " " + std::to_string(answered_));
        EXPECT_EQ(direct.value("SELECT count(*) FROM idem_verify()"), "0");
        EXPECT_GT(answered_, 0);
    }

private:
    void run(int number) {
        for (int i = 0; !ended_; ++i) {
            const std::string key = prefix_ + std::to_string(number) + "-" + std::to_string(i);
            const std::string first = until_answered(key);
            if (i % 3 == 0 && until_answered(key) != first) fail(key + ": another answer");
            ++answered_;
        }
    }

    std::string until_answered(const std::string& key) {
        const auto give_up = std::chrono::steady_clock::now() + 60s;
        for (std::size_t tries = 0; std::chrono::steady_clock::now() < give_up; ++tries) {
            http_client client{ports_[tries % ports_.size()]};
            client.send(text_of("POST", "/orders", with_key(key), order));
            const http_answer answer = client.receive();
            if (answer.status == 201) return stored_part(answer);
            if (answer.status == 0)
                ++cut_;
            else if (answer.status != 503 && answer.status != 409)
                fail(key + ": " + stored_part(answer));
            if ((answer.status == 503 || answer.status == 409) && answer.header("retry-after").empty())
                fail("no Retry-After");
            std::this_thread::sleep_for(50ms);
        }
        fail(key + ": never answered");
        return {};
    }

    void fail(const std::string& what) {
        const std::lock_guard lock{turn_};
        wrong_ = what;
    }

    std::vector<int> ports_;
    std::string prefix_;
    std::atomic<int> answered_{0}, cut_{0};
    std::atomic<bool> ended_{false};
    mutable std::mutex turn_{};
    std::string wrong_{};
    std::vector<std::thread> threads_{};
};

} // namespace

TEST_F(order_service, any_process_replays_it) {
    running one{shop_->of_service()};
    const http_answer first = one.place(fresh);
    ASSERT_EQ(first.status, 201);
    {
        running two{shop_->of_service()};
        EXPECT_EQ(stored_part(two.place(fresh)), stored_part(first));
        EXPECT_EQ(two.end(SIGTERM), 0);
    }
    EXPECT_EQ(one.end(SIGKILL), -1);
    running three{shop_->of_service()};
    EXPECT_EQ(stored_part(three.place(fresh)), stored_part(first));
    shop_->server.command("crash");
    EXPECT_TRUE(soon([&] { return three.ask("GET", "/healthz").status == 503; }));
    shop_->server.command("start");
    EXPECT_TRUE(soon([&] { return three.ask("GET", "/healthz").status == 200; }));
    const http_answer last = three.place(fresh);
    EXPECT_EQ(stored_part(last), stored_part(first));
    EXPECT_EQ(last.header("idempotency-replayed"), "true");
}

TEST_F(order_service, without_a_database_it_says_so_and_recovers) {
    const std::string conninfo = shop_->of_service();
    shop_->server.command("stop");
    running service{conninfo, {}, false};
    ASSERT_TRUE(soon([&] { return http_client{service.port()}.connected(); }));
    for (int i = 0; i < 2; ++i) {
        const http_answer health = service.ask("GET", "/healthz");
        EXPECT_EQ(health.status, 503);
        EXPECT_EQ(type_of(health), "unavailable");
        EXPECT_EQ(service.ask("GET", "/metrics").status, 200);
        EXPECT_TRUE(soon([&] { return service.metric("order_service_database_connected") == 0; }));
        if (i == 0) {
            EXPECT_EQ(service.place(fresh).status, 503); // nobody is known yet, so nobody is sent away for good
            shop_->server.command("start");
            EXPECT_TRUE(soon([&] { return service.ask("GET", "/healthz").status == 200; }));
            ASSERT_EQ(service.place(fresh).status, 201);
            shop_->server.command("stop");
            EXPECT_TRUE(soon([&] { return service.ask("GET", "/healthz").status == 503; }));
        }
    }
    std::set<std::string> pauses;
    for (int i = 0; i < 50; ++i) {
        const http_answer later = service.place(fresh + "-2");
        EXPECT_EQ(later.status, 503);
        pauses.insert(later.header("retry-after"));
    }
    EXPECT_EQ(pauses, (std::set<std::string>{"1", "2", "3"}));
    EXPECT_EQ(service.ask("GET", "/orders/" + fresh, authorized()).status, 503);
    EXPECT_EQ(service.ask("POST", "/orders/" + fresh + "/cancel", authorized()).status, 503);
    shop_->server.command("start");
    EXPECT_TRUE(soon([&] { return service.place(fresh + "-2").status == 201; }));
    EXPECT_EQ(service.ask("POST", "/orders/" + fresh + "/cancel", authorized()).status, 200);
}

TEST_F(order_service, a_database_that_crashes_loses_and_doubles_nothing) {
    running one{shop_->of_service()}, two{shop_->of_service()};
    load clients{{one.port(), two.port()}, 12, fresh + "-"};
    for (int i = 0; i < 3; ++i) {
        const int before = clients.answered();
        EXPECT_TRUE(soon([&] { return clients.answered() > before + 100; }));
        shop_->server.command("crash");
        std::this_thread::sleep_for(200ms * i);
        shop_->server.command("start");
    }
    const int before = clients.answered();
    EXPECT_TRUE(soon([&] { return clients.answered() > before + 100; }));
    clients.end();
    clients.check(shop_->conninfo());
}

// Answers are lost between the database and the service, and whole connections.
TEST_F(order_service, connections_that_break_lose_and_double_nothing) {
    const std::string conninfo = shop_->conninfo();
    std::smatch host, port, password;
    ASSERT_TRUE(std::regex_search(conninfo, host, std::regex{"host='([^']*)'"}));
    ASSERT_TRUE(std::regex_search(conninfo, port, std::regex{"port=([0-9]+)"}));
    ASSERT_TRUE(std::regex_search(conninfo, password, std::regex{"password=(\\S+)"}));
    idem::test::proxy proxy{{.host = host[1], .port = port[1]}};
    running service{test::through(proxy) + " user=postgres dbname=shop password=" + password[1].str()};
    load clients{{service.port()}, 12, fresh + "-"};
    proxy.drop_probability(0.05);
    for (int i = 0; i < 20; ++i) {
        std::this_thread::sleep_for(100ms);
        proxy.drop_all();
    }
    proxy.drop_probability(0);
    const int before = clients.answered();
    EXPECT_TRUE(soon([&] { return clients.answered() > before + 100; }));
    clients.end();
    EXPECT_GT(proxy.totals().lost(), 20U);
    clients.check(shop_->conninfo());
}

TEST_F(order_service, it_ends_without_losing_an_answer) {
    running two{shop_->of_service()};
    int cut = 0;
    for (int i = 0; i < 3; ++i) {
        running one{shop_->of_service()};
        load clients{{one.port(), two.port()}, 12, fresh + "-" + std::to_string(i) + "-"};
        EXPECT_TRUE(soon([&] { return clients.answered() > 100; }));
        http_client open{one.port()};
        open.send(text_of("GET", "/healthz"));
        ASSERT_EQ(open.receive().status, 200);
        const auto since = std::chrono::steady_clock::now();
        one.signal(SIGTERM);
        EXPECT_TRUE(soon([&] { return !http_client{one.port()}.connected(); }));
        open.send(text_of("GET", "/healthz"));
        const http_answer last = open.receive();
        EXPECT_EQ(last.status, 503);
        EXPECT_EQ(type_of(last), "draining");
        EXPECT_EQ(last.header("connection"), "close");
        EXPECT_EQ(one.end(0), 0);
        EXPECT_LT(std::chrono::steady_clock::now() - since, 5s);
        const int before = clients.answered();
        EXPECT_TRUE(soon([&] { return clients.answered() > before + 50; }));
        clients.end();
        clients.check(shop_->conninfo());
        cut += clients.cut();
        // all that it answered is in its log
        EXPECT_EQ(contents(one.messages()).find("level=error"), std::string::npos);
    }
    RecordProperty("cut", cut); // connections that were not accepted any more
}

// With the database stuck it cannot answer, and ends nevertheless.
TEST_F(order_service, its_end_is_bounded) {
    test::session direct{shop_->conninfo()};
    running service{shop_->of_service(), {"--drain", "2"}};
    direct.exec("BEGIN; LOCK TABLE orders");
    http_client waiting{service.port()};
    waiting.send(text_of("POST", "/orders", with_key(fresh), order));
    std::this_thread::sleep_for(300ms);
    const auto since = std::chrono::steady_clock::now();
    EXPECT_EQ(service.end(SIGTERM), 1);
    EXPECT_LT(std::chrono::steady_clock::now() - since, 4s);
    EXPECT_EQ(waiting.receive().status, 0);
    direct.exec("COMMIT");
    running after{shop_->of_service()};
    EXPECT_EQ(after.place(fresh).status, 201); // now, or then
    EXPECT_EQ(rows(fresh), "1");
}

// The database does not answer: nobody waits for longer than ten seconds, those behind in the queue neither.
TEST_F(order_service, a_stuck_database_is_not_waited_for) {
    running service{shop_->of_service(), {"--threads", "1"}};
    test::session direct{shop_->conninfo()};
    direct.exec("BEGIN; LOCK TABLE orders");
    std::vector<std::unique_ptr<http_client>> clients;
    const auto since = std::chrono::steady_clock::now();
    for (int i = 0; i < 3; ++i) {
        clients.push_back(std::make_unique<http_client>(service.port()));
        clients.back()->send(text_of("POST", "/orders", with_key(fresh + std::to_string(i)), order));
        std::this_thread::sleep_for(100ms);
    }
    for (auto& each : clients) {
        EXPECT_EQ(each->receive().status, 503);
        EXPECT_LT(std::chrono::steady_clock::now() - since, 17s);
    }
    direct.exec("COMMIT");
    for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(soon([&] { return service.place(fresh + std::to_string(i)).status == 201; }));
        EXPECT_EQ(rows(fresh + std::to_string(i)), "1");
    }
}
