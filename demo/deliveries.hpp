// Clients that retry: which request is delivered when, how often, and by which of the workers.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <vector>

namespace intake {

struct delivery {
    std::size_t request;
    bool changed; // under the right key, but with another body
};

// Every request 3 to 6 times, shuffled: some copies in one burst, the others spread widely. Every fourth request or so
// has a changed body in one of its later copies.
std::vector<delivery> plan(std::size_t requests, std::uint64_t seed);

// Hands the plan out to many workers. Whoever comes first with a key is right, so a changed body is held back until
// an unchanged delivery of its request was acknowledged.
class mailbox {
public:
    mailbox(const std::vector<delivery>& plan, std::size_t requests);

    std::optional<delivery> next(); // waits if it must; none: all delivered, or stopped
    void acknowledge(const delivery&);
    void stop();

private:
    std::mutex guard_;
    std::condition_variable changed_;
    std::list<delivery> waiting_;
    std::vector<bool> acknowledged_;
    bool stopped_ = false;
};

} // namespace intake
