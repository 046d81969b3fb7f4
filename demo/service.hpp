// The shop: it books orders and credit notes, takes payments and cancels. Its two front doors differ in nothing but
// idem; the one without knows only how to book.
//
// Over plain libpq, so that both share the booking and the demo needs one package less; over libpqxx (idem/pqxx.hpp)
// book would get a pqxx::transaction_base& and the rest would stay as it is.
#pragma once

#include "requests.hpp"

#include <idem/compensate.hpp>
#include <idem/run.hpp>

#include <atomic>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace intake {

extern std::atomic<bool> interrupted; // by Ctrl-C: no new try begins

// What a client was told who cancelled an order.
struct told {
    std::string invoice_no;
    idem::cancel_status status;
    std::string response;
};

// What one worker has seen, or all of them together.
struct tally {
    std::size_t executed = 0, replayed = 0, in_progress = 0, mismatches = 0, turned_away = 0, in_doubt = 0,
                resolved = 0, paid = 0;
    std::vector<told> cancellations{};
    tally& operator+=(const tally&);
};

// Each tries until there is an answer, which it returns; none if the request is refused, or interrupted.
std::optional<std::string> without_idem(idem::client&, const request&, tally&);

class shop {
public:
    explicit shop(std::string scope) : scope_{std::move(scope)} {}

    std::optional<std::string> book(idem::client&, const request&, tally&) const;
    // An order that was booked; once it is `sold`, there is no way back.
    void pay(idem::client&, const request&, bool sold, tally&) const;
    void cancel(idem::client&, const request&, tally&) const;

private:
    std::string scope_;
};

} // namespace intake
