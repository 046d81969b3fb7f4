// The consumer's process, which is killed and started anew all the time.
#pragma once

#include "database.hpp"

#include <cstddef>
#include <cstdint>
#include <thread>

#include <sys/types.h>

namespace intake {

class consumer {
public:
    explicit consumer(std::uint64_t seed); // starts it, and the killing
    ~consumer();
    consumer(const consumer&) = delete;
    consumer& operator=(const consumer&) = delete;

    // No more killing: lets it catch up and end by itself. Throws if it does not.
    void finish(database&);

    std::size_t kills() const { return kills_; }

private:
    void start();
    int end(int signal); // returns its wait status

    pid_t pid_ = 0;
    std::size_t kills_ = 0;
    std::jthread killer_;
};

} // namespace intake
