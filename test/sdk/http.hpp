// An HTTP client of the tests' own, which can also send what is none.
#pragma once

#include "loopback.hpp"

#include <poll.h>

#include <cctype>
#include <chrono>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace test {

struct http_answer {
    int status = 0;                               // 0: none, the connection ended
    std::map<std::string, std::string> headers{}; // by their names in lower case
    std::string body{};

    [[nodiscard]] std::string header(const std::string& name) const {
        const auto found = headers.find(name);
        return found != headers.end() ? found->second : "";
    }
};

class http_client {
public:
    explicit http_client(int port) : fd_{socket(AF_INET, SOCK_STREAM, 0)} {
        const sockaddr_in address = loopback(port);
        if (connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) end();
    }
    ~http_client() { end(); }
    http_client(const http_client&) = delete;
    http_client& operator=(const http_client&) = delete;

    [[nodiscard]] bool connected() const { return fd_ >= 0; }

    void send(std::string_view text) const {
        while (!text.empty()) {
            const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
            if (n <= 0) return;
            text.remove_prefix(static_cast<std::size_t>(n));
        }
    }

    // The next answer; to HEAD one without a body.
    http_answer receive(bool has_body = true) {
        http_answer answer;
        while (came_.find("\r\n\r\n") == std::string::npos)
            if (!more()) return answer;
        std::size_t at = came_.find("\r\n");
        answer.status = std::stoi(came_.substr(came_.find(' ') + 1));
        for (at += 2; came_.compare(at, 2, "\r\n") != 0;) {
            const std::size_t end = came_.find("\r\n", at), colon = came_.find(": ", at);
            std::string name = came_.substr(at, colon - at);
            for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
            if (answer.headers.contains(name)) throw std::runtime_error{name + " comes twice"};
            answer.headers[name] = came_.substr(colon + 2, end - colon - 2);
            at = end + 2;
        }
        came_.erase(0, at + 2);
        const std::string length = answer.header("content-length");
        if (length.empty() || !has_body) return answer;
        while (came_.size() < std::stoul(length))
            if (!more()) return {};
        answer.body = came_.substr(0, std::stoul(length));
        came_.erase(0, std::stoul(length));
        return answer;
    }

    // Nothing comes any more: the other side has ended it.
    [[nodiscard]] bool ended() { return came_.empty() && !more(); }

private:
    bool more() {
        char part[4096];
        pollfd readable{fd_, POLLIN, 0};
        if (fd_ < 0 || poll(&readable, 1, 30'000) <= 0) return false;
        const ssize_t n = recv(fd_, part, sizeof part, 0);
        if (n <= 0) return false;
        came_.append(part, static_cast<std::size_t>(n));
        return true;
    }
    void end() {
        if (fd_ >= 0) close(fd_);
        fd_ = -1;
    }

    int fd_;
    std::string came_{};
};

} // namespace test
