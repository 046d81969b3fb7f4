// libFuzzer: what the relay reads of its URL and makes of topics and headers is either refused or fit for NATS.
#include "nats_url.hpp"
#include "sink.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace {

void must(bool holds) {
    if (!holds) std::abort();
}

bool control(char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }

bool is_subject(std::string_view text) {
    return !text.empty() && text.front() != '.' && text.back() != '.' && text.find("..") == std::string_view::npos &&
           text.find_first_of("*> ") == std::string_view::npos && std::ranges::none_of(text, control);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace idem::relay;
    const std::string text{reinterpret_cast<const char*>(data), size};
    must(text.empty() || is_subject(nats_subject("idem", text)));
    const std::string header = nats_header(text);
    must(std::ranges::none_of(header, control) && !header.starts_with(' ') && !header.ends_with(' '));
    try {
        const nats_url url = parse_nats_url((size % 2 == 0 ? "nats://" : "tls://user:untold@") + text);
        must(!url.servers.empty() && is_subject(url.prefix) && is_subject(url.stream));
        must(text.find("untold") != std::string::npos || url.shown().find("untold") == std::string::npos);
    } catch (const bad_url&) {}
    return 0;
}
