// The sockets that the proxy listens and connects with.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

namespace idem::test {

class descriptor {
public:
    descriptor() = default;
    explicit descriptor(int fd) : fd_{fd} {}
    descriptor(descriptor&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
    descriptor& operator=(descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~descriptor() { close(); }

    void close() {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }
    // Closing then sends a reset instead of an end of file.
    void reset() {
        const linger now{1, 0};
        if (fd_ >= 0) ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close();
    }
    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

private:
    int fd_ = -1;
};

// Throws std::system_error.
descriptor listen_on_loopback();

struct visitor {
    descriptor socket;      // none, if the client has gone already
    std::uint16_t port = 0; // its own, at its end
};
visitor accept_from(const descriptor& listener);

// As libpq does it: a host that begins with a slash is the directory of a unix socket. None: not reachable.
descriptor connect_upstream(const std::string& host, const std::string& port);

std::uint16_t local_port(const descriptor&);

} // namespace idem::test
