// Where a NATS sink delivers:
// nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT][,HOST[:PORT]…][/STREAM][?subject=PREFIX&creds=FILE], and the same as
// tls://…
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace idem::relay {

struct nats_url {
    bool tls = false;
    std::vector<std::string> servers{};                     // nats://HOST:PORT
    std::string user{}, password{}, token{}, credentials{}; // empty: none; credentials is a file's name
    std::string stream = "idem";
    std::string prefix{}; // of subjects; by default the stream's name

    // For people: without secrets.
    [[nodiscard]] std::string shown() const;
};

// Throws bad_url.
nats_url parse_nats_url(std::string_view url);

// PREFIX.TOPIC. A topic's dots divide it as NATS does; what a subject cannot hold (* > white space, empty parts) is
// percent-encoded, and so is %.
std::string nats_subject(std::string_view prefix, std::string_view topic);

// A header's value: control characters, blanks at either end and % are percent-encoded.
std::string nats_header(std::string_view value);

} // namespace idem::relay
