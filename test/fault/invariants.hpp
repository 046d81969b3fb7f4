// What must be true of the tables in the end, of messages and of sagas: SQL that finds what is not.
#pragma once

#include <string>
#include <vector>

namespace fault {

struct invariant {
    std::string text;                  // in a few words
    std::vector<std::string> broken{}; // what was found
};

class insistent;

// `here` has the shop's tables, `there` is where the relay delivers.
[[nodiscard]] std::vector<invariant> check_messages_and_sagas(insistent& here, insistent& there);

} // namespace fault
