// The access log: a line for each answer, as key=value. Lines are gathered and handed over to spdlog's thread some at a
// time, and lost rather than waited for when nobody takes them.
#pragma once

#include <spdlog/async_logger.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

namespace shop {

class access_log {
public:
    struct entry {
        std::string_view method, path;
        unsigned status = 0;
        std::chrono::nanoseconds took{};
        std::string_view client, trace; // client: empty if unknown
        bool replayed = false;
    };

    // Null: nothing is written.
    explicit access_log(std::shared_ptr<spdlog::logger> to) : to_{std::move(to)} {}
    ~access_log() { flush(); }
    access_log(const access_log&) = delete;
    access_log& operator=(const access_log&) = delete;

    void write(const entry&);
    // Hands over what there is. To be called now and then.
    void flush();

private:
    std::shared_ptr<spdlog::logger> to_;
    std::string lines_{};
    std::time_t second_ = 0;
    std::string date_{}; // of that second
};

} // namespace shop
