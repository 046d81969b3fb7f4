#include "crew.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <system_error>
#include <thread>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ; // NOLINT(readability-redundant-declaration)

namespace fault {

pid_t crew::start(const std::string& consumer) const {
    std::array<std::string, 5> words{"/proc/self/exe", "--consume", consumer, conninfo_, seeded_};
    std::array<char*, 6> argv{words[0].data(), words[1].data(), words[2].data(),
                              words[3].data(), words[4].data(), nullptr};
    pid_t child = 0;
    if (const int failed = posix_spawn(&child, argv[0], nullptr, nullptr, argv.data(), environ); failed != 0)
        throw std::system_error{failed, std::generic_category(), "cannot start a consumer"};
    return child;
}

void crew::hire(const std::string& consumer) { members_.push_back({consumer, start(consumer)}); }

void crew::kill_one(std::mt19937_64& random) {
    member& m = members_.at(random() % members_.size());
    ::kill(m.process, SIGKILL);
    ::waitpid(m.process, nullptr, 0);
    m.process = start(m.consumer);
}

void crew::dismiss() {
    for (const member& m : members_) ::kill(m.process, SIGTERM);
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    for (const member& m : members_) {
        while (::waitpid(m.process, nullptr, WNOHANG) == 0) {
            if (std::chrono::steady_clock::now() >= until) ::kill(m.process, SIGKILL);
            std::this_thread::sleep_for(std::chrono::milliseconds{5});
        }
    }
    members_.clear();
}

} // namespace fault
