// The file of invoices, read into one request an invoice or credit note, as a client would send it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace intake {

struct line {
    std::string stock_code, description;
    std::int64_t quantity;
    std::int64_t unit_pence;
};

struct request {
    std::string invoice_no, customer_id, country, placed_at;
    std::vector<line> lines;

    bool is_credit_note() const { return invoice_no.starts_with('C'); }
    std::string key() const { return (is_credit_note() ? "credit-note/" : "invoice/") + invoice_no; }
    std::int64_t total_pence() const;
    std::string body() const; // JSON
};

// The requests in the order of the file. Throws std::runtime_error naming the line that it cannot read.
std::vector<request> read_requests(const std::string& path);

} // namespace intake
