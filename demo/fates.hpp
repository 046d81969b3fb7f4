// What becomes of an order besides being delivered: whether it is paid, and whether and when it is cancelled.
#pragma once

#include <cstdint>
#include <string_view>

namespace intake {

// By seed and invoice number alone, so that expected.sql can find the same by itself.
enum class fate {
    none,                 // credit notes, and most orders
    sold,                 // paid and confirmed
    cancelled_before,     // it arrives: it never lands
    cancelled_meanwhile,  // as its first delivery arrives: it never lands, or is undone
    cancelled_after,      // it was booked: it is undone
    cancelled_twice,      // at the same time, after it was booked: it is undone once
    cancelled_after_paid, // refused: a paid order stands
};

// A tenth of the orders is cancelled, three tenths are sold.
fate fate_of(std::string_view invoice_no, std::uint64_t seed);

} // namespace intake
