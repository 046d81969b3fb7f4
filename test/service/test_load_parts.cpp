// What the load client measures and compares with.
#include "answer.hpp"
#include "histogram.hpp"
#include "swarm.hpp"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <string>

namespace {

const std::string ok = "HTTP/1.1 201 Created\r\nServer: nginx\r\nDate: Sun\r\nContent-Type: application/json\r\n"
                       "content-length: 7\r\nConnection: keep-alive\r\nLocation: /orders/1\r\n\r\n{\"a\":1}";

std::string with(std::string text, const std::string& what, const std::string& by) {
    return text.replace(text.find(what), what.size(), by);
}

} // namespace

TEST(answer, is_read_once_it_is_complete) {
    for (std::size_t n = 0; n < ok.size(); ++n) EXPECT_FALSE(shop::answer::parse(std::string_view{ok}.substr(0, n)));
    const std::string two = ok + "HTTP/1.1 200";
    const auto a = shop::answer::parse(two);
    ASSERT_TRUE(a);
    EXPECT_EQ(a->status, 201);
    EXPECT_EQ(a->body, "{\"a\":1}");
    EXPECT_EQ(a->size(), ok.size());
    EXPECT_EQ(a->header("location"), "/orders/1");
    EXPECT_EQ(a->header("Retry-After"), "");
    EXPECT_FALSE(a->replayed);
    EXPECT_FALSE(a->closes);
}

TEST(answer, says_what_to_do) {
    const std::string text =
        "HTTP/1.1 409 Conflict\r\nRetry-After: 1\r\nconnection: Close\r\nContent-Length: 0\r\n\r\n";
    const auto a = shop::answer::parse(text);
    ASSERT_TRUE(a);
    EXPECT_EQ(a->retry_after, 1);
    EXPECT_TRUE(a->closes);
}

TEST(answer, that_is_none_is_refused) {
    for (const char* text : {"SMTP/1.1 201 Created\r\n\r\n", "HTTP/1.1 2x1 Created\r\nContent-Length: 0\r\n\r\n",
                             "HTTP/1.1 201 Created\r\n\r\n", "HTTP/1.1 201 Created\r\nContent-Length: -1\r\n\r\n",
                             "HTTP/1.1 201 Created\r\nContent-Length 0\r\n\r\n"})
        EXPECT_THROW(static_cast<void>(shop::answer::parse(text)), shop::bad_answer) << text;
}

TEST(answer, and_its_replay_have_the_same_essence) {
    const auto essence = [](const std::string& text) { return shop::answer::parse(text)->essence(); };
    const std::string same = essence(ok);
    EXPECT_EQ(essence(with(with(ok, "Sun", "Monday"), "keep-alive\r\n",
                           "close\r\nIdempotency-Replayed: true\r\ntraceparent: 00-1\r\n")),
              same);
    EXPECT_NE(essence(with(ok, "201", "200")), same);
    EXPECT_NE(essence(with(ok, "/orders/1", "/orders/2")), same);
    EXPECT_NE(essence(with(ok, ":1}", ":2}")), same);
    EXPECT_NE(essence(with(ok, "application/json", "text/json")), same);
    EXPECT_NE(essence(with(ok, "Location: /orders/1\r\n", "")), same);
}

TEST(histogram, knows_shares) {
    shop::histogram h;
    EXPECT_EQ(h.at(0.5), 0U);
    for (int i = 1; i <= 100'000; ++i) h.add(i);
    EXPECT_EQ(h.count(), 100'000U);
    EXPECT_EQ(h.max(), 100'000U);
    for (const double share : {0.001, 0.5, 0.99, 0.999}) {
        EXPECT_GE(h.at(share), static_cast<std::uint64_t>(share * 100'000)) << share;
        EXPECT_LE(h.at(share), static_cast<std::uint64_t>(share * 100'000 * 1.017) + 1) << share;
    }
    EXPECT_EQ(h.at(1), 100'000U);
}

TEST(histogram, takes_anything) {
    shop::histogram h;
    h.add(-1);
    h.add(INT64_MAX);
    EXPECT_EQ(h.count(), 2U);
    EXPECT_EQ(h.at(0), 0U);
}

TEST(order, is_the_same_each_time_and_adds_up) {
    for (std::uint64_t n = 0; n < 200; ++n) {
        std::string text, again;
        shop::append_order(text, n, 42);
        shop::append_order(again, n, 42);
        EXPECT_EQ(text, again);
        const auto order = nlohmann::json::parse(text);
        std::int64_t pence = 0;
        for (const auto& line : order.at("lines"))
            pence += line.at("quantity").get<std::int64_t>() * line.at("unit_pence").get<std::int64_t>();
        EXPECT_EQ(pence, shop::pence_of_order(n, 42));
        EXPECT_GT(pence, 0);
    }
}
