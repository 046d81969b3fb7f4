// The faults, and who does to the server what a crash or a bad day does.
#pragma once

#include "crew.hpp"

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
    explicit insistent(const std::string& application, const std::string& database = "postgres")
        : client_{"dbname=" + database + " application_name=" + application +
                  " options='-c client_min_messages=error'"} {}

    // One statement; asked anew while the server is away or its disk full, for a minute at most.
    idem::result exec(const std::string& sql);

    // Once. Throws idem::error.
    idem::result once(const std::string& sql);

    std::string value(const std::string& sql) { return std::string{exec(sql).text(0, 0)}; }

private:
    idem::client client_;
};

struct fault_counts {
    std::atomic<std::size_t> killed{0}, stopped{0}, postmasters{0}, terminated{0}, refusals{0}, consumers{0}, full{0};
};

// How the server is shut down hard.
enum class crash_kind { immediate, kill_postmaster };

class chaos {
public:
    // `server`: its name for scripts/server. `application`: of the sessions that may be killed, and of others that
    // begin alike. `disk`: the file system that its data have for themselves, a tmpfs; "": never full.
    chaos(idem::test::proxy&, crew& consumers, std::string server, std::string disk, const std::string& application,
          std::uint64_t seed);

    // Faults of all kinds for so long, then none any more.
    void run(std::chrono::seconds, const std::atomic<bool>& stop);

    // As a power failure does, and back again.
    void crash(crash_kind);

    [[nodiscard]] const fault_counts& done() const noexcept { return done_; }

private:
    enum class event {
        kill,
        stop,
        kill_postmaster,
        terminate,
        drop_all,
        silence_all,
        refuse,
        kill_consumer,
        fill_disk
    };
    void cause(event);
    void kill();
    void terminate();
    void start();
    void fill_disk();
    void resize_disk(std::size_t bytes) const;
    void lossy();
    void calm();

    idem::test::proxy& proxy_;
    crew& consumers_;
    std::string server_, disk_, victims_;
    std::mt19937_64 random_;
    insistent control_{"control"};
    fault_counts done_{};
};

} // namespace fault
