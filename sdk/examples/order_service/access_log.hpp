// The access log: a line for each answer, as key=value. Lines are gathered, and handed over to spdlog some at a time.
#pragma once

#include <spdlog/logger.h>

#include <chrono>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>

namespace shop {

class access_log {
public:
    // Without a logger nothing is written.
    explicit access_log(std::shared_ptr<spdlog::logger>);
    ~access_log();
    access_log(const access_log&) = delete;
    access_log& operator=(const access_log&) = delete;

    struct entry {
        std::string_view method, path;
        unsigned status;
        std::chrono::nanoseconds took;
        std::string_view client, trace; // empty: unknown
        bool replayed;
    };
    void write(const entry&);

    // Hands over what there is; to be called now and then.
    void flush();

private:
    std::shared_ptr<spdlog::logger> to_;
    std::string lines_{}, date_{};
    std::time_t second_ = 0; // that date_ is of
};

} // namespace shop
