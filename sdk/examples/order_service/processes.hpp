// What the processes of the service use: processor time and memory, from /proc. They are found by the files NAME.pid
// in a directory, again and again: one that was killed and started anew goes on in the same row. With each come its
// descendants; PostgreSQL's backends by their database.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace shop {

struct usage {
    double seconds = 0; // of processor time
    std::uint64_t
        peak_memory{}; // resident bytes, of all processes of the row at a time; 0 for PostgreSQL, which shares
};

class processes {
public:
    explicit processes(std::filesystem::path directory);

    // Begins to count.
    void reset();
    // Now and then: what a process used after the last look before its death is not seen.
    void look();

    [[nodiscard]] const std::map<std::string, usage>& rows() const noexcept { return rows_; }
    [[nodiscard]] double seconds() const; // since reset

private:
    void look_at(pid_t pid, const std::string& name);

    std::filesystem::path directory_;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
    std::map<std::string, usage> rows_{};
    std::map<std::string, std::uint64_t> memory_{}; // now
    std::map<pid_t, double> used_{};                // so far, by each that was there at the last look
    std::map<pid_t, double> using_{};
    bool counts_ = false;
};

} // namespace shop
