#include "history.hpp"

#include <algorithm>
#include <array>

namespace fault {

std::string_view to_string(intent i) noexcept {
    static constexpr std::array<std::string_view, 4> names{"honest", "changed", "throws", "releases"};
    return names[static_cast<std::size_t>(i)];
}

std::string_view to_string(answer a) noexcept {
    static constexpr std::array<std::string_view, 8> names{"executed",  "replayed", "in_progress", "mismatch",
                                                           "cancelled", "threw",    "released",    "error"};
    return names[static_cast<std::size_t>(a)];
}

void write(std::ostream& to, const history& all) {
    to << "number\tkey\tamount\tintent\tttl\tflushed\tlast\tasked_at\tanswered_at\tanswer\tattempts\tin_doubt\ttext\n";
    for (const operation& o : all) {
        std::string text = o.text;
        std::replace_if(
            text.begin(), text.end(), [](char c) { return c == '\t' || c == '\n'; }, ' ');
        to << o.number << '\t' << o.key << '\t' << o.amount << '\t' << to_string(o.intent) << '\t' << o.ttl << '\t'
           << o.flushed << '\t' << o.last << '\t' << o.asked_at << '\t' << o.answered_at << '\t' << to_string(o.answer)
           << '\t' << o.attempts << '\t' << o.in_doubt << '\t' << text << '\n';
    }
}

} // namespace fault
