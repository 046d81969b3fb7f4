#include "http.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>

#include <algorithm>
#include <ctime>
#include <optional>
#include <utility>

namespace shop {

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using namespace std::chrono_literals;

constexpr std::size_t read_at_once = 4096;
constexpr auto every = 200ms;  // how exactly time is kept
constexpr auto lingering = 2s; // for a client to read our last words
constexpr auto idle_at_the_end = 1s;

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

void append(std::string& text, std::size_t number) {
    char digits[20];
    char* at = std::end(digits);
    do *--at = static_cast<char>('0' + number % 10);
    while ((number /= 10) != 0);
    text.append(at, std::end(digits));
}

// Keeps of a request what we need.
class parser final : public http::basic_parser<true> {
public:
    parser(http_request& into, const http_options& limits) : into_{into}, most_header_{limits.most_header} {
        header_limit(limits.most_header);
        body_limit(limits.most_body);
        eager(true);
    }
    [[nodiscard]] bool expects_continue() const { return expects_continue_; }

private:
    using error = boost::beast::error_code&;
    using text = boost::beast::string_view;

    void on_request_impl(http::verb method, text, text target, int version, error) override {
        into_.method = method;
        into_.target = view(target);
        into_.version = version;
    }
    void on_field_impl(http::field name, text spelled, text value, error wrong) override {
        // The base class does not count what it has parsed already.
        if ((header_ += spelled.size() + value.size() + 4) > most_header_) wrong = http::error::header_limit;
        const auto keep = [&value](http_header& header) {
            header.text = view(value);
            ++header.times;
        };
        if (name == http::field::authorization)
            keep(into_.authorization);
        else if (name == http::field::expect)
            expects_continue_ = boost::beast::iequals(value, "100-continue");
        else if (name == http::field::unknown && boost::beast::iequals(spelled, "idempotency-key"))
            keep(into_.idempotency_key);
        else if (name == http::field::unknown && boost::beast::iequals(spelled, "traceparent"))
            keep(into_.traceparent);
    }
    void on_body_init_impl(const boost::optional<std::uint64_t>& length, error) override {
        if (length) into_.body.reserve(static_cast<std::size_t>(*length));
    }
    std::size_t on_body_impl(text part, error) override {
        into_.body.append(part.data(), part.size());
        return part.size();
    }
    std::size_t on_chunk_body_impl(std::uint64_t, text part, error ec) override { return on_body_impl(part, ec); }
    void on_response_impl(int, text, int, error) override {}
    void on_header_impl(error) override {}
    void on_chunk_header_impl(std::uint64_t, text, error) override {}
    void on_finish_impl(error) override {}

    http_request& into_;
    std::size_t header_ = 0, most_header_;
    bool expects_continue_ = false;
};

} // namespace

// ---- a connection ----

// Of its operations one is under way at a time, and nothing but the end of that one deletes it.
class http_listener::session final : public http_connection {
public:
    session(http_listener& all, socket&& from)
        : all_{all},
          socket_{std::move(from)},
          buffer_{all.options_.most_header + read_at_once},
          exchange_{all.exchanges_(*this)} {}

    void begin(std::list<session>::iterator here) {
        here_ = here;
        if (all_.sessions_.size() > all_.options_.most_connections) return refuse(503);
        next();
    }

    void answer(const http_answer& what) override {
        const bool last = refused_ || all_.draining() || !parser_->keep_alive();
        const bool head = request_.method == http::verb::head;
        out_ = "HTTP/1.1 ";
        append(out_, what.status);
        (out_ += ' ') += view(http::obsolete_reason(http::int_to_status(what.status)));
        out_ += "\r\nContent-Type: ";
        (out_ += what.content_type) += "\r\nContent-Length: ";
        append(out_, what.body.size());
        ((out_ += "\r\n") += what.headers) += all_.date_;
        if (last || request_.version < 11) out_ += last ? "Connection: close\r\n" : "Connection: keep-alive\r\n";
        out_ += "\r\n";
        if (!head) out_ += what.body;
        until_ = clock::now() + all_.options_.answer_within;
        asio::async_write(socket_, asio::buffer(out_), [this, last](const error_code& failed, std::size_t) {
            if (failed) return all_.end(here_);
            last ? linger() : next();
        });
    }

    // Is over time: what is under way ends.
    void look_at(clock::time_point now) {
        const bool over = now > until_ || (all_.draining() && phase_ == phase::idle && now > since_ + idle_at_the_end);
        if (!over) return;
        over_time_ = true;
        error_code ignored;
        socket_.cancel(ignored);
    }

private:
    enum class phase { idle, reading, handling, ending };

    void next() {
        reset(request_.body);
        reset(out_);
        for (http_header* each : {&request_.authorization, &request_.idempotency_key, &request_.traceparent}) {
            each->text.clear();
            each->times = 0;
        }
        parser_.emplace(request_, all_.options_);
        over_time_ = false;
        phase_ = phase::idle;
        since_ = clock::now();
        until_ = since_ + all_.options_.idle;
        parse();
    }

    void parse() {
        error_code wrong;
        while (buffer_.size() > 0 && !wrong && !parser_->is_done())
            buffer_.consume(parser_->put(buffer_.data(), wrong));
        if (parser_->is_done()) return handle();
        if (wrong && wrong != http::error::need_more) return refuse(status_of(wrong));
        if (phase_ == phase::idle && parser_->got_some()) {
            phase_ = phase::reading;
            until_ = clock::now() + all_.options_.request_within;
        }
        if (parser_->is_header_done() && parser_->expects_continue() && !told_to_continue_)
            tell_to_continue();
        else
            read();
    }

    void read() {
        const auto room = buffer_.prepare(std::min(read_at_once, buffer_.max_size() - buffer_.size()));
        if (room.size() == 0) return refuse(400);
        socket_.async_read_some(room, [this](const error_code& failed, std::size_t count) {
            if (failed) return over_time_ && phase_ == phase::reading ? refuse(408) : all_.end(here_);
            buffer_.commit(count);
            parse();
        });
    }

    void tell_to_continue() {
        told_to_continue_ = true;
        out_ = "HTTP/1.1 100 Continue\r\n\r\n";
        asio::async_write(socket_, asio::buffer(out_),
                          [this](const error_code& failed, std::size_t) { failed ? all_.end(here_) : read(); });
    }

    void handle() {
        phase_ = phase::handling;
        told_to_continue_ = false;
        request_.since = clock::now();
        until_ = clock::time_point::max(); // whoever answers keeps the time
        exchange_->handle(request_);
    }

    void refuse(unsigned status) {
        phase_ = phase::handling;
        refused_ = true;
        request_.since = clock::now();
        until_ = clock::time_point::max();
        exchange_->refuse(request_, status);
    }

    static unsigned status_of(const error_code& wrong) {
        if (wrong == http::error::header_limit) return 431;
        if (wrong == http::error::body_limit) return 413;
        if (wrong == http::error::bad_version) return 505;
        return 400;
    }

    // Our answer would be lost if we closed while more of the request arrives.
    void linger() {
        if (phase_ != phase::ending) {
            error_code ignored;
            socket_.shutdown(socket::shutdown_send, ignored);
            phase_ = phase::ending;
            over_time_ = false;
            until_ = clock::now() + lingering;
            buffer_.clear();
        }
        socket_.async_read_some(buffer_.prepare(read_at_once), [this](const error_code& failed, std::size_t) {
            failed || over_time_ ? all_.end(here_) : linger();
        });
    }

    http_listener& all_;
    std::list<session>::iterator here_{};
    socket socket_;
    boost::beast::flat_buffer buffer_;
    std::optional<parser> parser_{};
    http_request request_{};
    std::unique_ptr<http_exchange> exchange_;
    std::string out_{};
    phase phase_ = phase::idle;
    clock::time_point since_{}, until_ = clock::time_point::max();
    bool refused_ = false, over_time_ = false, told_to_continue_ = false;
};

// ---- all of them ----

http_listener::http_listener(asio::io_context& io, http_options options, exchanges made)
    : io_{io},
      options_{std::move(options)},
      exchanges_{std::move(made)},
      acceptor_{io},
      timer_{io} {
    acceptor_.open(options_.at.protocol());
    acceptor_.set_option(asio::socket_base::reuse_address{true});
    acceptor_.bind(options_.at);
    acceptor_.listen(asio::socket_base::max_listen_connections);
    tick();
    accept();
}

http_listener::~http_listener() = default;

std::size_t http_listener::connections() const noexcept { return sessions_.size(); }

void http_listener::accept() {
    accepting_ = true;
    acceptor_.async_accept([this](const error_code& failed, socket from) {
        accepting_ = false;
        if (!acceptor_.is_open()) return;
        if (failed == asio::error::connection_aborted) return accept();
        if (failed) return; // no descriptor is left, say: until the next tick
        error_code ignored; // a Unix socket has no such option
        from.set_option(tcp::no_delay{true}, ignored);
        const auto added = sessions_.emplace(sessions_.end(), *this, std::move(from));
        accept();
        added->begin(added);
    });
}

void http_listener::tick() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    char text[64];
    date_.assign(text, std::strftime(text, sizeof text, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts));

    for (session& each : sessions_) each.look_at(clock::now());
    if (!accepting_ && acceptor_.is_open()) accept();
    timer_.expires_after(every);
    timer_.async_wait([this](const error_code& failed) {
        if (!failed) tick();
    });
}

void http_listener::end(std::list<session>::iterator over) {
    sessions_.erase(over);
    if (draining() && sessions_.empty()) asio::post(io_, done_);
}

void http_listener::drain(std::function<void()> done) {
    done_ = std::move(done);
    error_code ignored;
    acceptor_.close(ignored);
    if (sessions_.empty()) asio::post(io_, done_);
}

} // namespace shop
