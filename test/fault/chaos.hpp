// The faults, and who does to the server what a crash or a bad day does.
#pragma once

#include <idem/client.hpp>
#include <idem/result.hpp>

#include <proxy.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>

namespace fault {

// The server is gone and does not come back, or cannot be started.
struct no_server : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A connection straight to the server, for statements that are repeated until they get through.
class insistent {
public:
    explicit insistent(const std::string& application)
        : client_{"application_name=" + application + " options='-c client_min_messages=error'"} {}

    // One statement; asked anew while the server is away, for a minute at most.
    idem::result exec(const std::string& sql);

    // Once. Throws idem::error.
    idem::result once(const std::string& sql);

    std::string value(const std::string& sql) { return std::string{exec(sql).text(0, 0)}; }

private:
    idem::client client_;
};

struct fault_counts {
    std::atomic<std::size_t> killed{0}, stopped{0}, terminated{0}, refusals{0};
};

class chaos {
public:
    // `server`: its name for scripts/server. `application`: of the sessions that may be killed, and of others that
    // begin alike.
    chaos(idem::test::proxy&, std::string server, const std::string& application, std::uint64_t seed);

    // Faults of all kinds for so long, then none any more.
    void run(std::chrono::seconds, const std::atomic<bool>& stop);

    // As a power failure does, and back again.
    void crash();

    [[nodiscard]] const fault_counts& done() const noexcept { return done_; }

private:
    enum class event { kill, crash, terminate, drop_all, silence_all, refuse };
    void cause(event);
    void kill();
    void terminate();
    void lossy();
    void calm();

    idem::test::proxy& proxy_;
    std::string server_, victims_;
    std::mt19937_64 random_;
    insistent control_{"control"};
    fault_counts done_{};
};

} // namespace fault
