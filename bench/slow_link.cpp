// A link to 127.0.0.1:PORT on which every byte takes MS milliseconds each way: slow_link PORT MS
// Prints the port that it listens at. Nothing is lost, held together or limited, only late.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <queue>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

namespace {

using clock_type = std::chrono::steady_clock;

// Closed when both directions are over.
class socket_handle {
public:
    explicit socket_handle(int fd) : fd_{fd} {
        if (fd < 0) throw std::system_error{errno, std::generic_category()};
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    socket_handle(const socket_handle&) = delete;
    socket_handle& operator=(const socket_handle&) = delete;
    ~socket_handle() { close(fd_); }
    [[nodiscard]] int fd() const { return fd_; }

private:
    int fd_;
};

using shared_socket = std::shared_ptr<socket_handle>;

sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<in_port_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

// What is under way, with the time when each piece is due; an empty piece is the end.
class pipe_of_time {
public:
    void put(clock_type::time_point due, std::string bytes) {
        const std::scoped_lock lock{mutex_};
        pieces_.emplace(due, std::move(bytes));
        there_.notify_one();
    }
    std::string take() {
        std::unique_lock lock{mutex_};
        there_.wait(lock, [this] { return !pieces_.empty(); });
        auto [due, bytes] = std::move(pieces_.front());
        pieces_.pop();
        lock.unlock();
        std::this_thread::sleep_until(due);
        return bytes;
    }

private:
    std::mutex mutex_;
    std::condition_variable there_;
    std::queue<std::pair<clock_type::time_point, std::string>> pieces_;
};

void receive(const shared_socket& from, const std::shared_ptr<pipe_of_time>& pipe, std::chrono::milliseconds delay) {
    std::array<char, 65536> buffer{};
    ssize_t got = 0;
    while ((got = recv(from->fd(), buffer.data(), buffer.size(), 0)) > 0)
        pipe->put(clock_type::now() + delay, {buffer.data(), static_cast<std::size_t>(got)});
    pipe->put(clock_type::now() + delay, {});
}

void deliver(const shared_socket& to, const std::shared_ptr<pipe_of_time>& pipe) {
    for (std::string bytes = pipe->take(); !bytes.empty(); bytes = pipe->take())
        for (std::span<const char> left{bytes}; !left.empty();) {
            const ssize_t sent = send(to->fd(), left.data(), left.size(), MSG_NOSIGNAL);
            if (sent < 0) break;
            left = left.subspan(static_cast<std::size_t>(sent));
        }
    shutdown(to->fd(), SHUT_WR);
}

void one_way(const shared_socket& from, const shared_socket& to, std::chrono::milliseconds delay) {
    auto pipe = std::make_shared<pipe_of_time>();
    std::thread{receive, from, pipe, delay}.detach();
    std::thread{deliver, to, pipe}.detach();
}

void serve(int port, std::chrono::milliseconds delay) {
    const socket_handle listener{socket(AF_INET, SOCK_STREAM, 0)};
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address); // NOLINT: what sockets take
    if (bind(listener.fd(), any, size) != 0 || listen(listener.fd(), 128) != 0 ||
        getsockname(listener.fd(), any, &size) != 0)
        throw std::system_error{errno, std::generic_category(), "cannot listen"};
    std::printf("%d\n", ntohs(address.sin_port));
    std::fflush(stdout);
    for (;;) {
        const auto near = std::make_shared<socket_handle>(accept(listener.fd(), nullptr, nullptr));
        const auto far = std::make_shared<socket_handle>(socket(AF_INET, SOCK_STREAM, 0));
        sockaddr_in server = loopback(port);
        if (connect(far->fd(), reinterpret_cast<sockaddr*>(&server), sizeof server) != 0) continue; // NOLINT: as above
        one_way(near, far, delay);
        one_way(far, near, delay);
    }
}

} // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 3) {
            std::fputs("usage: slow_link PORT MS\n", stderr);
            return 2;
        }
        serve(std::atoi(argv[1]), std::chrono::milliseconds{std::atoi(argv[2])});
    } catch (const std::exception& e) {
        std::fprintf(stderr, "slow_link: %s\n", e.what());
        return 1;
    }
}
