#include "workload.hpp"

#include <array>

namespace fault {

namespace {
constexpr std::size_t recurring = 30, open_at_once = 24, bulk_at_once = 800;
}

workload::workload(std::uint64_t seed) : random_{seed} {
    for (std::size_t i = 0; i < recurring; ++i) add(kind::recurring);
    for (std::size_t i = 0; i < open_at_once; ++i) open_.push_back(open());
    for (std::size_t i = 0; i < bulk_at_once; ++i) bulk_.push_back(open_bulk());
}

std::size_t workload::add(kind k) {
    static constexpr std::array<const char*, 5> names{"again-", "brief-", "order-", "lease-", "bulk-"};
    const auto amount = std::uniform_int_distribution<std::int64_t>{1, 100'000}(random_);
    states_.push_back({{names[static_cast<std::size_t>(k)] + std::to_string(states_.size()), amount,
                        k == kind::recurring || k == kind::fleeting ? brief : lasting, k}});
    return states_.size() - 1;
}

workload::open_order workload::open() {
    const double what = dice();
    return {add(what < 0.3    ? kind::fleeting
                : what < 0.45 ? kind::leased
                              : kind::ordinary),
            std::uniform_int_distribution{2, 5}(random_)};
}

workload::open_order workload::open_bulk() { return {add(kind::bulk), std::uniform_int_distribution{3, 7}(random_)}; }

delivery workload::next() {
    const std::lock_guard lock{guard_};
    if (dice() < 0.2) {
        const double what = dice();
        const auto which = std::uniform_int_distribution<std::size_t>{0, recurring - 1}(random_);
        return {which, what < 0.1 ? intent::throws : what < 0.2 ? intent::releases : intent::honest};
    }
    auto& slot = open_[std::uniform_int_distribution<std::size_t>{0, open_at_once - 1}(random_)];
    const auto d = of(slot);
    if (slot.deliveries == 0) slot = open();
    return d;
}

std::vector<delivery> workload::next_many(std::size_t n) {
    const std::lock_guard lock{guard_};
    std::vector<delivery> all;
    const auto first = std::uniform_int_distribution<std::size_t>{0, bulk_at_once - 1}(random_);
    for (std::size_t i = 0; i < n; ++i) {
        auto& slot = bulk_[(first + i) % bulk_at_once];
        auto d = of(slot);
        if (d.intent == intent::releases) d.intent = intent::honest; // a handler cannot
        all.push_back(d);
        if (slot.deliveries <= 0) slot = open_bulk();
    }
    return all;
}

delivery workload::of(open_order& slot) {
    const double what = dice();
    const state& s = states_[slot.request];
    if (what < 0.08) return {slot.request, intent::throws};
    if (what < 0.16) return {slot.request, intent::releases};
    if (what < 0.30 && s.acknowledged && s.request.ttl == lasting) return {slot.request, intent::changed};
    --slot.deliveries;
    return {slot.request, intent::honest};
}

void workload::acknowledge(std::size_t which) {
    const std::lock_guard lock{guard_};
    states_[which].acknowledged = true;
}

request workload::at(std::size_t which) const {
    const std::lock_guard lock{guard_};
    return states_[which].request;
}

std::vector<std::size_t> workload::remaining() const {
    const std::lock_guard lock{guard_};
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < states_.size(); ++i)
        if (states_[i].request.ttl == lasting || !states_[i].acknowledged) all.push_back(i);
    return all;
}

} // namespace fault
