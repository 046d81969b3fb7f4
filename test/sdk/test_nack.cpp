// Messages that fail: which one it is, that the others go on, and what becomes of it. Over libpq and libpqxx.
#include "support.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace {

using idem::message;
using namespace std::chrono_literals;

template <typename Way>
class nack : public testing::Test {
protected:
    void SetUp() override {
        direct.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + name + "']); CREATE TABLE " + table +
                    " (place serial, id bigint, attempt int)");
    }
    void TearDown() override {
        direct.exec("SELECT idem_unsubscribe('" + name + "'); DELETE FROM idem_dead_letters WHERE consumer = '" + name +
                    "'; DROP TABLE " + table);
    }

    // Message i has payload i, from 0; each key has `each` messages in a row.
    void publish(int count, int each = 1) {
        for (int i = 0; i < count; ++i)
            ids.push_back(idem::publish(direct.get(), name, std::to_string(i), {.key = std::to_string(i / each)}));
    }
    void apply(auto& tx, const message& m) {
        ++calls[m.id];
        tx.exec("INSERT INTO " + table + " (id, attempt) VALUES (" + std::to_string(m.id) + ", " +
                std::to_string(m.attempt) + ")");
    }
    [[nodiscard]] bool is(const message& m, std::size_t i) const { return m.id == ids.at(i); }

    // All but these are applied, once and in order.
    void check_applied(const std::vector<std::size_t>& but = {}) {
        std::string expected;
        for (std::size_t i = 0; i < ids.size(); ++i)
            if (std::find(but.begin(), but.end(), i) == but.end()) expected += std::to_string(ids[i]) + ' ';
        EXPECT_EQ(direct.value("SELECT coalesce(string_agg(id || ' ', '' ORDER BY place), '') FROM " + table),
                  expected);
    }
    std::string dead() {
        return direct.value("SELECT string_agg(id || ' ' || error, ', ' ORDER BY id) FROM idem_dead_letters WHERE "
                            "consumer = '" +
                            name + "'");
    }
    std::string of(const std::string& column) {
        return direct.value("SELECT sum(" + column + ") FROM idem_consumers WHERE consumer = '" + name + "'");
    }
    [[nodiscard]] std::string dead_letter(std::size_t i, const std::string& error) const {
        return std::to_string(ids.at(i)) + ' ' + error;
    }

    const std::string name = test::fresh_key("nack"), table = "nack_" + std::to_string(getpid());
    std::vector<std::int64_t> ids;
    std::map<std::int64_t, int> calls;
    test::session direct{};
};
TYPED_TEST_SUITE(nack, test::both, );

// What fails goes to the dead letters at once.
constexpr auto once = "options='-c idem.max_attempts=1'";

} // namespace

TYPED_TEST(nack, is_what_a_throw_means) {
    this->publish(40);
    typename TypeParam::client client{once};
    std::vector<std::string> failures;
    int retries = 0;
    idem::consumer{client,
                   this->name,
                   [&](auto& tx, const message& m) {
                       this->apply(tx, m);
                       if (this->is(m, 7) || this->is(m, 29)) throw std::runtime_error{"no " + m.payload};
                   },
                   {.on_retry = [&](const std::exception&) { ++retries; },
                    .on_failure = [&](const message& m,
                                      const std::exception& e) { failures.push_back(m.payload + ": " + e.what()); }}}
        .drain();
    this->check_applied({7, 29});
    EXPECT_EQ(this->dead(), this->dead_letter(7, "no 7") + ", " + this->dead_letter(29, "no 29"));
    EXPECT_EQ(failures, (std::vector<std::string>{"7: no 7", "29: no 29"}));
    EXPECT_EQ(retries, 2);
    EXPECT_EQ(this->calls[this->ids[7]], 2); // with others, and alone
    EXPECT_EQ(this->calls[this->ids[0]], 2);
    EXPECT_EQ(this->calls[this->ids[28]], 2);
    EXPECT_EQ(this->calls[this->ids[39]], 1); // it does not go on one by one
    EXPECT_EQ(this->of("depth"), "0");
}

TYPED_TEST(nack, finds_the_message_in_a_whole_batch) {
    this->publish(40);
    typename TypeParam::client client{once};
    int batches = 0;
    idem::consumer{client, this->name,
                   [&](auto& tx, std::span<const message> batch) {
                       ++batches;
                       for (const message& each : batch) this->apply(tx, each);
                       for (const message& each : batch)
                           if (this->is(each, 0) || this->is(each, 25) || this->is(each, 39))
                               throw std::runtime_error{"no " + each.payload};
                   }}
        .drain();
    this->check_applied({0, 25, 39});
    EXPECT_EQ(this->dead(), this->dead_letter(0, "no 0") + ", " + this->dead_letter(25, "no 25") + ", " +
                                this->dead_letter(39, "no 39"));
    EXPECT_LT(batches, 40);
}

TYPED_TEST(nack, is_what_a_refused_commit_means) {
    this->direct.exec("ALTER TABLE " + this->table + " ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED");
    this->publish(9);
    typename TypeParam::client client{once};
    std::vector<std::string> failures;
    idem::consumer{client,
                   this->name,
                   [&](auto& tx, const message& m) {
                       this->apply(tx, m);
                       if (this->is(m, 4)) this->apply(tx, m);
                   },
                   {.on_failure =
                        [&](const message&, const std::exception& e) {
                            failures.emplace_back(dynamic_cast<const idem::error&>(e).sqlstate());
                        }}}
        .drain();
    this->check_applied({4});
    EXPECT_EQ(failures, std::vector<std::string>{"23505"});
    EXPECT_NE(this->dead().find("duplicate key"), std::string::npos) << this->dead();
}

TYPED_TEST(nack, is_what_a_callback_that_ends_or_breaks_the_transaction_earns) {
    this->publish(4);
    typename TypeParam::client client{once};
    std::vector<std::string> failures;
    idem::consumer{client,
                   this->name,
                   [&](auto& tx, const message& m) {
                       if (this->is(m, 0)) tx.exec("ROLLBACK");
                       if (this->is(m, 1)) tx.exec("COMMIT");
                       if (this->is(m, 2)) { // or swallows what broke it
                           EXPECT_EQ(test::thrown([&] { tx.exec("SELECT 1/0"); }), "22012");
                       } else if (this->is(m, 3)) {
                           this->apply(tx, m);
                       }
                   },
                   {.batch = 1,
                    .on_failure =
                        [&](const message&, const std::exception&) {
                            failures.push_back(idem::detail::pqxx_sqlstate_of_current().value_or("other"));
                        }}}
        .drain();
    EXPECT_EQ(failures, (std::vector<std::string>{std::string{idem::sqlstate::batch_not_held},
                                                  std::string{idem::sqlstate::batch_open}, "25P02"}));
    this->check_applied({0, 1, 2});
}

TYPED_TEST(nack, lets_hooks_give_up) {
    this->publish(3);
    typename TypeParam::client client{once};
    const auto fail = [&](auto& tx, const message& m) {
        this->apply(tx, m);
        if (this->is(m, 1)) tx.exec("SELECT 1/0");
    };
    idem::consumer one{client, this->name, fail, {.on_failure = [](const message&, const std::exception&) { throw; }}};
    EXPECT_EQ(test::thrown([&] { one.run(); }), "22012");
    EXPECT_EQ(PQtransactionStatus(TypeParam::raw(client)), PQTRANS_IDLE);
    EXPECT_EQ(test::thrown([&] { one.drain(); }), "22012"); // and it is where it was
    EXPECT_EQ(this->of("depth"), "2");
    EXPECT_EQ(this->dead(), "");
}

TYPED_TEST(nack, stores_any_text) {
    this->publish(3);
    typename TypeParam::client client{once};
    const std::vector<std::string> texts{"ü \"'\\ \n%s", "caf\xe9", ""};
    idem::consumer{client, this->name,
                   [&](auto&, const message& m) {
                       throw std::runtime_error{texts.at(static_cast<std::size_t>(std::stoi(m.payload)))};
                   }}
        .drain();
    EXPECT_EQ(this->dead(),
              this->dead_letter(0, texts[0]) + ", " + this->dead_letter(1, "caf?") + ", " + this->dead_letter(2, ""));
}

// It comes again, and what is of its key waits for it.
TYPED_TEST(nack, parks_a_message_and_those_behind_it) {
    this->publish(6, 2); // keys 0 0 1 1 2 2
    typename TypeParam::client client{""};
    std::vector<std::pair<std::string, int>> seen;
    idem::consumer one{client, this->name, [&](auto& tx, const message& m) {
                           seen.emplace_back(m.payload, m.attempt);
                           this->apply(tx, m);
                           if (this->is(m, 2) && m.attempt < 2) throw std::runtime_error{"not yet"};
                       }};
    one.drain();
    this->check_applied({2, 3});
    EXPECT_EQ(this->dead(), "");
    EXPECT_EQ(this->of("parked"), "2");
    const auto until = std::chrono::steady_clock::now() + 30s;
    while (this->of("parked") != "0" && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(50ms);
        one.drain();
    }
    EXPECT_EQ(this->direct.value("SELECT string_agg(id || ' ' || attempt, ', ' ORDER BY place) FROM " + this->table +
                                 " WHERE id IN (" + std::to_string(this->ids[2]) + "," + std::to_string(this->ids[3]) +
                                 ")"),
              std::to_string(this->ids[2]) + " 2, " + std::to_string(this->ids[3]) + " 1");
    EXPECT_EQ(this->direct.value("SELECT count(*) || ' ' || count(DISTINCT id) FROM " + this->table), "6 6");
}

// Connections that are cut at any point of all this.
TYPED_TEST(nack, happens_once_whatever_is_lost) {
    this->publish(60);
    idem::test::proxy proxy{test::upstream()};
    proxy.at_commit([random = std::minstd_rand{5}](auto&) mutable {
        return random() % 3 ? idem::test::pass() : idem::test::drop(static_cast<idem::test::place>(random() % 3));
    });
    proxy.drop_probability(0.05);
    typename TypeParam::client client{test::through(proxy) + ' ' + once};
    idem::consumer{client,
                   this->name,
                   [&](auto& tx, const message& m) {
                       this->apply(tx, m);
                       if (std::stoi(m.payload) % 10 == 3) throw std::runtime_error{"no"};
                   },
                   {.batch = 7}}
        .drain();
    this->check_applied({3, 13, 23, 33, 43, 53});
    EXPECT_EQ(this->of("dead"), "6");
    EXPECT_GT(proxy.totals().lost(), 5U);
}

// Code that fetches by itself.
template <typename Transaction>
class nack_in : public testing::Test {};
TYPED_TEST_SUITE(nack_in, test::transactions, );

TYPED_TEST(nack_in, an_own_transaction) {
    test::session direct;
    const std::string name = test::fresh_key("nack");
    direct.exec("SELECT idem_subscribe('" + name + "', ARRAY['" + name + "'])");
    std::vector<std::int64_t> ids;
    for (const std::string key : {"a", "b", "a", "b", "a"})
        ids.push_back(idem::publish(direct.get(), name, "1", {.key = key}));
    {
        TypeParam tx;
        message bad{.id = ids[0]};
        bad.batch = std::stoll(tx.value("SELECT min(batch) FROM idem_fetch('" + name + "')"));
        EXPECT_EQ(idem::nack(*tx, name, bad, "no", 1h), (std::vector{ids[2], ids[4]}));
        bad.id = ids[3];
        EXPECT_TRUE(idem::nack(*tx, name, bad, "no", 0s).empty());
        tx.value("SELECT idem_ack('" + name + "', " + std::to_string(bad.batch) + ")");
        tx.commit();
    }
    EXPECT_EQ(direct.value("SELECT parked FROM idem_consumers WHERE consumer = '" + name + "'"), "4");
    const auto refusal = [&](TypeParam& tx, const message& bad) {
        return test::thrown([&] { static_cast<void>(idem::nack(*tx, name, bad, "no")); });
    };
    TypeParam one, other;
    message bad{.id = ids[1]};
    EXPECT_EQ(refusal(one, bad), idem::sqlstate::batch_not_held);
    bad.batch = std::stoll(other.value("SELECT max(batch) FROM idem_fetch('" + name + "')"));
    EXPECT_EQ(refusal(other, bad), idem::sqlstate::not_in_batch);
    direct.exec("SELECT idem_unsubscribe('" + name + "')");
}

// ---- a message that takes its process with it ----

namespace {

// Works on all there is in a process of its own, with its own connection. What it ended with, as waitpid says.
template <typename Work>
int in_a_child(const std::string& name, Work work) {
    const pid_t child = fork();
    if (child == 0) {
        idem::client client{""};
        idem::consumer{client, name, work}.drain();
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}

} // namespace

using nack_of_the_killed = nack<test::libpq>;

TEST_F(nack_of_the_killed, is_a_dead_letter_in_the_end) {
    idem::client client{""}; // the children do not take us for themselves
    idem::consumer{client, name, [](idem::transaction&, const message&) {}}.drain();
    publish(30);
    int kills = 0;
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (dead().empty() && std::chrono::steady_clock::now() < until) {
        const int status = in_a_child(name, [this](idem::transaction& tx, const message& m) {
            apply(tx, m);
            if (is(m, 13)) kill(getpid(), SIGKILL);
        });
        kills += WIFSIGNALED(status);
        std::this_thread::sleep_for(20ms); // it is parked in between
    }
    EXPECT_EQ(kills, 5);
    check_applied({13});
    EXPECT_EQ(dead(), dead_letter(13, "the client's connection ended while it worked on this message"));
}

// However often it loses its connection on the way.
TYPED_TEST(nack, is_not_for_messages_whose_client_survives) {
    this->publish(10);
    idem::test::proxy proxy{test::upstream()};
    typename TypeParam::client client{test::through(proxy)};
    int cuts = 0;
    std::vector<int> attempts;
    idem::consumer{client, this->name,
                   [&](auto& tx, const message& m) {
                       if (this->is(m, 4)) attempts.push_back(m.attempt);
                       if (this->is(m, 4) && ++cuts <= 12) proxy.drop_all();
                       this->apply(tx, m);
                   }}
        .drain();
    this->check_applied();
    EXPECT_EQ(attempts, std::vector<int>(13, 1));
    EXPECT_EQ(this->of("dead + parked"), "0");
}
