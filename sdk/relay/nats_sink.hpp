// nats://, tls://: a stream of NATS JetStream; nats_url.hpp has the form.
#pragma once

#include "sink.hpp"

namespace idem::relay {

// Throws bad_url.
sinks nats_sinks(const std::string& url, const std::string& consumer);

} // namespace idem::relay
