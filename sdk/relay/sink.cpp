#include "sink.hpp"

#include "nats_sink.hpp"
#include "stdout_sink.hpp"

#include <string_view>

namespace idem::relay {

sinks open_sinks(const std::string& url, [[maybe_unused]] const std::string& consumer) {
    const auto colon = url.find("://");
    const std::string scheme = colon == std::string::npos ? "" : url.substr(0, colon);
    if (scheme == "stdout") {
        if (url != "stdout://") throw bad_url{"stdout:// has nothing after it"};
        return stdout_sinks();
    }
    if (scheme == "nats" || scheme == "tls") {
#ifdef IDEM_RELAY_NATS
        return nats_sinks(url, consumer);
#else
        throw bad_url{"idem-relay was built without libnats"};
#endif
    }
    throw bad_url{scheme.empty() ? "it is not of the form scheme://…" : "there is no sink \"" + scheme + "://\""};
}

} // namespace idem::relay
