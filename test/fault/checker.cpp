#include "checker.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <unordered_map>

namespace fault {

namespace {

// All that is known of one key.
struct story {
    std::vector<const operation*> operations{};
    std::vector<const effect*> effects{}; // by time
    std::vector<const stored_key*> stored{};

    [[nodiscard]] microseconds ttl() const { return operations.empty() ? 0 : operations.front()->ttl; }

    [[nodiscard]] const effect* with_response(const std::string& text) const {
        const auto found =
            std::find_if(effects.begin(), effects.end(), [&](const effect* e) { return e->response == text; });
        return found == effects.end() ? nullptr : *found;
    }
};

std::string by(const operation& o) {
    return "operation " + std::to_string(o.number) + " (" + std::string{to_string(o.intent)} + ", " +
           std::string{to_string(o.answer)} + ")";
}
std::string of(const effect& e) {
    return "order " + std::to_string(e.order) + " of operation " + std::to_string(e.operation);
}

class judge {
public:
    judge(const history& all, const tables& end) : history_{all}, tables_{end} {
        for (const operation& o : all) stories_[o.key].operations.push_back(&o), numbered_[o.number] = &o;
        for (const effect& e : end.effects) stories_[e.key].effects.push_back(&e);
        for (const stored_key& k : end.keys) stories_[k.key].stored.push_back(&k);
        for (auto& [key, s] : stories_)
            std::stable_sort(s.effects.begin(), s.effects.end(),
                             [](const effect* a, const effect* b) { return a->at < b->at; });
    }

    std::vector<violation> judgement() {
        for (const auto& [key, s] : stories_) {
            key_ = key;
            once(s), kept(s), not_again(s), stored(s), refused(s), nothing_left(s), explained(s), answered(s);
        }
        key_.clear();
        money();
        for (const std::string& each : tables_.findings) object(rule::verified, each);
        return std::move(violations_);
    }

private:
    void object(rule broken, std::string what) { violations_.push_back({broken, key_, std::move(what)}); }

    // A key may run anew only when its ttl is over, which counts from after the work.
    void once(const story& s) {
        for (std::size_t i = 1; i < s.effects.size(); ++i) {
            const effect &first = *s.effects[i - 1], &second = *s.effects[i];
            if (second.at - first.at < s.ttl())
                object(rule::once, of(first) + " and " + of(second) + ", " + std::to_string(second.at - first.at) +
                                       " microseconds apart");
        }
    }

    // What a caller was told is what happened, byte for byte, and who did it. All answers being equal follows.
    void kept(const story& s) {
        for (const operation* o : s.operations) {
            if (!o->acknowledged()) continue;
            const effect* const its = s.with_response(o->text);
            if (its == nullptr)
                object(rule::kept, by(*o) + " was told " + o->text + ", " +
                                       (s.effects.empty() ? "and there is no order" : "which is no order's response"));
            else if ((its->operation == o->number) != (o->answer == answer::executed))
                object(rule::whose, by(*o) + " was told of " + of(*its));
        }
    }

    // Of a key that was acknowledged, no work begins as long as it lives.
    void not_again(const story& s) {
        for (const effect* e : s.effects) {
            auto known_at = std::numeric_limits<microseconds>::max();
            for (const operation* o : s.operations)
                if (o->acknowledged() && o->text == e->response) known_at = std::min(known_at, o->answered_at);
            for (const operation* o : s.operations)
                if (o->attempts > 0 && o->asked_at > known_at && o->answered_at < e->at + o->ttl)
                    object(rule::not_again, by(*o) + " began though " + of(*e) + " had been acknowledged");
        }
    }

    void stored(const story& s) {
        if (s.stored.size() > 1) object(rule::stored, "stored " + std::to_string(s.stored.size()) + " times");
        if (s.effects.empty()) {
            if (!s.stored.empty()) object(rule::stored, "stored without an order: " + s.stored.front()->response);
            return;
        }
        const effect& newest = *s.effects.back();
        if (s.stored.empty()) {
            if (newest.at + s.ttl() > tables_.read_at) object(rule::stored, of(newest) + " has no stored key");
        } else if (s.stored.front()->response != newest.response) {
            object(rule::stored, of(newest) + " should have left " + newest.response + ", but stored is " +
                                     s.stored.front()->response);
        }
    }

    void refused(const story& s) {
        for (const operation* o : s.operations) {
            const bool changed = o->intent == intent::changed;
            if (o->answer == answer::mismatch) {
                if (!changed)
                    object(rule::refused, by(*o) + ", though its body was not changed");
                else if (s.effects.empty() || s.effects.front()->at > o->answered_at)
                    object(rule::refused, by(*o) + ", though nothing was stored that it could differ from");
            } else if (changed && (o->attempts > 0 || o->answer == answer::executed || o->answer == answer::replayed)) {
                object(rule::refused, by(*o) + ": a changed body was accepted");
            }
        }
    }

    void nothing_left(const story& s) {
        for (const effect* e : s.effects) {
            const auto found = numbered_.find(e->operation);
            if (found == numbered_.end() || found->second->key != e->key) {
                object(rule::nothing_left, of(*e) + " was asked for by nobody");
                continue;
            }
            const operation& o = *found->second;
            if (o.intent != intent::honest)
                object(rule::nothing_left, of(*e) + " was left by " + by(o));
            else if (e->amount != o.amount || e->entries != 1 || e->booked != o.amount)
                object(rule::whole, of(*e) + " is over " + std::to_string(e->amount) + " with " +
                                        std::to_string(e->entries) + " ledger entries over " +
                                        std::to_string(e->booked) + ", asked for was " + std::to_string(o.amount));
        }
    }

    void money() {
        const auto orders = std::accumulate(tables_.effects.begin(), tables_.effects.end(), std::int64_t{0},
                                            [](std::int64_t sum, const effect& e) { return sum + e.amount; });
        if (orders != tables_.ledger || orders != tables_.balance)
            object(rule::money, "orders sum up to " + std::to_string(orders) + ", the ledger to " +
                                    std::to_string(tables_.ledger) + ", the accounts to " +
                                    std::to_string(tables_.balance));
    }

    // Lost connections (08), a server that goes away or comes back (57P0n), a full disk (53100), a transaction idle for
    // too long (25P03), and what asks for a retry.
    void explained(const story& s) {
        const auto because_of_a_fault = [](const std::string& text) {
            return text.starts_with("08") || text.starts_with("57P0") || text.starts_with("53100") ||
                   text.starts_with("25P03") || text.starts_with("40001") || text.starts_with("40P01");
        };
        for (const operation* o : s.operations)
            if (o->answer == answer::cancelled || (o->answer == answer::error && !because_of_a_fault(o->text)) ||
                (o->answer == answer::threw && o->intent != intent::throws) ||
                (o->answer == answer::released && o->intent != intent::releases))
                object(rule::explained, by(*o) + ": " + o->text);
    }

    void answered(const story& s) {
        const auto insisted = [](const operation* o) { return o->last; };
        const auto ended = [](const operation* o) { return o->last && o->acknowledged(); };
        if (std::any_of(s.operations.begin(), s.operations.end(), insisted) &&
            std::none_of(s.operations.begin(), s.operations.end(), ended))
            object(rule::answered, "asked until the end and never answered");
    }

    const history& history_;
    const tables& tables_;
    std::map<std::string, story> stories_{};
    std::unordered_map<std::size_t, const operation*> numbered_{};
    std::string key_{};
    std::vector<violation> violations_{};
};

} // namespace

std::string_view to_string(rule r) noexcept {
    static constexpr std::array<std::string_view, rules> texts{
        "a living key has one effect at most",
        "who was acknowledged has his effect, and was told its response byte for byte",
        "executed is told to who did the work, replayed to all others",
        "once acknowledged, no work of a living key begins again",
        "a key is stored if and only if its effect is, with its effect's response",
        "a changed body is refused, and nothing else is",
        "what threw, released its key or was refused left nothing",
        "each effect is whole, and over the amount asked for",
        "orders, ledger and accounts have the same sum",
        "every error is one that the faults explain",
        "who asked until answered was answered",
        "the database's self-check finds nothing"};
    return texts[static_cast<std::size_t>(r)];
}

std::vector<violation> check(const history& all, const tables& end) { return judge{all, end}.judgement(); }

} // namespace fault
