#include "sockets.hpp"

#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

namespace idem::test {

namespace {

std::system_error os_error(const char* what) { return {errno, std::generic_category(), what}; }

std::uint16_t port_of(const sockaddr_in& address) { return ntohs(address.sin_port); }

void send_at_once(const descriptor& fd) {
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); // a unix socket refuses, and needs none
}

} // namespace

descriptor listen_on_loopback() {
    descriptor fd{::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) || ::listen(fd.get(), 128))
        throw os_error("proxy: listen");
    return fd;
}

std::uint16_t local_port(const descriptor& fd) {
    sockaddr_in address{};
    socklen_t length = sizeof address;
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
    return port_of(address);
}

visitor accept_from(const descriptor& listener) {
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    descriptor socket{::accept4(listener.get(), reinterpret_cast<sockaddr*>(&peer), &length, SOCK_CLOEXEC)};
    if (socket) send_at_once(socket);
    return {std::move(socket), port_of(peer)};
}

descriptor connect_upstream(const std::string& host, const std::string& port) {
    if (host.starts_with('/')) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        const auto path = host + "/.s.PGSQL." + port;
        if (path.size() >= sizeof address.sun_path) return {};
        std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
        descriptor fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)) return {};
        return fd;
    }
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &found)) return {};
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> all{found, &::freeaddrinfo};
    for (const auto* each = found; each; each = each->ai_next) {
        descriptor fd{::socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        if (::connect(fd.get(), each->ai_addr, each->ai_addrlen)) continue;
        send_at_once(fd);
        return fd;
    }
    return {};
}

} // namespace idem::test
