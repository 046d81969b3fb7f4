// Latencies in microseconds, to within 1.6 % each, in 20 kB.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace shop {

class histogram {
public:
    void add(std::int64_t microseconds) {
        const auto value =
            static_cast<std::uint64_t>(std::clamp<std::int64_t>(microseconds, 0, (std::int64_t{1} << most_bits) - 1));
        ++counts_[place(value)];
        ++count_;
        max_ = std::max(max_, value);
    }

    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint64_t max() const noexcept { return max_; }

    // Not more than this for so large a share of all: at(0.99) is the p99.
    [[nodiscard]] std::uint64_t at(double share) const {
        const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(count_));
        std::uint64_t seen = 0;
        for (std::size_t i = 0; i < counts_.size(); ++i)
            if ((seen += counts_[i]) > wanted) return std::min(end_of(i), max_);
        return max_;
    }

private:
    // Up to 127 a place for each value, and then 64 for each power of two.
    static constexpr int most_bits = 40;
    static constexpr std::size_t place(std::uint64_t value) {
        if (value < 128) return value;
        const auto shift = static_cast<std::size_t>(std::bit_width(value)) - 7;
        return shift * 64 + (value >> shift);
    }
    static constexpr std::uint64_t end_of(std::size_t i) {
        if (i < 128) return i;
        const auto shift = i / 64 - 1;
        return ((i % 64 + 65) << shift) - 1;
    }

    std::array<std::uint64_t, (most_bits - 7) * 64 + 128> counts_{};
    std::uint64_t count_ = 0, max_ = 0;
};

} // namespace shop
