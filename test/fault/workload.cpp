#include "workload.hpp"

namespace fault {

namespace {
constexpr std::size_t recurring = 30, open_at_once = 16;
}

workload::workload(std::uint64_t seed) : random_{seed} {
    for (std::size_t i = 0; i < recurring; ++i) add("again", brief);
    for (std::size_t i = 0; i < open_at_once; ++i) open_.push_back(open());
}

std::size_t workload::add(const char* kind, microseconds ttl) {
    const auto amount = std::uniform_int_distribution<std::int64_t>{1, 100'000}(random_);
    states_.push_back({{std::string{kind} + '-' + std::to_string(states_.size()), amount, ttl}});
    return states_.size() - 1;
}

workload::open_order workload::open() {
    const bool is_brief = dice() < 0.3;
    return {add(is_brief ? "brief" : "order", is_brief ? brief : lasting),
            std::uniform_int_distribution{2, 5}(random_)};
}

delivery workload::next() {
    const std::lock_guard lock{guard_};
    const double what = dice();
    if (dice() < 0.2) {
        const auto which = std::uniform_int_distribution<std::size_t>{0, recurring - 1}(random_);
        return {which, what < 0.1 ? intent::throws : what < 0.2 ? intent::releases : intent::honest};
    }
    auto& slot = open_[std::uniform_int_distribution<std::size_t>{0, open_at_once - 1}(random_)];
    const auto which = slot.request;
    if (what < 0.08) return {which, intent::throws};
    if (what < 0.16) return {which, intent::releases};
    if (what < 0.30 && states_[which].acknowledged && states_[which].request.ttl == lasting)
        return {which, intent::changed};
    if (--slot.deliveries == 0) slot = open();
    return {which, intent::honest};
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
