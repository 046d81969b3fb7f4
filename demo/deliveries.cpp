#include "deliveries.hpp"

#include <algorithm>
#include <random>
#include <utility>

namespace intake {

std::vector<delivery> plan(std::size_t requests, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    std::uniform_real_distribution<double> any{0, 1};
    std::vector<std::pair<double, delivery>> timed;
    for (std::size_t request = 0; request < requests; ++request) {
        const auto copies = std::uniform_int_distribution{3, 6}(random);
        const auto changed = any(random) < 0.25 ? std::uniform_int_distribution{2, copies}(random) : 0;
        const auto burst = any(random) < 0.3;
        auto time = any(random);
        for (int copy = 1; copy <= copies; ++copy) {
            timed.push_back({time, {request, copy == changed}});
            time += burst ? 1e-9 : 0.3 * any(random);
        }
    }
    std::stable_sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<delivery> deliveries;
    for (const auto& [time, each] : timed) deliveries.push_back(each);
    return deliveries;
}

mailbox::mailbox(const std::vector<delivery>& plan, std::size_t requests)
    : waiting_{plan.begin(), plan.end()},
      acknowledged_(requests) {}

std::optional<delivery> mailbox::next() {
    std::unique_lock lock{guard_};
    for (;; changed_.wait(lock)) {
        if (stopped_ || waiting_.empty()) return {};
        const auto due = std::find_if(waiting_.begin(), waiting_.end(),
                                      [&](const delivery& d) { return !d.changed || acknowledged_[d.request]; });
        if (due == waiting_.end()) continue;
        const auto taken = *due;
        waiting_.erase(due);
        if (waiting_.empty()) changed_.notify_all();
        return taken;
    }
}

void mailbox::acknowledge(const delivery& d) {
    const std::lock_guard lock{guard_};
    acknowledged_[d.request] = true;
    changed_.notify_all();
}

void mailbox::stop() {
    const std::lock_guard lock{guard_};
    stopped_ = true;
    changed_.notify_all();
}

} // namespace intake
