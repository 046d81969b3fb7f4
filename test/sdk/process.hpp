// A program that runs beside the test.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

namespace test {

class process {
public:
    // Appends what it says to the file.
    process(const std::vector<std::string>& command, const std::string& file) : pid_{fork()} {
        if (pid_ != 0) return;
        const int log = open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        std::vector<char*> words;
        words.reserve(command.size() + 1);
        for (const std::string& each : command) words.push_back(const_cast<char*>(each.c_str()));
        words.push_back(nullptr);
        execvp(words[0], words.data());
        _exit(127);
    }
    ~process() {
        if (pid_ > 0) end(SIGKILL);
    }
    process(const process&) = delete;
    process& operator=(const process&) = delete;

    [[nodiscard]] bool runs() const { return kill(pid_, 0) == 0 && waitpid(pid_, nullptr, WNOHANG) == 0; }

    void send(int signal) const { kill(pid_, signal); }

    // Its exit status; -1 if it was killed. Signal 0 is none: it ends by itself.
    int end(int signal) {
        kill(pid_, signal);
        int status = 0;
        waitpid(pid_, &status, 0);
        pid_ = 0;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

private:
    pid_t pid_;
};

} // namespace test
