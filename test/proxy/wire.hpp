// Just enough of PostgreSQL's frontend/backend protocol to see messages go by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace idem::test::wire {

// Requests a client may send before (or instead of) its startup packet.
constexpr std::uint32_t cancel_request = 80877102, ssl_request = 80877103, gssenc_request = 80877104;

// Length of the first whole message in `bytes`, 0 if it is not all there yet. Typed messages are a letter, a length
// and a body; the packets that open a connection have no letter.
std::size_t message_length(std::string_view bytes, bool typed);

// The code of an opening packet: one of the requests above, or the protocol version.
std::uint32_t startup_code(std::string_view packet);

// Does this SQL text end in COMMIT (or END), alone or after other statements?
bool ends_in_commit(std::string_view sql);

// The text of a simple Query message.
std::string_view query_text(std::string_view message);

// Parse names a statement and gives its text; Bind names the statement that it binds.
struct parsed {
    std::string_view name, text;
};
parsed parse_message(std::string_view message);
std::string_view bound_statement(std::string_view message);

// Is this server message CommandComplete with the tag COMMIT?
bool is_commit_complete(std::string_view message);

} // namespace idem::test::wire
