// The consumers' processes: started, killed, and started again.
#pragma once

#include <array>
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include <sys/types.h>

namespace fault {

class crew {
public:
    // This program itself is what is started.
    crew(std::string conninfo, std::string seeded) : conninfo_{std::move(conninfo)}, seeded_{std::move(seeded)} {}
    crew(const crew&) = delete;
    crew& operator=(const crew&) = delete;
    ~crew() { dismiss(); }

    void hire(const std::string& consumer);
    void kill_one(std::mt19937_64&); // -9, and another in its place
    void dismiss();                  // SIGTERM to all, -9 to who stays for ten seconds

private:
    struct member {
        std::string consumer;
        pid_t process;
    };
    [[nodiscard]] pid_t start(const std::string& consumer) const;

    std::string conninfo_, seeded_;
    std::vector<member> members_{};
};

} // namespace fault
