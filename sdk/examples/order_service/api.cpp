#include "api.hpp"

#include "json.hpp"
#include "trace.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <random>

namespace shop {

namespace {

using boost::beast::http::verb;
using namespace std::chrono_literals;

constexpr auto answer_within = 10s;
constexpr std::size_t longest_key = 255;

// ---- what is asked for ----

enum class route { none, orders, order, pay, complete, cancel, healthz, metrics };
constexpr std::array<std::string_view, 8> names{"none",     "orders", "order",   "pay",
                                                "complete", "cancel", "healthz", "metrics"};

// Visible ASCII and blanks: what a structured header's string can have.
bool is_printable(std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

// The string of the header, with quotes or without; nothing if it is none, or too long.
std::optional<std::string> key_of(const http_header& header) {
    std::string_view text = header.text;
    if (header.times != 1 || text.empty() || !is_printable(text)) return {};
    std::string key;
    if (text.front() == '"') {
        std::size_t at = 1;
        for (; at < text.size() && text[at] != '"'; ++at) {
            if (text[at] == '\\' && (++at == text.size() || (text[at] != '"' && text[at] != '\\'))) return {};
            key += text[at];
        }
        if (at + 1 != text.size()) return {};
    } else {
        if (text.find_first_of(" \"\\,;") != std::string_view::npos) return {};
        key = text;
    }
    if (key.empty() || key.size() > longest_key) return {};
    return key;
}

bool is_unreserved(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_' || c == '~';
}

void append_percent_encoded(std::string& to, std::string_view text) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    for (const char c : text) {
        if (is_unreserved(c)) {
            to += c;
        } else {
            to += '%';
            to += digits[static_cast<unsigned char>(c) >> 4];
            to += digits[static_cast<unsigned char>(c) & 15];
        }
    }
}

// What a key can be; nothing if it cannot.
std::optional<std::string> percent_decoded(std::string_view text) {
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            decoded += text[i];
            continue;
        }
        unsigned code = 0;
        const char* const from = text.data() + i + 1;
        if (i + 2 >= text.size() || std::from_chars(from, from + 2, code, 16).ptr != from + 2) return {};
        decoded += static_cast<char>(code);
        i += 2;
    }
    if (decoded.empty() || decoded.size() > longest_key || !is_printable(decoded)) return {};
    return decoded;
}

struct place {
    route to = route::none;
    std::string_view order{}; // still encoded
};

place place_of(std::string_view target) {
    target = target.substr(0, target.find('?'));
    if (target == "/orders") return {route::orders};
    if (target == "/healthz") return {route::healthz};
    if (target == "/metrics") return {route::metrics};
    constexpr std::string_view orders = "/orders/";
    if (!target.starts_with(orders)) return {};
    target.remove_prefix(orders.size());
    const std::size_t slash = target.find('/');
    const std::string_view order = target.substr(0, slash);
    if (order.empty()) return {};
    if (slash == std::string_view::npos) return {route::order, order};
    const std::string_view step = target.substr(slash + 1);
    if (step == "pay") return {route::pay, order};
    if (step == "complete") return {route::complete, order};
    if (step == "cancel") return {route::cancel, order};
    return {};
}

std::string_view allowed(route to) {
    switch (to) {
    case route::orders:
    case route::pay:
    case route::complete:
    case route::cancel: return "POST";
    default: return "GET, HEAD";
    }
}

bool is_allowed(route to, verb method) {
    return allowed(to) == "POST" ? method == verb::post : method == verb::get || method == verb::head;
}

// ---- what is answered ----

struct problem {
    unsigned status;
    std::string_view type, title;
    std::string_view headers{};
};

constexpr problem no_such_resource{404, "no-such-resource", "There is nothing of this name"};
constexpr problem no_client{401, "unauthorized", "Send Authorization: Bearer and your API key",
                            "WWW-Authenticate: Bearer\r\n"};
constexpr problem no_key{400, "key-missing", "Send an Idempotency-Key of 1 to 255 printable characters, once"};
constexpr problem no_id{400, "bad-id", "An order's id is an idempotency key, percent-encoded"};
constexpr problem no_json{400, "not-json", "The body is not JSON, or too deep, or has a number out of range"};
constexpr problem in_progress{409, "in-progress", "A request with this key is in progress", "Retry-After: 1\r\n"};
constexpr problem key_reused{422, "key-reused", "The key was used with another request"};
constexpr problem cancelled{410, "cancelled", "The request was cancelled by its key"};
constexpr problem invalid{422, "invalid-request", "The order cannot be like that"};
constexpr problem exists{409, "order-exists", "There is an order of this id, and its key has expired"};
constexpr problem cannot{409, "invalid-transition", "The order does not go there from where it is"};
constexpr problem failed{500, "failed", "It failed, and nothing was done"};

const problem& of_handler(std::string_view sqlstate) {
    if (sqlstate == "23505") return exists;
    if (sqlstate.starts_with("22") || sqlstate.starts_with("23")) return invalid;
    if (sqlstate == "ID012" || sqlstate == "ID013" || sqlstate == "ID014") return cannot;
    if (sqlstate == "55P03") return in_progress;
    return failed;
}

} // namespace

// ---- one request after the other, of a connection ----

namespace {

class exchange final : public http_exchange, private call {
public:
    exchange(api& all, http_connection& to) : all_{all}, to_{to} {}

    void handle(const http_request& asked) override {
        begin(asked);
        const auto [to, encoded] = place_of(asked.target);
        route_ = to;
        if (to == route::none) return tell(no_such_resource);
        if (!is_allowed(to, asked.method)) {
            const std::string allow = "Allow: " + std::string{allowed(to)} + "\r\n";
            return tell({405, "method-not-allowed", "That is not done with it", allow});
        }
        if (to == route::healthz) return tell_health();
        if (to == route::metrics) return send(200, "text/plain; version=0.0.4", "", all_.counts.text());
        if (!all_.known) return tell_to_come_again("unavailable", "The database is away");
        if (asked.authorization.times == 1) client = all_.known->name_of(asked.authorization.text);
        if (client.empty()) return tell(no_client);
        if (to != route::orders) {
            auto decoded = percent_decoded(encoded);
            if (!decoded) return tell(no_id);
            order_ = *std::move(decoded);
        }
        ask(asked);
    }

    void refuse(const http_request& asked, unsigned status) override {
        begin(asked);
        switch (status) {
        case 408: return tell({408, "too-slow", "The request took too long to come"});
        case 413: return tell({413, "too-large", "The body is too large"});
        case 431: return tell({431, "too-large", "The header is too large"});
        case 503: return tell_to_come_again("too-many-connections", "There are too many connections");
        case 505: return tell({505, "bad-version", "That is not HTTP/1"});
        default: return tell({400, "bad-request", "That is no HTTP request"});
        }
    }

private:
    void begin(const http_request& asked) {
        request_ = &asked;
        route_ = route::none;
        replayed_ = false;
        client.clear();
        reset(request);
        reset(answer);
        take_traceparent(traceparent_, asked.traceparent.times == 1 ? asked.traceparent.text : "");
    }

    void ask(const http_request& asked) {
        until = asked.since + answer_within;
        ((context = R"({"traceparent":")") += traceparent_) += R"("})";
        if (route_ == route::order) {
            what = kind::read;
            key = order_;
        } else if (route_ == route::cancel) {
            what = kind::cancel;
            key = order_;
            if (!asked.body.empty()) {
                if (!is_jsonb(asked.body)) return tell(no_json);
                request = string_member(asked.body, "reason");
            }
        } else {
            what = kind::execute;
            auto sent = key_of(asked.idempotency_key);
            if (!sent) return tell(no_key);
            if (!asked.body.empty() && !is_jsonb(asked.body)) return tell(no_json);
            key = *std::move(sent);
            if (route_ == route::orders) order_ = key;
            if (order_ == "." || order_ == "..") return tell(no_id); // whose paths are other ones
            write_request(asked);
            if (const std::string* const kept = all_.responses.find(client, key, request)) {
                all_.counts.cache_hit();
                answer = *kept;
                return tell_stored(true);
            }
        }
        if (!all_.calls.connected()) return tell_to_come_again("unavailable", "The database is away");
        if (!all_.calls.submit(*this)) tell_to_come_again("busy", "Too many requests are waiting");
    }

    // What the handler gets, and the fingerprint covers: all that is asked for, and by whom.
    void write_request(const http_request& asked) {
        request = R"({"method":"POST","path":"/orders)";
        if (route_ != route::orders) {
            append_percent_encoded(request += '/', order_);
            request += route_ == route::pay ? "/pay" : "/complete";
        }
        append_quoted(request += R"(","client":)", client);
        append_quoted(request += R"(,"order":)", order_);
        if (route_ == route::orders) {
            append_percent_encoded(request += R"(,"location":"/orders/)", order_);
            request += '"';
        }
        ((request += R"(,"body":)") += asked.body.empty() ? "null" : asked.body) += '}';
    }

    void answered() override {
        switch (came) {
        case result::executed:
        case result::completed:
            if (cacheable_until) all_.responses.keep(client, key, request, answer, *cacheable_until);
            return tell_stored(came == result::completed);
        case result::in_progress: return tell(in_progress);
        case result::mismatch: return tell(key_reused);
        case result::cancelled: return tell(cancelled);
        case result::failed: return tell_refusal();
        case result::compensated:
        case result::already: return send(200, "application/json", "", of_order(R"("state": "cancelled")"));
        case result::tombstoned: return send(202, "application/json", "", of_order(R"("status": "tombstoned")"));
        case result::refused: return answer.empty() ? tell(cannot) : send(409, "application/problem+json", "", answer);
        case result::found: return send(200, "application/json", "", answer);
        case result::not_found: return tell({404, "no-such-order", "There is no such order"});
        case result::away: return tell_to_come_again("unavailable", "The database is away");
        case result::broken: spdlog::error("trace={} {}", trace_id(traceparent_), answer); return tell(failed);
        }
    }

    // {"body": …, "status": 201, "headers": {"Location": "…"}}
    void tell_stored(bool replayed) {
        unsigned status = 500;
        std::string_view body, fields;
        for_members(answer, [&](std::string_view name, std::string_view value) {
            if (name == "status") std::from_chars(value.data(), value.data() + value.size(), status);
            if (name == "body") body = value;
            if (name == "headers") fields = value;
        });
        std::string headers;
        for_members(fields, [&](std::string_view name, std::string_view value) {
            (((headers += name) += ": ") += unquoted(value)) += "\r\n";
        });
        replayed_ = replayed;
        if (replayed) headers += "Idempotency-Replayed: true\r\n";
        send(status, "application/json", headers, body);
    }

    // The handler's error: with refuse() of orders.sql, it says itself what is to be sent.
    void tell_refusal() {
        unsigned status = 0;
        if (sqlstate.starts_with("OS") && std::from_chars(&sqlstate[2], &sqlstate[5], status).ptr == &sqlstate[5])
            return send(status, "application/problem+json", "", answer);
        const problem& what_it_is = of_handler(sqlstate);
        if (&what_it_is == &failed) spdlog::error("trace={} {}: {}", trace_id(traceparent_), sqlstate, answer);
        tell(what_it_is);
    }

    void tell_health() {
        if (all_.draining) return tell_to_come_again("draining", "The service is about to end");
        if (!all_.known || !all_.calls.connected()) return tell_to_come_again("unavailable", "The database is away");
        send(200, "application/json", "", R"({"status":"ok"})");
    }

    // Not all at the same time.
    void tell_to_come_again(std::string_view type, std::string_view title) {
        thread_local std::minstd_rand random{std::random_device{}()};
        const std::string headers = "Retry-After: " + std::to_string(1 + random() % 3) + "\r\n";
        tell({503, type, title, headers});
    }

    void tell(const problem& of) {
        std::string body = R"({"type": "urn:idem:problem:)";
        ((body += of.type) += R"(", "title": ")") += of.title;
        (body += R"(", "status": )") += std::to_string(of.status);
        send(of.status, "application/problem+json", of.headers, body += '}');
    }

    std::string of_order(std::string_view rest) const {
        std::string body = R"({"id": )";
        append_quoted(body, key);
        ((body += ", ") += rest) += '}';
        return body;
    }

    void send(unsigned status, std::string_view type, std::string_view headers, std::string_view body) {
        const auto took = clock::now() - request_->since;
        all_.counts.answered(names[static_cast<std::size_t>(route_)], status, replayed_, took);
        const auto method = request_->target.empty() ? boost::beast::string_view{} : to_string(request_->method);
        all_.log.write({{method.data(), method.size()},
                        request_->target,
                        status,
                        took,
                        client,
                        trace_id(traceparent_),
                        replayed_});
        headers_ = headers;
        ((headers_ += "traceparent: ") += traceparent_) += "\r\n";
        to_.answer({status, type, headers_, body});
    }

    api& all_;
    http_connection& to_;
    const http_request* request_ = nullptr;
    route route_ = route::none;
    bool replayed_ = false;
    std::string order_{}, traceparent_{}, headers_{};
};

} // namespace

std::unique_ptr<http_exchange> api::exchange(http_connection& to) {
    return std::make_unique<shop::exchange>(*this, to);
}

} // namespace shop
