// Ten thousand clients in one thread: each has a connection, which it keeps, and a request in hand at a time. It sends
// that again, with the same key, until it has an answer: after a 503 or a 409 with Retry-After, after a cut and after
// silence, for 30 seconds. Some requests were sent before, by another client perhaps, and answered: then the answer
// must be the same, byte for byte.
#pragma once

#include "histogram.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace shop {

struct swarm_options {
    int port = 8080; // on 127.0.0.1
    int connections = 10'000;
    double rate = 0;            // requests per second, however fast they are answered; 0: each client sends as soon as
                                // it has its answer
    double seconds = 0;         // ends after that, or
    std::uint64_t requests = 0; // after so many
    double warm_up = 0;         // seconds before latencies count
    double retry_share = 0.3;   // of all requests, those with a key that was sent before
    std::uint64_t seed = 1;
    std::vector<std::string> api_keys{};
    std::string keys{}; // what all keys begin with
};

struct swarm_report {
    std::uint64_t requests = 0, repeats = 0;    // begun; those with a key that was sent before
    std::uint64_t answered = 0, unanswered = 0; // within 30 s
    std::uint64_t orders = 0, acknowledged = 0; // different keys sent; of these answered with 201
    std::uint64_t tries = 0, cuts = 0, silences = 0, unavailable = 0, in_progress = 0;
    std::uint64_t wrong_replays = 0;       // unlike the first answer
    std::uint64_t executed_twice = 0;      // two answers without Idempotency-Replayed for one key
    std::uint64_t unmarked_replays = 0;    // the first answer was there before it was sent, and yet
    std::map<int, std::uint64_t> others{}; // answers with any other status, which are final
    std::vector<std::string> samples{};    // of what is wrong
    double seconds_unavailable = 0;        // in which there was a 503, by tenths
    double measured = 0;                   // seconds, in which
    std::uint64_t measured_answers = 0;
    histogram first{}, repeated{}, all{}; // from when it was due to its last answer
    std::vector<bool> is_acknowledged{};  // by number of the order
};

class swarm {
public:
    explicit swarm(const swarm_options&);
    ~swarm();
    swarm(const swarm&) = delete;
    swarm& operator=(const swarm&) = delete;

    // Connects all clients, calls `ready`, and does the work; calls `every_second` with the seconds since and what has
    // come of it so far. Ends early when `stop` says so.
    void run(const std::function<void()>& ready, const std::function<void(double, const swarm_report&)>& every_second,
             const std::function<bool()>& stop);

    [[nodiscard]] const swarm_report& report() const noexcept;

private:
    struct inside;
    std::unique_ptr<inside> inside_;
};

// What an order of that number is, as JSON; the same each time.
void append_order(std::string& to, std::uint64_t number, std::uint64_t seed);
// What it is worth.
std::int64_t pence_of_order(std::uint64_t number, std::uint64_t seed);

} // namespace shop
