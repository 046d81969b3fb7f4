// Parts of the order service, by themselves: the cache, and what it takes for JSON.
#include "support.hpp"

#include <cache.hpp>
#include <json.hpp>
#include <trace.hpp>

#include <random>
#include <regex>
#include <set>
#include <vector>

namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;

const auto later = std::chrono::system_clock::now() + 1h;

bool server_takes(test::session& server, const std::string& text) {
    const char* const value = text.c_str();
    const idem::result answer{PQexecParams(server.get(), "SELECT $1::jsonb", 1, nullptr, &value, nullptr, nullptr, 0)};
    return PQresultStatus(answer.get()) == PGRES_TUPLES_OK;
}

} // namespace

// What we take and the server does not would fail all that are in the same statement.
TEST(json, is_what_the_server_takes) {
    const std::vector<std::string> tokens{"{",
                                          "}",
                                          "[",
                                          "]",
                                          ",",
                                          ":",
                                          "\"",
                                          "\"a\"",
                                          R"("a": )",
                                          R"("b")",
                                          " ",
                                          "\n",
                                          "\t",
                                          "\r",
                                          "\f",
                                          "\v",
                                          "1",
                                          "-",
                                          "-0",
                                          "0",
                                          "01",
                                          "1.5",
                                          ".",
                                          "1.",
                                          "e5",
                                          "E+2",
                                          "e-3",
                                          "true",
                                          "null",
                                          "false",
                                          "nul",
                                          "NaN",
                                          "\\",
                                          "\\\\",
                                          "\\n",
                                          "\\/",
                                          "\\x",
                                          "\\u0000",
                                          "\\u00e9",
                                          "\\ud83d",
                                          "\\ude00",
                                          "\\udc00",
                                          "\\ud83d\\ude00",
                                          "\\u12",
                                          "\xc3\xa9",
                                          "\xc3",
                                          "\xff",
                                          "\xc0\x80",
                                          "\xe0\x80\x80",
                                          "\xe2\x82\xac",
                                          "\xed\x9f\xbf",
                                          "\xed\xa0\x80",
                                          "\xef\xbb\xbf",
                                          "\xf0\x9f\x98\x80",
                                          "\xf0\x80\x80\x80",
                                          "\xf4\x8f\xbf\xbf",
                                          "\xf4\x90\x80\x80",
                                          "\xf5\x80\x80\x80",
                                          "\x7f",
                                          "\x01"};
    const std::vector<std::string> seeds{R"({"a": [1, -2.5e3, "x\u00e9\ud83d\ude00"], "b": {"c": null}})", R"("é€😀")",
                                         R"([[], {}, "", true, false])", "-0.0E-1"};
    test::session server;
    std::mt19937 random{std::random_device{}()};
    const auto below = [&random](std::size_t n) { return random() % n; };
    const std::regex exponent{"[eE][-+]?[0-9]{4}"}; // a limit of ours, see below
    int taken = 0;
    for (int i = 0; i < 30'000; ++i) {
        std::string text;
        if (i % 2 == 0) {
            for (std::size_t n = 1 + below(7); n > 0; --n) text += tokens[below(tokens.size())];
            if (below(2) == 0) text = '"' + text + '"';
        } else {
            text = seeds[below(seeds.size())];
            for (std::size_t n = 1 + below(2); n > 0; --n) {
                const std::size_t at = below(text.size());
                switch (below(3)) {
                case 0: text.erase(at, 1 + below(2)); break;
                case 1: text.insert(at, tokens[below(tokens.size())]); break;
                default: text[at] = static_cast<char>(1 + below(255));
                }
                if (text.empty()) break;
            }
        }
        const bool ours = shop::is_jsonb(text);
        if (!ours && std::regex_search(text, exponent)) continue;
        ASSERT_EQ(ours, server_takes(server, text)) << text;
        taken += ours;
    }
    EXPECT_GT(taken, 1'000);
}

// Where we are stricter; the server takes some of these.
TEST(json, has_its_limits) {
    EXPECT_TRUE(shop::is_jsonb(std::string(32, '[') + std::string(32, ']')));
    EXPECT_FALSE(shop::is_jsonb(std::string(33, '[') + std::string(33, ']')));
    EXPECT_FALSE(shop::is_jsonb(std::string(1'000'000, '[')));
    EXPECT_TRUE(shop::is_jsonb(std::string(64, '9')));
    EXPECT_FALSE(shop::is_jsonb(std::string(65, '9')));
    EXPECT_TRUE(shop::is_jsonb("1e-999"));
    EXPECT_FALSE(shop::is_jsonb("1e-1000"));
    EXPECT_FALSE(shop::is_jsonb("0e1000"));
    EXPECT_FALSE(shop::is_jsonb("1\0"s));
    EXPECT_FALSE(shop::is_jsonb(""));
    test::session server;
    EXPECT_TRUE(server_takes(server, "[1e999, -1e-999, " + std::string(64, '9') + "]"));
}

TEST(json, reads_what_the_server_prints) {
    test::session server;
    const std::string printed =
        server.value(R"(SELECT '{"status": 201, "headers": {"Location": "/a\"b\\c", "X": "{,}"}, )"
                     R"("body": {"deep": [1, {"a": "]}"}, "\"", null], "last": true}}'::jsonb)");
    std::string all;
    shop::for_members(printed, [&](std::string_view name, std::string_view value) {
        ((all += name) += "=") += value;
        all += '\n';
        if (name == "headers")
            shop::for_members(value,
                              [&](std::string_view, std::string_view text) { all += shop::unquoted(text) + '\n'; });
    });
    EXPECT_EQ(all, "body={\"deep\": [1, {\"a\": \"]}\"}, \"\\\"\", null], \"last\": true}\n"
                   "status=201\n"
                   "headers={\"X\": \"{,}\", \"Location\": \"/a\\\"b\\\\c\"}\n{,}\n/a\"b\\c\n");
    for (const std::string empty : {"{}", "", "null", "[]"})
        shop::for_members(empty, [](std::string_view, std::string_view) { ADD_FAILURE(); });
    EXPECT_EQ(shop::string_member(R"({"reason": "second \"thoughts\" é"})", "reason"), "second \"thoughts\" é");
    for (const std::string without : {"{}", "3", R"({"reason": 3})", R"({"other": "x"})"})
        EXPECT_EQ(shop::string_member(without, "reason"), "");
}

TEST(cache, keeps_an_answer_to_the_very_request) {
    shop::cache cache{1 << 20};
    EXPECT_EQ(cache.find("acme", "k", "request"), nullptr);
    cache.keep("acme", "k", "request", "answer", later);
    ASSERT_NE(cache.find("acme", "k", "request"), nullptr);
    EXPECT_EQ(*cache.find("acme", "k", "request"), "answer");
    EXPECT_EQ(cache.find("acme", "k", "another"), nullptr);
    EXPECT_EQ(cache.find("evil", "k", "request"), nullptr);
    EXPECT_EQ(cache.find("acme", "k2", "request"), nullptr);
    cache.keep("acme", "k", "request", "answer", later); // two asked at a time
    EXPECT_EQ(*cache.find("acme", "k", "request"), "answer");
}

TEST(cache, forgets_in_time) {
    shop::cache cache{1 << 20};
    cache.keep("acme", "old", "r", "a", std::chrono::system_clock::now() - 1ms);
    EXPECT_EQ(cache.find("acme", "old", "r"), nullptr);
    EXPECT_EQ(cache.bytes(), 0U);
    cache.keep("acme", "k", "r", "a", std::chrono::system_clock::now() + 50ms);
    EXPECT_NE(cache.find("acme", "k", "r"), nullptr);
    std::this_thread::sleep_for(60ms);
    EXPECT_EQ(cache.find("acme", "k", "r"), nullptr);
    EXPECT_EQ(cache.bytes(), 0U);
}

TEST(cache, has_room_for_what_was_asked_for_last) {
    shop::cache cache{10'000};
    cache.keep("acme", "large", "r", std::string(10'000, 'x'), later);
    EXPECT_EQ(cache.bytes(), 0U);
    const std::string answer(500, 'x');
    for (int i = 0; i < 100; ++i) {
        cache.keep("acme", std::to_string(i), "r", answer, later);
        EXPECT_NE(cache.find("acme", "0", "r"), nullptr) << i; // and so it stays
        EXPECT_LE(cache.bytes(), 10'000U);
    }
    EXPECT_EQ(cache.find("acme", "1", "r"), nullptr);
    EXPECT_NE(cache.find("acme", "99", "r"), nullptr);
    EXPECT_GT(cache.bytes(), 8'000U);
    shop::cache none{0};
    none.keep("acme", "k", "r", "a", later);
    EXPECT_EQ(none.find("acme", "k", "r"), nullptr);
}

TEST(trace, is_made_where_there_is_none) {
    std::set<std::string> made;
    for (int i = 0; i < 1'000; ++i) {
        std::string trace;
        shop::take_traceparent(trace, "");
        std::string taken;
        shop::take_traceparent(taken, trace);
        EXPECT_EQ(taken, trace); // it is valid
        made.insert(std::string{shop::trace_id(trace)});
    }
    EXPECT_EQ(made.size(), 1'000U);
}
