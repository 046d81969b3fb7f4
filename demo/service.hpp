// The shop: it books orders and credit notes. Its two front doors differ in nothing but idem.
//
// Over plain libpq, so that both share the booking and the demo needs one package less; over libpqxx (idem/pqxx.hpp)
// book would get a pqxx::transaction_base& and the rest would stay as it is.
#pragma once

#include "requests.hpp"

#include <idem/run.hpp>

#include <atomic>
#include <cstddef>
#include <optional>
#include <string>

namespace intake {

extern std::atomic<bool> interrupted; // by Ctrl-C: no new try begins

// What one worker has seen, or all of them together.
struct tally {
    std::size_t executed = 0, replayed = 0, in_progress = 0, mismatches = 0, in_doubt = 0, resolved = 0;
    tally& operator+=(const tally&);
};

// Each tries until there is an answer, which it returns; none if the request is refused, or interrupted.
std::optional<std::string> without_idem(idem::client&, const request&, tally&);
std::optional<std::string> with_idem(idem::client&, const request&, tally&, const std::string& scope);

} // namespace intake
