// Clients that retry: what is sent when, how often, and by which of the workers.
#pragma once

#include "fates.hpp"

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <vector>

namespace intake {

enum class errand {
    deliver,
    deliver_changed, // under the right key, but with another body
    pay,
    cancel
};
constexpr std::size_t errands = 4;

struct delivery {
    std::size_t request;
    errand what;
    std::optional<errand> after{}; // held back until such a one for the same request was acknowledged
};

// Every request 3 to 6 times, shuffled: some copies in one burst, the others spread widely. Every fourth request or so
// has a changed body in one of its later copies; whoever comes first with a key is right, so that one is held back.
// In between, what the requests' fates ask for: payments and cancellations.
std::vector<delivery> plan(const std::vector<fate>& fates, std::uint64_t seed);

// Hands the plan out to many workers.
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
    std::vector<std::array<bool, errands>> acknowledged_; // by request
    bool stopped_ = false;
};

} // namespace intake
