#include "customer.hpp"

#include "answer.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <utility>

namespace shop {

using namespace std::chrono_literals;

namespace {

constexpr auto patience = 60s;
constexpr timeval answer_time{12, 0};
constexpr unsigned hangs_up = 32; // one try in so many

} // namespace

customer::counts& customer::counts::operator+=(const counts& o) {
    tries += o.tries, cuts += o.cuts, hung_up += o.hung_up;
    unavailable += o.unavailable, in_progress += o.in_progress;
    return *this;
}

customer::customer(int port, std::string api_key, std::uint64_t seed)
    : port_{port},
      api_key_{std::move(api_key)},
      random_{seed} {}

customer::~customer() { close(); }

bool customer::connect() {
    if (fd_ >= 0) return true;
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &answer_time, sizeof answer_time);
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &answer_time, sizeof answer_time);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<std::uint16_t>(port_));
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) return true;
    close();
    return false;
}

void customer::close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

std::string customer::trace() {
    std::array<char, 33> text;
    std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(random_()),
                  static_cast<unsigned long long>(random_() | 1));
    return text.data();
}

std::optional<customer::reply> customer::exchange(const std::string& request) {
    if (!connect()) return {};
    for (std::size_t sent = 0; sent < request.size();) {
        const ssize_t n = ::send(fd_, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
        if (n <= 0) return {};
        sent += static_cast<std::size_t>(n);
    }
    if (random_() % hangs_up == 0) { // a moment later: it may have been done by then, or not
        std::this_thread::sleep_for(std::chrono::microseconds{random_() % 5'000});
        ++seen_.hung_up;
        return {};
    }
    std::string all;
    std::array<char, 16'384> part;
    for (;;) {
        const ssize_t n = recv(fd_, part.data(), part.size(), 0);
        if (n <= 0) return {};
        all.append(part.data(), static_cast<std::size_t>(n));
        const auto a = answer::parse(all);
        if (!a) continue;
        retry_after_ = a->retry_after.value_or(0);
        if (a->closes) close();
        return reply{a->status, a->replayed, a->essence(), std::string{a->body}};
    }
}

std::optional<customer::reply> customer::send(std::string_view method, std::string_view path, std::string_view key,
                                              std::string_view body, const std::atomic<bool>& stop) {
    const std::string its_trace = trace();
    std::string request;
    (((request += method) += ' ') += path) += " HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer " + api_key_ + "\r\n";
    if (!key.empty()) ((request += "Idempotency-Key: \"") += key) += "\"\r\n";
    request += "traceparent: 00-" + its_trace + "-00f067aa0ba902b7-01\r\nContent-Type: application/json\r\n" +
               "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n";
    request += body;

    const auto until = std::chrono::steady_clock::now() + patience;
    while (!stop) {
        ++seen_.tries;
        auto got = exchange(request);
        auto pause = std::chrono::milliseconds{random_() % 50};
        if (!got) {
            ++seen_.cuts;
            close();
        } else if (got->status == 503) {
            ++seen_.unavailable;
            pause += 200ms; // Retry-After is a second or more; with so few clients we need not be so polite
        } else if (got->status == 409 && retry_after_ > 0) {
            ++seen_.in_progress;
        } else {
            got->trace = its_trace;
            return got;
        }
        if (std::chrono::steady_clock::now() > until)
            throw std::runtime_error{"no answer to " + std::string{method} + ' ' + std::string{path} + " in a minute"};
        std::this_thread::sleep_for(pause);
    }
    return {};
}

} // namespace shop
