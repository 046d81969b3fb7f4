// A process that is killed with -9 and started anew all the time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <sys/types.h>

namespace intake {

// The program beside this one.
std::string beside(const std::string& name);

class killed {
public:
    // Starts it, and the killing: at times between half of `after` and one and a half of it. What it prints goes to the
    // file `log`, if that is not empty.
    killed(std::vector<std::string> command, std::chrono::milliseconds after, std::uint64_t seed, std::string log = "");
    ~killed();
    killed(const killed&) = delete;
    killed& operator=(const killed&) = delete;

    void spare();  // no more killing
    void finish(); // lets it end by itself; throws if it does not end well

    std::size_t kills() const { return kills_; }

private:
    void start();
    int end(int signal); // returns its wait status

    std::vector<std::string> command_;
    std::string log_;
    pid_t pid_ = 0;
    std::size_t kills_ = 0;
    std::jthread killer_;
};

} // namespace intake
