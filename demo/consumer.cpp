#include "consumer.hpp"

#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace intake {

consumer::consumer(std::uint64_t seed)
    : killer_{[this, seed](const std::stop_token& token) {
          std::mt19937_64 random{seed};
          std::uniform_int_distribution milliseconds{20, 120};
          start();
          while (!token.stop_requested()) {
              std::this_thread::sleep_for(std::chrono::milliseconds{milliseconds(random)});
              end(SIGKILL);
              ++kills_;
              start();
          }
      }} {}

consumer::~consumer() {
    killer_ = {};
    if (pid_ != 0) end(SIGKILL);
}

void consumer::finish(database& db) {
    killer_ = {};
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{30};
    while (db.value("SELECT depth FROM public.idem_consumers WHERE consumer = 'daily_sales'") != "0") {
        if (std::chrono::steady_clock::now() > until) throw std::runtime_error("the consumer does not catch up");
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
    }
    const int status = end(SIGTERM); // which may come before its handler is there
    if (status != 0 && WTERMSIG(status) != SIGTERM) throw std::runtime_error("the consumer did not end well");
}

void consumer::start() {
    auto program = (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "sales").string();
    char* const arguments[] = {program.data(), nullptr};
    if (posix_spawn(&pid_, program.c_str(), nullptr, nullptr, arguments, environ) != 0)
        throw std::runtime_error("cannot start " + program);
}

int consumer::end(int signal) {
    int status = 0;
    kill(pid_, signal);
    waitpid(std::exchange(pid_, 0), &status, 0);
    return status;
}

} // namespace intake
