#include "support.hpp"

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace {

std::string read(const std::string& path) {
    std::ifstream file{std::string{IDEM_SOURCE_DIR} + path};
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
}

// All matches of `pattern`, each with its groups joined.
std::set<std::string> matches(const std::string& text, const std::string& pattern) {
    std::set<std::string> found;
    const std::regex expression{pattern};
    for (auto match = std::sregex_iterator{text.begin(), text.end(), expression}; match != std::sregex_iterator{};
         ++match) {
        std::string joined;
        for (std::size_t group = 1; group < match->size(); ++group) joined += (*match)[group].str();
        found.insert(joined);
    }
    return found;
}

} // namespace

TEST(errors, both_lists_of_the_private_class_agree) {
    const auto extension =
        matches(read("/extension/src/errors.h"), "MAKE_SQLSTATE\\('(.)', *'(.)', *'(.)', *'(.)', *'(.)'\\)");
    const auto sdk = matches(read("/sdk/include/idem/errors.hpp"), "= \"(ID...)\"");
    EXPECT_EQ(extension, sdk);
    EXPECT_FALSE(sdk.empty());
}

TEST(errors, carry_a_sqlstate) {
    const idem::error failure{"a message", idem::sqlstate::in_doubt};
    EXPECT_EQ(failure.sqlstate(), "08007");
    EXPECT_STREQ(failure.what(), "a message");
}
