#include "support.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <vector>

namespace {

using idem::run_status;
using namespace std::chrono_literals;

std::string one(idem::transaction& tx) { return std::string{tx.exec("SELECT 1").text(0, 0)}; }

// A server that takes connections and never says a word.
class silent_server {
public:
    explicit silent_server(std::uint16_t port = 0) {
        const int reuse = 1;
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        socklen_t size = sizeof address;
        setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
        if (bind(socket_, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(socket_, 10) != 0)
            throw std::runtime_error{"no port to be silent on"};
        getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
        port_ = ntohs(address.sin_port);
    }
    ~silent_server() { close(socket_); }
    silent_server(const silent_server&) = delete;
    silent_server& operator=(const silent_server&) = delete;

    [[nodiscard]] std::uint16_t port() const { return port_; }

private:
    int socket_ = socket(AF_INET, SOCK_STREAM, 0);
    std::uint16_t port_ = 0;
};

} // namespace

TEST(client, connects_at_once_or_throws) {
    EXPECT_TRUE(idem::client{""}.connected());
    EXPECT_TRUE(idem::client{"application_name=other"}.connected());
    EXPECT_EQ(test::thrown([] { idem::client{"dbname=no_such_database"}; }), idem::sqlstate::cannot_connect);
    EXPECT_EQ(test::thrown([] { idem::client{"no such option=1"}; }), idem::sqlstate::cannot_connect);
}

TEST(client, lets_the_connection_string_win_over_its_defaults) {
    const auto shown = [](const std::string& conninfo, const std::string& setting) {
        return std::string{
            idem::transaction{idem::client{conninfo}.connection(), 60s}.exec("SHOW " + setting).text(0, 0)};
    };
    const std::string tcp = "sslmode=prefer application_name=";
    EXPECT_EQ(shown("", "application_name"), "idem");
    EXPECT_EQ(shown(tcp + "mine", "application_name"), "mine");
}

TEST(client, gives_a_silent_server_up) {
    const silent_server silent;
    EXPECT_EQ(
        test::thrown([&] { idem::client{"host=127.0.0.1 connect_timeout=2 port=" + std::to_string(silent.port())}; }),
        idem::sqlstate::cannot_connect);
}

TEST(client, can_be_moved) {
    idem::client first{""};
    PGconn* const raw = first.connection();
    idem::client second{std::move(first)};
    EXPECT_EQ(second.connection(), raw);
    idem::client third{""};
    third = std::move(second);
    EXPECT_EQ(third.connection(), raw);
    EXPECT_EQ(idem::run(third, test::fresh_key(), idem::unchecked, one).status(), run_status::executed);
}

TEST(client, leaves_a_borrowed_connection_open_and_as_it_was) {
    test::session session;
    std::vector<std::string> notices;
    PQsetNoticeProcessor(
        session.get(),
        [](void* all, const char* text) { static_cast<std::vector<std::string>*>(all)->emplace_back(text); }, &notices);
    {
        idem::client client{session.get()};
        const auto outcome = idem::run(client, test::fresh_key(), idem::unchecked, [](idem::transaction& tx) {
            tx.exec("CREATE TEMP TABLE warned (n int)");
            tx.exec("CREATE FUNCTION pg_temp.warn() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN RAISE WARNING 'in a trigger'; RETURN NULL; END $$");
            tx.exec("CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON warned DEFERRABLE INITIALLY DEFERRED "
                    "FOR EACH ROW EXECUTE FUNCTION pg_temp.warn()");
            tx.exec("INSERT INTO warned VALUES (1)");
            return std::string{"1"};
        });
        EXPECT_EQ(outcome.status(), run_status::executed);
        EXPECT_EQ(outcome.in_doubt(), 0) << "a trigger's warning at COMMIT is no doubt";
    }
    EXPECT_EQ(PQtransactionStatus(session.get()), PQTRANS_IDLE);
    EXPECT_EQ(PQisnonblocking(session.get()), 0);
    EXPECT_EQ(session.value("SELECT count(*) FROM pg_prepared_statements"), "0");
    session.exec("DO $$ BEGIN RAISE NOTICE 'afterwards'; END $$");
    ASSERT_EQ(notices.size(), 2U);
    EXPECT_NE(notices[0].find("in a trigger"), std::string::npos);
    EXPECT_NE(notices[1].find("afterwards"), std::string::npos);
}

TEST(client, does_not_run_inside_a_transaction_of_the_callers) {
    test::session session;
    idem::client client{session.get()};
    session.exec("BEGIN");
    EXPECT_EQ(test::thrown([&] { (void)idem::run(client, test::fresh_key(), idem::unchecked, one); }), "25001");
    EXPECT_EQ(PQtransactionStatus(session.get()), PQTRANS_INTRANS);
    session.exec("ROLLBACK");
    EXPECT_EQ(idem::run(client, test::fresh_key(), idem::unchecked, one).status(), run_status::executed);
}

TEST(client, resets_a_borrowed_connection) {
    test::session session, other;
    idem::client client{session.get()};
    const auto kill = [&] {
        other.exec("SELECT pg_terminate_backend(" + std::to_string(PQbackendPID(session.get())) + ", 10000)");
    };
    kill();
    EXPECT_EQ(idem::run(client, test::fresh_key(), idem::unchecked, one).status(), run_status::executed);
    int calls = 0;
    const auto outcome = idem::run(client, test::fresh_key(), idem::unchecked, [&](idem::transaction& tx) {
        if (++calls == 1) kill();
        return one(tx);
    });
    EXPECT_EQ(outcome.attempts(), 2);
    EXPECT_EQ(session.value("SELECT 'usable'"), "usable");
}

TEST(client, gives_a_silent_server_up_when_it_resets_a_borrowed_connection) {
    // Of two hosts the first is away at first, and silent when the connection is reset.
    idem::test::proxy proxy{test::upstream()};
    const std::uint16_t port = silent_server{}.port();
    test::session session{"host=127.0.0.1,127.0.0.1 port=" + std::to_string(port) + "," + std::to_string(proxy.port())};
    const silent_server silent{port};
    proxy.drop_all();
    idem::client client{session.get()};
    EXPECT_EQ(test::thrown([&] {
                  (void)idem::run(client, test::fresh_key(), idem::unchecked, one,
                                  {.deadline = 200ms, .response_timeout = 100ms});
              }),
              idem::sqlstate::cannot_connect);
}
