#include "killed.hpp"

#include <csignal>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace intake {

std::string beside(const std::string& name) {
    return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / name).string();
}

killed::killed(std::vector<std::string> command, std::chrono::milliseconds after, std::uint64_t seed, std::string log)
    : command_{std::move(command)},
      log_{std::move(log)},
      killer_{[this, after, seed](const std::stop_token& token) {
          std::mt19937_64 random{seed};
          std::uniform_int_distribution milliseconds{after.count() / 2, after.count() * 3 / 2};
          start();
          for (;;) {
              const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds{milliseconds(random)};
              while (std::chrono::steady_clock::now() < until) {
                  if (token.stop_requested()) return;
                  std::this_thread::sleep_for(std::chrono::milliseconds{5});
              }
              end(SIGKILL);
              ++kills_;
              start();
          }
      }} {}

killed::~killed() {
    spare();
    if (pid_ != 0) end(SIGKILL);
}

void killed::spare() { killer_ = {}; }

void killed::finish() {
    spare();
    const int status = end(SIGTERM); // which may come before its handler is there
    if (status != 0 && WTERMSIG(status) != SIGTERM) throw std::runtime_error(command_.front() + " did not end well");
}

void killed::start() {
    std::vector<char*> arguments;
    for (std::string& each : command_) arguments.push_back(each.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    if (!log_.empty())
        for (const int output : {STDOUT_FILENO, STDERR_FILENO})
            posix_spawn_file_actions_addopen(&files, output, log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    const int failed = posix_spawn(&pid_, arguments.front(), &files, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    if (failed != 0) throw std::runtime_error("cannot start " + command_.front());
}

int killed::end(int signal) {
    int status = 0;
    kill(pid_, signal);
    waitpid(std::exchange(pid_, 0), &status, 0);
    return status;
}

} // namespace intake
