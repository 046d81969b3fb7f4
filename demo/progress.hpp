// A progress bar: in place on a terminal, a line for each quarter elsewhere.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>

#include <unistd.h>

namespace intake {

// 1234567 as 1,234,567
inline std::string grouped(std::size_t n) {
    auto text = std::to_string(n);
    for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
    return text;
}

class progress {
public:
    progress(std::string title, std::size_t total) : title_{std::move(title)}, total_{total} {}

    void show(std::size_t done, std::size_t cut) {
        const auto now = terminal_ ? done : done * 4 / total_; // what must change to be worth a new line
        if (now == shown_) return;
        shown_ = now;
        const auto text = grouped(done) + " of " + grouped(total_) + " requests, " + grouped(cut) + " connections cut";
        if (terminal_) {
            const auto filled = width * done / total_;
            std::printf("\r%-13s [%s%s] %s", title_.c_str(), std::string(filled, '#').c_str(),
                        std::string(width - filled, '.').c_str(), text.c_str());
        } else {
            std::printf("%-13s %s\n", title_.c_str(), text.c_str());
        }
        std::fflush(stdout);
    }
    void end() const {
        if (terminal_) std::puts("");
    }

private:
    static constexpr std::size_t width = 30;
    std::string title_;
    std::size_t total_, shown_ = 0;
    bool terminal_ = ::isatty(STDOUT_FILENO) != 0;
};

} // namespace intake
