// HTTP/1.1: a listener and its connections, on Boost.Asio and the parser of Boost.Beast. A connection answers one
// request after the other; what a client sends ahead waits in its buffer. All of it is the io_context's one thread's.
#pragma once

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/http/verb.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>

namespace shop {

using clock = std::chrono::steady_clock;

// A header that may come once.
struct http_header {
    std::string text{};
    int times = 0;
};

struct http_request {
    boost::beast::http::verb method{};
    int version = 11;
    std::string target{}, body{};
    http_header authorization{}, idempotency_key{}, traceparent{};
    clock::time_point since{}; // it was complete
};

struct http_answer {
    unsigned status = 200;
    std::string_view content_type = "application/json";
    std::string_view headers{}; // more of them, each with its CRLF
    std::string_view body{};
};

// Empties what is used again, and gives its memory back if it is much.
inline void reset(std::string& text) {
    constexpr std::size_t most_kept = 8 * 1024;
    if (text.capacity() > most_kept)
        text = {};
    else
        text.clear();
}

// What an exchange answers to.
class http_connection {
public:
    // Once for each request, in handle or later; the answer is copied.
    virtual void answer(const http_answer&) = 0;

protected:
    ~http_connection() = default;
};

// What is done with the requests of a connection. Each has one, and hands it one request at a time.
class http_exchange {
public:
    http_exchange() = default;
    http_exchange(const http_exchange&) = delete;
    http_exchange& operator=(const http_exchange&) = delete;
    virtual ~http_exchange() = default;

    // The request stays until it is answered.
    virtual void handle(const http_request&) = 0;
    // It is none, too large, too slow, or one connection too many: what `status` says. The connection ends after the
    // answer.
    virtual void refuse(const http_request&, unsigned status) = 0;
};

struct http_options {
    boost::asio::generic::stream_protocol::endpoint at{}; // an address and port, or the path of a Unix socket
    std::size_t most_connections = 20'000;
    std::uint32_t most_header = 8 * 1024;
    std::uint64_t most_body = 256 * 1024;
    std::chrono::seconds request_within{10}; // from its first byte
    std::chrono::seconds answer_within{10};  // to be taken by the client
    std::chrono::seconds idle{75};           // between two requests
};

class http_listener {
public:
    using exchanges = std::function<std::unique_ptr<http_exchange>(http_connection&)>;

    // Listens. Throws boost::system::system_error.
    http_listener(boost::asio::io_context&, http_options, exchanges);
    ~http_listener();
    http_listener(const http_listener&) = delete;
    http_listener& operator=(const http_listener&) = delete;

    [[nodiscard]] std::size_t connections() const noexcept;

    // Takes no more connections, and ends those that there are after the answer to the request in hand, or when they
    // have been idle for a moment; then calls `done`.
    void drain(std::function<void()> done);
    [[nodiscard]] bool draining() const noexcept { return done_ != nullptr; }

private:
    class session;
    using executor = boost::asio::io_context::executor_type;
    using protocol = boost::asio::generic::stream_protocol;
    using socket = boost::asio::basic_stream_socket<protocol, executor>;

    void accept();
    void tick();
    void end(std::list<session>::iterator);

    boost::asio::io_context& io_;
    http_options options_;
    exchanges exchanges_;
    boost::asio::basic_socket_acceptor<protocol, executor> acceptor_;
    boost::asio::basic_waitable_timer<clock, boost::asio::wait_traits<clock>, executor> timer_;
    std::list<session> sessions_;
    std::function<void()> done_{};
    bool accepting_ = false;
    std::string date_{}; // the header, as of the last tick
};

} // namespace shop
