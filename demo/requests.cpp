#include "requests.hpp"

#include <array>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string_view>

namespace intake {

namespace {

constexpr std::size_t columns = 8;
using row = std::array<std::string, columns>;

// One line of CSV; a field may be quoted, a quote in it is doubled. No field of this file contains a line break.
row split(std::string_view text) {
    row fields;
    std::size_t column = 0;
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '"' && quoted && i + 1 < text.size() && text[i + 1] == '"')
            fields[column] += text[++i];
        else if (c == '"')
            quoted = !quoted;
        else if (c != ',' || quoted)
            fields[column] += c;
        else if (++column == columns)
            throw std::runtime_error("too many fields");
    }
    if (quoted || column + 1 != columns) throw std::runtime_error("not eight fields");
    return fields;
}

std::int64_t integer(std::string_view text) {
    std::int64_t n{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc{} || end != text.data() + text.size())
        throw std::runtime_error("not a number: " + std::string{text});
    return n;
}

// Exact: the digits are moved, not multiplied. A fraction of a penny is refused, so there is nothing to round.
std::int64_t pence(const std::string& pounds) {
    const auto point = std::min(pounds.find('.'), pounds.size());
    auto fraction = point < pounds.size() ? pounds.substr(point + 1) : "";
    if (fraction.size() > 2) throw std::runtime_error("a fraction of a penny: " + pounds);
    fraction.resize(2, '0');
    return integer(pounds.substr(0, point) + fraction);
}

// 12/1/10 8:26 is the first of December.
std::string timestamp(const std::string& text) {
    int month, day, year, hour, minute;
    if (std::sscanf(text.c_str(), "%d/%d/%d %d:%d", &month, &day, &year, &hour, &minute) != 5)
        throw std::runtime_error("not a time: " + text);
    std::array<char, 80> iso;
    std::snprintf(iso.data(), iso.size(), "%04d-%02d-%02d %02d:%02d", 2000 + year, month, day, hour, minute);
    return iso.data();
}

std::string quoted(std::string_view text) {
    std::string json = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') json += '\\';
        json += c;
    }
    return json + '"';
}

} // namespace

std::int64_t request::total_pence() const {
    return std::accumulate(lines.begin(), lines.end(), std::int64_t{0},
                           [](std::int64_t sum, const line& l) { return sum + l.quantity * l.unit_pence; });
}

std::string request::body() const {
    std::string json = "{\"invoice\": " + quoted(invoice_no) +
                       ", \"customer\": " + (customer_id.empty() ? "null" : quoted(customer_id)) +
                       ", \"country\": " + quoted(country) + ", \"placed_at\": " + quoted(placed_at) + ", \"lines\": [";
    const char* comma = "";
    for (const auto& l : lines) {
        json += comma;
        json += "{\"stock_code\": " + quoted(l.stock_code) + ", \"description\": " + quoted(l.description) +
                ", \"quantity\": " + std::to_string(l.quantity) + ", \"unit_pence\": " + std::to_string(l.unit_pence) +
                "}";
        comma = ", ";
    }
    return json + "]}";
}

std::vector<request> read_requests(const std::string& path) {
    std::ifstream file{path};
    if (!file) throw std::runtime_error("cannot read " + path);

    std::vector<request> requests;
    std::map<std::string, std::size_t> place; // of an invoice in `requests`
    std::string text;
    std::getline(file, text); // the header
    for (std::size_t number = 2; std::getline(file, text); ++number) try {
            const auto [invoice_no, stock_code, description, quantity, date, price, customer, country] = split(text);
            const auto [at, is_new] = place.try_emplace(invoice_no, requests.size());
            if (is_new) requests.push_back({invoice_no, customer, country, timestamp(date), {}});
            requests[at->second].lines.push_back({stock_code, description, integer(quantity), pence(price)});
        } catch (const std::exception& e) {
            throw std::runtime_error(path + ", line " + std::to_string(number) + ": " + e.what());
        }
    return requests;
}

} // namespace intake
