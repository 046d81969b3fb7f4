// The checker against made-up histories: each kind of wrong one must be found, and named as what it is.
#include "checker.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

namespace {

using namespace fault;

constexpr microseconds ttl = 1'000'000;

// A right history of three keys, for each test to spoil.
//   a: executed, replayed, a changed body refused, a failure after that replayed; one more that heard nothing
//   b: the work threw, the claim was released, then executed in doubt
//   c: executed twice, the second time after its ttl; since then it is expired and forgotten
class Checker : public testing::Test {
protected:
    history all{
        {.number = 1,
         .key = "a",
         .amount = 10,
         .asked_at = 100,
         .answered_at = 200,
         .answer = answer::executed,
         .attempts = 1,
         .text = "a1"},
        {.number = 2,
         .key = "a",
         .amount = 10,
         .asked_at = 110,
         .answered_at = 300,
         .answer = answer::replayed,
         .text = "a1"},
        {.number = 3,
         .key = "a",
         .amount = 11,
         .intent = intent::changed,
         .asked_at = 310,
         .answered_at = 320,
         .answer = answer::mismatch},
        {.number = 4,
         .key = "a",
         .amount = 10,
         .intent = intent::throws,
         .asked_at = 310,
         .answered_at = 320,
         .answer = answer::replayed,
         .text = "a1"},
        {.number = 5, .key = "a", .amount = 10, .asked_at = 310, .answered_at = 320, .text = "08006 lost"},
        {.number = 6,
         .key = "b",
         .amount = 20,
         .intent = intent::throws,
         .asked_at = 100,
         .answered_at = 120,
         .answer = answer::threw,
         .attempts = 1},
        {.number = 7,
         .key = "b",
         .amount = 20,
         .intent = intent::releases,
         .asked_at = 100,
         .answered_at = 120,
         .answer = answer::released,
         .attempts = 1},
        {.number = 8,
         .key = "b",
         .amount = 20,
         .asked_at = 130,
         .answered_at = 140,
         .attempts = 1,
         .in_doubt = 1,
         .text = "08007 in doubt"},
        {.number = 9,
         .key = "b",
         .amount = 20,
         .last = true,
         .asked_at = 150,
         .answered_at = 160,
         .answer = answer::in_progress},
        {.number = 10,
         .key = "b",
         .amount = 20,
         .last = true,
         .asked_at = 170,
         .answered_at = 180,
         .answer = answer::replayed,
         .text = "b8"},
        {.number = 11,
         .key = "c",
         .amount = 30,
         .asked_at = 100,
         .answered_at = 200,
         .answer = answer::executed,
         .attempts = 1,
         .text = "c11"},
        {.number = 12,
         .key = "c",
         .amount = 30,
         .asked_at = 100,
         .answered_at = ttl + 300,
         .answer = answer::executed,
         .attempts = 2,
         .in_doubt = 1,
         .text = "c12"},
    };
    tables end{
        .effects =
            {{.order = 1, .key = "a", .operation = 1, .amount = 10, .at = 150, .booked = 10, .response = "a1"},
             {.order = 2, .key = "b", .operation = 8, .amount = 20, .at = 135, .booked = 20, .response = "b8"},
             {.order = 3, .key = "c", .operation = 11, .amount = 30, .at = 150, .booked = 30, .response = "c11"},
             {.order = 4, .key = "c", .operation = 12, .amount = 30, .at = ttl + 150, .booked = 30, .response = "c12"}},
        .keys = {{"a", "a1"}, {"b", "b8"}},
        .ledger = 90,
        .balance = 90,
        .read_at = 3 * ttl};

    void SetUp() override {
        for (operation& o : all) o.ttl = o.key == "c" ? ttl : 1000 * ttl;
    }

    operation& op(std::size_t number) { return all.at(number - 1); }
    effect& order(std::size_t number) { return end.effects.at(number - 1); }

    // Another effect of `key`, with the money in place, so that nothing but the effect itself is wrong.
    void add_effect(effect e) {
        end.ledger += e.amount, end.balance += e.amount;
        end.effects.push_back(std::move(e));
    }
    void remove_effect(std::size_t number) {
        end.ledger -= order(number).amount, end.balance -= order(number).amount;
        end.effects.erase(end.effects.begin() + static_cast<std::ptrdiff_t>(number) - 1);
    }

    // The rules that are broken, in order, each once.
    std::vector<rule> broken() const {
        std::vector<rule> found;
        for (const violation& v : check(all, end)) found.push_back(v.broken);
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
        return found;
    }
};
using rules_ = std::vector<rule>;

TEST_F(Checker, FindsNothingWrongWithARightHistory) {
    for (const violation& v : check(all, end)) ADD_FAILURE() << to_string(v.broken) << ": " << v.key << ", " << v.what;
}

TEST_F(Checker, FindsNothingWrongWithNothing) { EXPECT_TRUE(check({}, {}).empty()); }

TEST_F(Checker, NeverAcknowledgedMayHaveNoEffect) {
    all.erase(all.begin() + 8, all.begin() + 10); // nobody was told of b
    EXPECT_EQ(broken(), rules_{});
    remove_effect(2);
    end.keys.pop_back();
    EXPECT_EQ(broken(), rules_{});
}

// ---- once ----

TEST_F(Checker, FindsADoubleEffect) {
    add_effect({.order = 9, .key = "b", .operation = 8, .amount = 20, .at = 138, .booked = 20, .response = "b8"});
    EXPECT_EQ(broken(), rules_{rule::once});
}

TEST_F(Checker, FindsADoubleEffectThatNobodyWasToldOf) {
    all.erase(all.begin() + 8, all.begin() + 10);
    add_effect({.order = 9, .key = "b", .operation = 8, .amount = 20, .at = 138, .booked = 20, .response = "b8'"});
    end.keys.back().response = "b8'";
    EXPECT_EQ(broken(), rules_{rule::once});
}

TEST_F(Checker, FindsAKeyThatRanAgainBeforeItsEnd) {
    order(4).at = ttl + 149;
    EXPECT_EQ(broken(), rules_{rule::once});
}

// ---- kept ----

TEST_F(Checker, FindsALostEffect) {
    remove_effect(1);
    end.keys.erase(end.keys.begin());
    EXPECT_EQ(broken(), (rules_{rule::kept, rule::refused}));
}

TEST_F(Checker, FindsALostEffectOfAKeyLongForgotten) {
    remove_effect(3);
    EXPECT_EQ(broken(), rules_{rule::kept});
}

TEST_F(Checker, FindsAReplayThatDiffersByAByte) {
    op(2).text = "a1 ";
    EXPECT_EQ(broken(), rules_{rule::kept});
}

TEST_F(Checker, FindsAFirstAnswerThatDiffersFromTheReplays) {
    op(1).text = "A1";
    EXPECT_EQ(broken(), rules_{rule::kept});
}

TEST_F(Checker, UnflushedPromisesNothing) {
    op(11).flushed = false;
    remove_effect(3);
    EXPECT_EQ(broken(), rules_{});
    op(11).answer = answer::replayed; // but a replay does
    EXPECT_EQ(broken(), rules_{rule::kept});
}

// ---- whose ----

TEST_F(Checker, FindsWhoClaimsTheWorkOfAnother) {
    op(2).answer = answer::executed;
    EXPECT_EQ(broken(), rules_{rule::whose});
}

TEST_F(Checker, FindsWhoIsToldAReplayOfItsOwnWork) {
    op(1).answer = answer::replayed;
    EXPECT_EQ(broken(), rules_{rule::whose});
}

// ---- not again ----

TEST_F(Checker, FindsWorkThatBeganAgain) {
    op(4).answer = answer::threw, op(4).attempts = 1;
    EXPECT_EQ(broken(), rules_{rule::not_again});
}

TEST_F(Checker, FindsAReleaseAfterTheAcknowledgement) {
    op(4).intent = intent::releases, op(4).answer = answer::released, op(4).attempts = 1;
    EXPECT_EQ(broken(), rules_{rule::not_again});
}

TEST_F(Checker, FindsARetryThatBeganAgainAndThenFoundTheAnswer) {
    op(5).attempts = 1;
    EXPECT_EQ(broken(), rules_{rule::not_again});
}

// ---- stored ----

TEST_F(Checker, FindsAnEffectWithoutAKey) {
    end.keys.pop_back();
    EXPECT_EQ(broken(), rules_{rule::stored});
}

TEST_F(Checker, FindsAKeyForgottenTooEarly) {
    end.read_at = 2 * ttl + 150; // c was completed at that less its ttl, or later
    EXPECT_EQ(broken(), rules_{});
    --end.read_at;
    EXPECT_EQ(broken(), rules_{rule::stored});
}

TEST_F(Checker, FindsAKeyWithoutAnEffect) {
    all.push_back({.number = 13, .key = "d", .ttl = ttl, .text = "08006 lost"});
    end.keys.push_back({"d", "d13"});
    EXPECT_EQ(broken(), rules_{rule::stored});
}

TEST_F(Checker, FindsAnotherResponseStored) {
    end.keys.front().response = "a2";
    EXPECT_EQ(broken(), rules_{rule::stored});
}

TEST_F(Checker, FindsTheResponseOfAnEarlierLifeStored) {
    end.keys.push_back({"c", "c11"});
    EXPECT_EQ(broken(), rules_{rule::stored});
}

TEST_F(Checker, FindsAKeyStoredTwice) {
    end.keys.push_back(end.keys.front());
    EXPECT_EQ(broken(), rules_{rule::stored});
}

// ---- refused ----

TEST_F(Checker, FindsAnHonestRequestRefused) {
    op(2).answer = answer::mismatch, op(2).text = "";
    EXPECT_EQ(broken(), rules_{rule::refused});
}

TEST_F(Checker, FindsARefusalBeforeAnythingWasStored) {
    op(3).asked_at = 90, op(3).answered_at = 120;
    EXPECT_EQ(broken(), rules_{rule::refused});
}

TEST_F(Checker, FindsAChangedBodyThatGotAReplay) {
    op(3).answer = answer::replayed, op(3).text = "a1";
    EXPECT_EQ(broken(), rules_{rule::refused});
}

TEST_F(Checker, FindsAChangedBodyThatWasCarriedOut) {
    op(3).answer = answer::executed, op(3).text = "a3", op(3).attempts = 1;
    add_effect({.order = 9, .key = "a", .operation = 3, .amount = 11, .at = 315, .booked = 11, .response = "a3"});
    const auto found = broken();
    for (const rule r : {rule::once, rule::not_again, rule::refused, rule::nothing_left})
        EXPECT_TRUE(std::count(found.begin(), found.end(), r)) << to_string(r);
}

// ---- nothing left ----

TEST_F(Checker, FindsWhatAFailedCallbackLeft) {
    all.erase(all.begin() + 7, all.begin() + 10); // of b, only who threw and who released
    for (const std::size_t number : {6U, 7U}) {
        order(2) = {
            .order = 2, .key = "b", .operation = number, .amount = 20, .at = 110, .booked = 20, .response = "b8"};
        EXPECT_EQ(broken(), rules_{rule::nothing_left});
    }
}

TEST_F(Checker, FindsAnEffectOfNobody) {
    order(2).operation = 77;
    EXPECT_EQ(broken(), (rules_{rule::nothing_left}));
}

TEST_F(Checker, FindsAnEffectUnderAnotherKey) {
    order(4).operation = 8;
    EXPECT_EQ(broken(), (rules_{rule::whose, rule::nothing_left}));
}

// ---- whole, money ----

TEST_F(Checker, FindsHalfAnEffect) {
    order(2).entries = 0, order(2).booked = 0;
    EXPECT_EQ(broken(), rules_{rule::whole});
}

TEST_F(Checker, FindsAnEffectBookedTwice) {
    order(2).entries = 2, order(2).booked = 40;
    EXPECT_EQ(broken(), rules_{rule::whole});
}

TEST_F(Checker, FindsAWrongAmount) {
    order(2).amount = order(2).booked = 21;
    end.ledger += 1, end.balance += 1;
    EXPECT_EQ(broken(), rules_{rule::whole});
}

TEST_F(Checker, FindsMoneyThatDoesNotAddUp) {
    ++end.balance;
    EXPECT_EQ(broken(), rules_{rule::money});
    --end.balance, ++end.ledger;
    EXPECT_EQ(broken(), rules_{rule::money});
}

// ---- explained, answered, verified ----

TEST_F(Checker, FindsErrorsThatNoFaultExplains) {
    for (const auto text : {"ID004 open", "XX000 oops", "42P01 no table", "53300 too many", "25P02 aborted", ""}) {
        op(5).text = text;
        EXPECT_EQ(broken(), rules_{rule::explained}) << text;
    }
    for (const auto text : {"08001 x", "08006 x", "08007 x", "57P01 x", "57P03 x", "40001 x", "40P01 x", "25P03 x"}) {
        op(5).text = text;
        EXPECT_EQ(broken(), rules_{}) << text;
    }
}

TEST_F(Checker, FindsAnswersThatNobodyAskedFor) {
    for (const auto a : {answer::cancelled, answer::threw, answer::released}) {
        op(5).answer = a;
        EXPECT_EQ(broken(), rules_{rule::explained}) << to_string(a);
    }
}

TEST_F(Checker, FindsWhoWasNeverAnswered) {
    op(10).answer = answer::in_progress, op(10).text = "";
    EXPECT_EQ(broken(), rules_{rule::answered});
}

TEST_F(Checker, PassesOnWhatTheSelfCheckFound) {
    end.findings = {"a live key has one row: key 'a'"};
    EXPECT_EQ(broken(), rules_{rule::verified});
}

TEST_F(Checker, EveryRuleSaysWhatItIs) {
    for (std::size_t r = 0; r < rules; ++r) EXPECT_FALSE(to_string(static_cast<rule>(r)).empty());
}

TEST_F(Checker, AHistoryIsOneLineAnOperation) {
    op(5).text = "08006 lost\nin\ttwo lines";
    std::ostringstream out;
    write(out, {op(5)});
    EXPECT_EQ(out.str(), "number\tkey\tamount\tintent\tttl\tflushed\tlast\tasked_at\tanswered_at\tanswer\tattempts\t"
                         "in_doubt\ttext\n"
                         "5\ta\t10\thonest\t1000000000\t1\t0\t310\t320\terror\t0\t0\t08006 lost in two lines\n");
}

} // namespace
