#include "service.hpp"

#include <idem/publish.hpp>
#include <idem/transition.hpp>

#include <chrono>
#include <stdexcept>
#include <thread>
#include <utility>

namespace intake {

std::atomic<bool> interrupted{false};

namespace {

using namespace std::chrono_literals;

constexpr auto patience = 1s; // with a server that says nothing

// Books an order, with its money, or a credit note, and returns the response.
std::string insert(idem::transaction& tx, const request& r) {
    const std::string table = r.is_credit_note() ? "credit_note" : "order";
    const auto total = std::to_string(r.total_pence());
    const auto inserted = tx.exec("INSERT INTO " + table +
                                      "s (invoice_no, customer_id, country, placed_at, total_pence) "
                                      "VALUES ($1, nullif($2, ''), $3, $4, $5) RETURNING id",
                                  {r.invoice_no, r.customer_id, r.country, r.placed_at, total});
    const std::string id{inserted.text(0, 0)};
    tx.exec("INSERT INTO " + table +
                "_lines SELECT $1::bigint, line_no, stock_code, description, quantity, unit_pence "
                "FROM ROWS FROM (jsonb_to_recordset($2::jsonb->'lines') "
                "AS (stock_code text, description text, quantity int, unit_pence bigint)) "
                "WITH ORDINALITY AS l (stock_code, description, quantity, unit_pence, line_no)",
            {id, r.body()});
    if (!r.is_credit_note()) tx.exec("INSERT INTO payments VALUES ($1, 'captured', $2)", {id, total});
    return "{\"id\": " + id + ", \"total_pence\": " + total + "}";
}

bool lost_connection(const idem::error& e) { return e.sqlstate().starts_with("08"); }

// Runs until there is an answer; none if interrupted.
template <typename Work>
std::optional<idem::outcome> run(idem::client& client, const std::string& scope, const std::string& key,
                                 std::optional<std::string_view> request, tally& seen, Work&& work) {
    const idem::run_options options{
        .scope = scope, .wait = 0ms, .response_timeout = patience, .idle_timeout = patience};
    std::size_t open = 0; // doubts that run has left to us
    while (!interrupted) {
        try {
            auto outcome = idem::run(client, key, request, work, options);
            const auto doubts = static_cast<std::size_t>(outcome.in_doubt());
            seen.in_doubt += doubts;
            seen.resolved += doubts;
            if (outcome.status() != idem::run_status::in_progress) {
                seen.resolved += open;
                return outcome;
            }
            ++seen.in_progress; // "409, retry later"
            std::this_thread::sleep_for(2ms);
        } catch (const idem::error& e) {
            if (!lost_connection(e)) throw;
            if (e.sqlstate() == idem::sqlstate::in_doubt) ++seen.in_doubt, ++open;
        }
    }
    return {};
}

} // namespace

tally& tally::operator+=(const tally& o) {
    executed += o.executed, replayed += o.replayed, in_progress += o.in_progress, mismatches += o.mismatches;
    turned_away += o.turned_away, in_doubt += o.in_doubt, resolved += o.resolved, paid += o.paid;
    cancellations.insert(cancellations.end(), o.cancellations.begin(), o.cancellations.end());
    return *this;
}

std::optional<std::string> without_idem(idem::client& client, const request& r, tally& seen) {
    while (!interrupted) {
        bool committing = false;
        try {
            if (!client.connected()) client.reconnect(patience);
            idem::transaction tx{client.connection(), patience};
            tx.exec("BEGIN");
            auto response = insert(tx, r);
            committing = true;
            tx.exec("COMMIT");
            ++seen.executed;
            return response;
        } catch (const idem::error& e) {
            if (!lost_connection(e)) throw;
            seen.in_doubt += committing; // it may have been booked, but who knows: again
            client.disconnect();
        }
    }
    return {};
}

// One transaction: the order, its money, a message, and what would undo them.
std::optional<std::string> shop::book(idem::client& client, const request& r, tally& seen) const {
    const auto outcome = run(client, scope_, r.key(), r.body(), seen, [&](idem::transaction& tx) {
        auto response = insert(tx, r);
        idem::publish(tx, "sales",
                      "{\"placed_at\": \"" + r.placed_at + "\", \"pence\": " + std::to_string(r.total_pence()) + "}",
                      {.key = r.invoice_no, .type = r.is_credit_note() ? "credited" : "ordered"});
        if (!r.is_credit_note()) idem::compensate_with(tx, r.key(), "undo_order(jsonb)", response, {.scope = scope_});
        return response;
    });
    if (!outcome) return {};
    switch (outcome->status()) {
    case idem::run_status::executed: ++seen.executed; return outcome->response();
    case idem::run_status::replayed: ++seen.replayed; return outcome->response();
    case idem::run_status::mismatch: ++seen.mismatches; break;
    case idem::run_status::cancelled: ++seen.turned_away; break;
    case idem::run_status::in_progress: break; // run has asked again
    }
    return {};
}

void shop::pay(idem::client& client, const request& r, bool sold, tally& seen) const {
    static const idem::stateful orders{.table = "orders", .machine = "order", .key_column = "invoice_no"};
    const auto outcome =
        run(client, scope_, "payment/" + r.invoice_no, idem::unchecked, seen, [&](idem::transaction& tx) {
            const auto paid = idem::transition(tx, orders, r.invoice_no, "paid");
            if (!paid) throw std::logic_error(r.key() + " cannot be paid: " + paid.state().value_or("not found"));
            if (sold) idem::confirm(tx, r.key(), scope_);
            return std::string{"{\"state\": \"paid\"}"};
        });
    if (outcome) ++seen.paid;
}

// Needs no run: cancelling once more does no harm, so whatever is lost, it is simply done again.
void shop::cancel(idem::client& client, const request& r, tally& seen) const {
    std::size_t open = 0; // doubts
    while (!interrupted) {
        bool committing = false;
        try {
            if (!client.connected()) client.reconnect(patience);
            idem::transaction tx{client.connection(), patience};
            tx.exec("BEGIN");
            const auto answer = idem::cancel(
                tx, r.key(), {.reason = "the customer's second thoughts", .scope = scope_, .wait = patience / 2});
            committing = true;
            tx.exec("COMMIT");
            if (answer.status() == idem::cancel_status::in_progress) {
                ++seen.in_progress;
                continue;
            }
            seen.resolved += open;
            seen.cancellations.push_back({r.invoice_no, answer.status(), answer.response()});
            return;
        } catch (const idem::error& e) {
            if (!lost_connection(e)) throw;
            seen.in_doubt += committing, open += committing;
            client.disconnect();
        }
    }
}

} // namespace intake
