#include "deliveries.hpp"

#include <algorithm>
#include <random>
#include <utility>

namespace intake {

namespace {

constexpr double at_once = 1e-9; // by two workers at the same time

using timed = std::vector<std::pair<double, delivery>>;

// Payments and cancellations of a request whose first delivery is at `arrival`.
void add_errands(timed& to, std::size_t request, fate its, double arrival, std::mt19937_64& random) {
    using enum errand;
    const auto later = arrival + std::uniform_real_distribution{0.0, 0.3}(random);
    const auto beside = arrival + (random() % 2 ? at_once : -at_once) / 2;
    switch (its) {
    case fate::none: break;
    case fate::sold: to.push_back({later, {request, pay, deliver}}); break;
    case fate::cancelled_before: to.push_back({arrival, {request, cancel}}); break;
    case fate::cancelled_meanwhile: to.push_back({beside, {request, cancel}}); break;
    case fate::cancelled_after: to.push_back({later, {request, cancel, deliver}}); break;
    case fate::cancelled_twice:
        to.push_back({later, {request, cancel, deliver}});
        to.push_back({later, {request, cancel, deliver}});
        break;
    case fate::cancelled_after_paid:
        to.push_back({arrival, {request, pay, deliver}});
        to.push_back({later, {request, cancel, pay}});
        break;
    }
}

} // namespace

std::vector<delivery> plan(const std::vector<fate>& fates, std::uint64_t seed) {
    std::mt19937_64 random{seed}, errand_random{seed}; // two: the deliveries are the same, whatever the fates
    std::uniform_real_distribution<double> any{0, 1};
    timed all;
    for (std::size_t request = 0; request < fates.size(); ++request) {
        const auto copies = std::uniform_int_distribution{3, 6}(random);
        const auto changed = any(random) < 0.25 ? std::uniform_int_distribution{2, copies}(random) : 0;
        const auto burst = any(random) < 0.3;
        const auto arrival = any(random);
        add_errands(all, request, fates[request], arrival, errand_random);
        auto time = arrival;
        for (int copy = 1; copy <= copies; ++copy) {
            delivery each{request, errand::deliver};
            if (fates[request] == fate::cancelled_before) each.after = errand::cancel;
            if (copy == changed) each = {request, errand::deliver_changed, errand::deliver};
            all.push_back({time, each});
            time += burst ? at_once : 0.3 * any(random);
        }
    }
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<delivery> deliveries;
    for (const auto& [time, each] : all) deliveries.push_back(each);
    return deliveries;
}

mailbox::mailbox(const std::vector<delivery>& plan, std::size_t requests)
    : waiting_{plan.begin(), plan.end()},
      acknowledged_(requests) {}

std::optional<delivery> mailbox::next() {
    std::unique_lock lock{guard_};
    for (;; changed_.wait(lock)) {
        if (stopped_ || waiting_.empty()) return {};
        const auto due = std::find_if(waiting_.begin(), waiting_.end(), [&](const delivery& d) {
            return !d.after || acknowledged_[d.request][static_cast<std::size_t>(*d.after)];
        });
        if (due == waiting_.end()) continue;
        const auto taken = *due;
        waiting_.erase(due);
        if (waiting_.empty()) changed_.notify_all();
        return taken;
    }
}

void mailbox::acknowledge(const delivery& d) {
    const std::lock_guard lock{guard_};
    acknowledged_[d.request][static_cast<std::size_t>(d.what)] = true;
    changed_.notify_all();
}

void mailbox::stop() {
    const std::lock_guard lock{guard_};
    stopped_ = true;
    changed_.notify_all();
}

} // namespace intake
