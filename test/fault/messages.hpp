// Who gets the messages, each in a process of its own, so that it can be killed: two kinds of internal consumers, one
// of the states' topic, and a relay to another database.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace fault {

// Their tables and functions, here and where the relay delivers.
extern const char* const messages_schema;
extern const char* const receiver_schema;

constexpr std::array<std::string_view, 4> consumers{"sales", "audit", "history", "relay"};

// A consumer's process, until SIGTERM. `seeded` is a bug that the checker must find: "" or
//   lost         the auditor acks without having worked, one batch in ten
//   undelivered  the relay acks batches, one in seven, that it has not delivered
int consume(std::string_view name, const std::string& conninfo, std::string_view seeded);

} // namespace fault
