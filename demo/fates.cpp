#include "fates.hpp"

#include <array>
#include <string>

namespace intake {

namespace {

// FNV-1a, 32 bits.
std::uint32_t hash(std::string_view text) {
    std::uint32_t h = 2'166'136'261;
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 16'777'619;
    return h;
}

} // namespace

fate fate_of(std::string_view invoice_no, std::uint64_t seed) {
    static constexpr std::array cancelled{fate::cancelled_before, fate::cancelled_meanwhile, fate::cancelled_after,
                                          fate::cancelled_twice, fate::cancelled_after_paid};
    if (invoice_no.starts_with('C')) return fate::none; // a credit note
    const auto lot = hash(std::to_string(seed).append("/").append(invoice_no));
    if (lot % 10 == 0) return cancelled[lot / 10 % cancelled.size()];
    return lot % 10 <= 3 ? fate::sold : fate::none;
}

} // namespace intake
