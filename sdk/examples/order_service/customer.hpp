// Somebody who orders over HTTP and does not give up: sends a request until it has an answer, with the same key each
// time, after a 503 or a 409 with Retry-After, after a cut and after silence. Now and then it hangs up before the
// answer, and asks again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>

namespace shop {

class customer {
public:
    struct counts {
        std::size_t tries = 0, cuts = 0, hung_up = 0, unavailable = 0, in_progress = 0;
        counts& operator+=(const counts&);
    };
    struct reply {
        int status = 0;
        bool replayed = false;
        std::string essence{}, body{}, trace{};
    };

    customer(int port, std::string api_key, std::uint64_t seed);
    ~customer();
    customer(const customer&) = delete;
    customer& operator=(const customer&) = delete;

    // An empty key is none. None if `stop` is set; throws std::runtime_error after a minute.
    std::optional<reply> send(std::string_view method, std::string_view path, std::string_view key,
                              std::string_view body, const std::atomic<bool>& stop);

    // Since it was last asked.
    [[nodiscard]] counts take_counts() noexcept { return std::exchange(seen_, {}); }

private:
    bool connect();
    void close();
    std::optional<reply> exchange(const std::string& request); // none: it is cut
    [[nodiscard]] std::string trace();

    int port_;
    std::string api_key_;
    std::mt19937_64 random_;
    int fd_ = -1;
    counts seen_{};
    int retry_after_ = 0; // seconds, of the last answer
};

} // namespace shop
