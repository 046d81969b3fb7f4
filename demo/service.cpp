#include "service.hpp"

#include <idem/publish.hpp>

#include <chrono>
#include <stdexcept>
#include <thread>
#include <utility>

namespace intake {

std::atomic<bool> interrupted{false};

namespace {

using namespace std::chrono_literals;

constexpr auto patience = 1s; // with a server that says nothing

// Books an order or a credit note and returns the response.
std::string book(idem::transaction& tx, const request& r) {
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
    return "{\"id\": " + id + ", \"total_pence\": " + total + "}";
}

// Books and publishes, in one transaction.
std::string book_and_tell(idem::transaction& tx, const request& r) {
    auto response = book(tx, r);
    idem::publish(tx, "sales",
                  "{\"placed_at\": \"" + r.placed_at + "\", \"pence\": " + std::to_string(r.total_pence()) + "}",
                  {.key = r.invoice_no, .type = r.is_credit_note() ? "credited" : "ordered"});
    return response;
}

bool lost_connection(const idem::error& e) { return e.sqlstate().starts_with("08"); }

} // namespace

tally& tally::operator+=(const tally& o) {
    executed += o.executed, replayed += o.replayed, in_progress += o.in_progress, mismatches += o.mismatches;
    in_doubt += o.in_doubt, resolved += o.resolved;
    return *this;
}

std::optional<std::string> without_idem(idem::client& client, const request& r, tally& seen) {
    while (!interrupted) {
        bool committing = false;
        try {
            if (!client.connected()) client.reconnect(patience);
            idem::transaction tx{client.connection(), patience};
            tx.exec("BEGIN");
            auto response = book(tx, r);
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

std::optional<std::string> with_idem(idem::client& client, const request& r, tally& seen, const std::string& scope) {
    const idem::run_options options{
        .scope = scope, .wait = 0ms, .response_timeout = patience, .idle_timeout = patience};
    std::size_t open = 0; // doubts that run has left to us
    while (!interrupted) {
        try {
            const auto outcome = idem::run(
                client, r.key(), r.body(), [&](idem::transaction& tx) { return book_and_tell(tx, r); }, options);
            const auto doubts = static_cast<std::size_t>(outcome.in_doubt());
            seen.in_doubt += doubts;
            seen.resolved += doubts;
            if (outcome.status() != idem::run_status::in_progress) seen.resolved += std::exchange(open, 0);
            switch (outcome.status()) {
            case idem::run_status::executed: ++seen.executed; return outcome.response();
            case idem::run_status::replayed: ++seen.replayed; return outcome.response();
            case idem::run_status::mismatch: ++seen.mismatches; return {};
            case idem::run_status::in_progress: ++seen.in_progress; break; // "409, retry later"
            case idem::run_status::cancelled: throw std::logic_error("cancelled, though nobody cancels here");
            }
            std::this_thread::sleep_for(2ms);
        } catch (const idem::error& e) {
            if (!lost_connection(e)) throw;
            if (e.sqlstate() == idem::sqlstate::in_doubt) ++seen.in_doubt, ++open;
        }
    }
    return {};
}

} // namespace intake
