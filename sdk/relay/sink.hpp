// sink: the other side, where idem-relay delivers. A new kind is a class derived from this one, and a line in
// open_sinks (sink.cpp) for the scheme of its URLs; docs/relay.md has one for Kafka.
#pragma once

#include <idem/consumer.hpp>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

namespace idem::relay {

// The other side is out of reach, for now: everything is tried again, for as long as it takes. Any other exception ends
// the relay.
class away : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// A message that the other side would never take.
struct refusal {
    std::size_t index; // in the batch
    std::string why;   // kept with the message: idem_dead_letters
};

// There is one for each lane, used by one thread.
class sink {
public:
    sink() = default;
    sink(const sink&) = delete;
    sink& operator=(const sink&) = delete;
    virtual ~sink() = default;

    // Returns when the other side can be reached. Called before the first delivery, after each that threw, and now and
    // then.
    virtual void connect() {}

    // Delivers them in this order, and returns when all are safe; they are acknowledged then. Of one that is refused,
    // those before it are safe, and those after it will come again, whether they were sent or not. After an exception
    // all come again. Whatever comes again has the same lane, seq, source and message_id as before.
    //
    // A batch is never empty; consumer, lane and source are the same in all of it. A tombstone has a seq and no
    // payload.
    [[nodiscard]] virtual std::optional<refusal> deliver(std::span<const message> batch) = 0;

    // How long deliver may take at most. When a relay's machine dies, its lanes wait so long for another one.
    [[nodiscard]] virtual std::chrono::milliseconds patience() const { return std::chrono::seconds{30}; }
};

using sinks = std::function<std::unique_ptr<sink>()>;

class bad_url : public std::invalid_argument {
public:
    using std::invalid_argument::invalid_argument;
};

// What makes the sinks of a URL, for the messages of `consumer`; they may share what they like. Connects to nothing
// yet. Throws bad_url.
sinks open_sinks(const std::string& url, const std::string& consumer);

} // namespace idem::relay
