// A NATS server of the test's own, with JetStream; and what a stream has.
#pragma once

#include "loopback.hpp"

#include <nats/nats.h>

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace test {

using namespace std::chrono_literals;

inline void require(natsStatus status, const char* what) {
    if (status != NATS_OK) throw std::runtime_error{std::string{what} + ": " + natsStatus_GetText(status)};
}

// What it has stored outlives start and kill.
class nats_server {
public:
    explicit nats_server(std::string more = "jetstream {}") : more_{std::move(more)} {
        std::string name = std::filesystem::temp_directory_path() / "idem-nats-XXXXXX";
        if (mkdtemp(name.data()) == nullptr) throw std::runtime_error{"mkdtemp"};
        directory_ = name;
    }
    ~nats_server() {
        kill(SIGKILL);
        std::filesystem::remove_all(directory_);
    }
    nats_server(const nats_server&) = delete;
    nats_server& operator=(const nats_server&) = delete;

    void start() {
        const std::string conf = directory_ / "nats.conf";
        std::string settings = more_;
        if (const auto at = settings.find("jetstream {}"); at != std::string::npos)
            settings.replace(at, 12, "jetstream { store_dir: \"" + (directory_ / "store").string() + "\" }");
        std::ofstream{conf} << "listen: 127.0.0.1:" << port_ << '\n' << settings << '\n';
        const std::string log = directory_ / "log";
        pid_ = fork();
        if (pid_ == 0) {
            const char* const path = std::getenv("PATH");
            setenv("PATH", ((path != nullptr ? path : "/usr/bin") + std::string{":/usr/sbin"}).c_str(), 1);
            execlp("nats-server", "nats-server", "-c", conf.c_str(), "-l", log.c_str(), nullptr);
            _exit(127);
        }
        for (int i = 0; i < 500 && !listens(port_); ++i) std::this_thread::sleep_for(20ms);
        if (!listens(port_)) throw std::runtime_error{"nats-server did not start, see " + log};
    }
    void kill(int signal) {
        if (pid_ <= 0) return;
        ::kill(pid_, signal);
        if (signal == SIGSTOP || signal == SIGCONT) return;
        waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    [[nodiscard]] int port() const { return port_; }
    [[nodiscard]] std::string url(const std::string& rest = "") const {
        return "nats://127.0.0.1:" + std::to_string(port_) + rest;
    }

private:
    std::string more_;
    std::filesystem::path directory_;
    int port_ = free_port();
    pid_t pid_ = 0;
};

struct stored {
    std::string subject, data;
    std::map<std::string, std::string> headers;
};

// Past the relay: a connection to look at streams with.
class nats_session {
public:
    explicit nats_session(const nats_server& server) {
        require(natsConnection_ConnectTo(&connection_, server.url().c_str()), "connect");
        require(natsConnection_JetStream(&js_, connection_, nullptr), "JetStream");
    }
    ~nats_session() {
        jsCtx_Destroy(js_);
        natsConnection_Destroy(connection_);
    }
    nats_session(const nats_session&) = delete;
    nats_session& operator=(const nats_session&) = delete;

    [[nodiscard]] jsCtx* js() const { return js_; }

    // -1: there is no such stream
    std::int64_t count(const std::string& stream) {
        jsStreamInfo* info = nullptr;
        if (js_GetStreamInfo(&info, js_, stream.c_str(), nullptr, nullptr) != NATS_OK) return -1;
        const auto messages = static_cast<std::int64_t>(info->State.Msgs);
        jsStreamInfo_Destroy(info);
        return messages;
    }
    std::vector<stored> all(const std::string& stream) {
        std::vector<stored> found;
        for (std::int64_t n = count(stream), seq = 1; seq <= n; ++seq) {
            natsMsg* m = nullptr;
            require(js_GetMsg(&m, js_, stream.c_str(), static_cast<std::uint64_t>(seq), nullptr, nullptr), "js_GetMsg");
            stored& each = found.emplace_back();
            each.subject = natsMsg_GetSubject(m);
            each.data.assign(natsMsg_GetData(m), static_cast<std::size_t>(natsMsg_GetDataLength(m)));
            const char** names = nullptr;
            int headers = 0;
            if (natsMsgHeader_Keys(m, &names, &headers) == NATS_OK)
                for (int i = 0; i < headers; ++i) {
                    const char* value = nullptr;
                    require(natsMsgHeader_Get(m, names[i], &value), "header");
                    each.headers[names[i]] = value;
                }
            std::free(static_cast<void*>(names));
            natsMsg_Destroy(m);
        }
        return found;
    }

private:
    natsConnection* connection_ = nullptr;
    jsCtx* js_ = nullptr;
};

} // namespace test
