#include "proxy.hpp"

#include "sockets.hpp"
#include "wire.hpp"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <future>
#include <list>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <string_view>
#include <thread>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace idem::test {

namespace {

using steady = std::chrono::steady_clock;
using std::chrono::microseconds;

// One direction of a link: bytes come in until they make a message, messages wait until they are due.
class stream {
public:
    // False at the end of the stream, an error included.
    bool read_from(const descriptor& fd) {
        char buffer[65536];
        const auto n = ::recv(fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
        if (n > 0) in_.append(buffer, static_cast<std::size_t>(n));
        return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
    }
    std::optional<std::string> next_message(bool typed) {
        const auto length = wire::message_length(std::string_view{in_}.substr(taken_), typed);
        if (length == 0) {
            in_.erase(0, std::exchange(taken_, 0));
            return {};
        }
        return in_.substr(std::exchange(taken_, taken_ + length), length);
    }
    void discard_input() { in_.clear(), taken_ = 0; }

    void put(std::string bytes, microseconds delay) { out_.emplace_back(steady::now() + delay, std::move(bytes)); }

    // False if the receiver is gone.
    bool write_to(const descriptor& fd, steady::time_point now) {
        while (!out_.empty() && out_.front().first <= now) {
            auto& bytes = out_.front().second;
            const auto n = ::send(fd.get(), bytes.data() + sent_, bytes.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n < 0) return errno == EAGAIN || errno == EINTR;
            sent_ += static_cast<std::size_t>(n);
            if (sent_ < bytes.size()) return true;
            out_.pop_front();
            sent_ = 0;
        }
        return true;
    }
    bool empty() const { return out_.empty(); }
    steady::time_point due() const { return out_.empty() ? steady::time_point::max() : out_.front().first; }

private:
    std::string in_;
    std::size_t taken_ = 0;
    std::deque<std::pair<steady::time_point, std::string>> out_;
    std::size_t sent_ = 0;
};

// A client, its server, and what is known of their conversation.
struct link {
    enum class phase { opening, authenticating, running, closing, silent };

    descriptor client, server;
    std::size_t index;
    phase state = phase::opening;
    stream to_server, to_client;
    bool server_spoke = false;

    std::map<std::string, bool, std::less<>> prepared; // statement name: is it COMMIT?
    std::uint64_t asked = 0, answered = 0;             // requests that end in ReadyForQuery, and those

    // A COMMIT is executing whose answer is held back, until answer number `held_until` is complete.
    struct holding {
        verdict then;
        std::uint64_t held_until;
        std::string bytes;
        std::vector<std::size_t> ends; // of its messages
    };
    std::optional<holding> held;

    link(descriptor c, descriptor s, std::size_t i) : client{std::move(c)}, server{std::move(s)}, index{i} {}

    bool gone() const { return !client && !server; }
    bool live() const { return state != phase::silent && state != phase::closing; }
    void close() { client.close(), server.close(); }
};

} // namespace

std::uint64_t counts::lost() const {
    return std::accumulate(silenced.begin(), silenced.end(),
                           std::accumulate(dropped.begin(), dropped.end(), std::uint64_t{0}));
}

struct proxy::loop {
    options set;
    decide at_commit;
    bool refusing = false;
    std::mt19937_64 random{set.seed};

    descriptor listener = listen_on_loopback();
    std::uint16_t port = local_port(listener);
    descriptor bell{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    std::list<link> links;

    std::mutex mutable guard; // of the rest
    counts total;
    std::vector<connection_counts> each;
    std::deque<std::packaged_task<void()>> orders;
    bool stopping = false;

    std::thread thread;

    explicit loop(options o) : set{std::move(o)} {
        thread = std::thread{[this] { run(); }};
    }
    ~loop() {
        order([this] { stopping = true; });
        thread.join();
    }

    // Run something in the proxy's thread and wait for it.
    template <typename F>
    void order(F work) {
        std::packaged_task<void()> task{std::move(work)};
        auto done = task.get_future();
        {
            const std::lock_guard lock{guard};
            orders.push_back(std::move(task));
        }
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto written = ::write(bell.get(), &one, sizeof one);
        done.get();
    }

    template <typename F>
    void count(const link& l, F f) {
        const std::lock_guard lock{guard};
        f(total, each[l.index]);
    }

    void run() {
        while (!stopping) {
            const auto fds = wait();
            if (fds[1].revents) obey();
            if (fds[0].revents) accept();
            // Pairs of descriptors in the order of the links; those just accepted come after them.
            auto fd = fds.begin() + 2;
            for (auto l = links.begin(); l != links.end() && fd != fds.end(); ++l, fd += 2)
                serve(*l, fd[0].revents, fd[1].revents);
            for (auto& l : links)
                if (l.gone()) count(l, [](auto&, auto& here) { here.open = false; });
            links.remove_if([](const link& l) { return l.gone(); });
        }
    }

    std::vector<pollfd> wait() const {
        std::vector<pollfd> fds{{listener.get(), POLLIN, 0}, {bell.get(), POLLIN, 0}};
        const auto now = steady::now();
        auto due = steady::time_point::max();
        const auto wants = [&](const stream& out) -> short { return out.due() <= now ? POLLIN | POLLOUT : POLLIN; };
        for (const auto& l : links) {
            fds.push_back({l.client.get(), wants(l.to_client), 0}); // poll skips what is closed
            fds.push_back({l.server.get(), wants(l.to_server), 0});
            for (const auto* out : {&l.to_client, &l.to_server})
                if (out->due() > now) due = std::min(due, out->due());
        }
        timespec until{};
        if (due != steady::time_point::max()) {
            const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(due - now).count();
            until = {ns / 1'000'000'000, ns % 1'000'000'000};
        }
        ::ppoll(fds.data(), fds.size(), due == steady::time_point::max() ? nullptr : &until, nullptr);
        return fds;
    }

    void obey() {
        std::uint64_t rings;
        [[maybe_unused]] const auto n = ::read(bell.get(), &rings, sizeof rings);
        std::deque<std::packaged_task<void()>> work;
        {
            const std::lock_guard lock{guard};
            work.swap(orders);
        }
        for (auto& task : work) task();
    }

    void accept() {
        auto [client, client_port] = accept_from(listener);
        if (!client) return;
        auto server = refusing ? descriptor{} : connect_upstream(set.host, set.port);
        const std::lock_guard lock{guard};
        if (!server) {
            ++total.refused;
            return client.reset();
        }
        links.emplace_back(std::move(client), std::move(server), each.size());
        each.push_back({.client_port = client_port});
        ++total.connections;
    }

    void serve(link& l, short from_client, short from_server) {
        try {
            if (from_client & ~POLLOUT && l.client && !l.to_server.read_from(l.client)) client_left(l);
            while (l.live())
                if (auto message = l.to_server.next_message(l.state != link::phase::opening))
                    client_says(l, std::move(*message));
                else
                    break;
            if (from_server & ~POLLOUT && l.server && !l.to_client.read_from(l.server)) server_left(l);
            while (l.live())
                if (auto message = l.to_client.next_message(true))
                    server_says(l, std::move(*message));
                else
                    break;
        } catch (const std::exception&) { // not the protocol, or the callback threw: lose this connection
            l.client.reset(), l.server.close();
        }
        if (!l.live()) l.to_server.discard_input(), l.to_client.discard_input();

        const auto now = steady::now();
        if (l.server && !l.to_server.write_to(l.server, now)) server_left(l);
        if (l.client && !l.to_client.write_to(l.client, now)) client_left(l);
        if (l.state == link::phase::closing && l.to_client.empty() && l.to_server.empty()) l.close();
    }

    void client_left(link& l) {
        l.client.close();
        if (l.state != link::phase::silent) {
            l.state = link::phase::closing; // after what the client said last
            l.to_client = {};
            if (l.held) l.server.close();
        } else if (!set.half_open) {
            l.server.close();
        }
        if (!l.server) l.to_server = {};
    }

    void server_left(link& l) {
        l.server.close();
        l.to_server = {};
        if (l.state == link::phase::silent) return;
        while (l.live()) // its last words
            if (auto message = l.to_client.next_message(true))
                server_says(l, std::move(*message));
            else
                l.state = link::phase::closing;
        if (!l.client) l.to_client = {};
    }

    void client_says(link& l, std::string message) {
        if (l.state == link::phase::opening) return client_opens(l, std::move(message));
        const char type = message[0];
        if (type == 'Q' || type == 'S' || type == 'F') ++l.asked;
        if (l.state == link::phase::running && type != 'X') {
            const bool turn = std::exchange(l.server_spoke, false), commit = commits(l, message);
            count(l, [&](auto& all, auto& here) {
                ++all.messages, ++here.messages;
                all.round_trips += turn, here.round_trips += turn;
                all.commits += commit, here.commits += commit;
            });
            if (commit && !l.held) {
                const auto v = ask(l);
                if (v.what != fate::pass && v.where == place::before_commit) return lose(l, v);
                // A simple Query is its own request; a Bind is part of the one that the next Sync ends.
                if (v.what != fate::pass) l.held = {v, type == 'Q' ? l.asked : l.asked + 1, {}, {}};
            } else if (!l.held && std::bernoulli_distribution{set.drop_probability}(random)) {
                return lose(l, drop(place::at_random));
            }
        }
        l.to_server.put(std::move(message), set.delay_to_server);
    }

    void client_opens(link& l, std::string packet) {
        switch (wire::startup_code(packet)) {
        case wire::ssl_request:
        case wire::gssenc_request: l.to_client.put("N", {}); return; // in clear, please
        case wire::cancel_request: break;                            // the server says nothing and closes
        default: l.state = link::phase::authenticating;
        }
        l.to_server.put(std::move(packet), set.delay_to_server);
    }

    static bool commits(link& l, std::string_view message) {
        switch (message[0]) {
        case 'Q': return wire::ends_in_commit(wire::query_text(message));
        case 'P': {
            const auto [name, text] = wire::parse_message(message);
            l.prepared.insert_or_assign(std::string{name}, wire::ends_in_commit(text));
            return false;
        }
        case 'B': {
            const auto found = l.prepared.find(wire::bound_statement(message));
            return found != l.prepared.end() && found->second;
        }
        default: return false;
        }
    }

    verdict ask(const link& l) {
        commit c{l.index, 0, 0};
        count(l, [&](auto& all, auto& here) { c.nth = all.commits, c.nth_here = here.commits; });
        return at_commit ? at_commit(c) : pass();
    }

    void server_says(link& l, std::string message) {
        const char type = message[0];
        if (type == 'Z') {
            if (l.state == link::phase::authenticating)
                l.state = link::phase::running;
            else
                ++l.answered;
        }
        if (l.state == link::phase::running && type != 'N' && type != 'S' && type != 'A') l.server_spoke = true;
        if (wire::is_commit_complete(message))
            count(l, [](auto& all, auto& here) { ++all.commits_done, ++here.commits_done; });

        if (!l.held) return l.to_client.put(std::move(message), set.delay_to_client);
        l.held->bytes += message;
        l.held->ends.push_back(l.held->bytes.size());
        if (type != 'Z' || l.answered != l.held->held_until) return;
        if (l.held->then.where == place::in_reply) l.to_client.put(torn(*l.held), set.delay_to_client);
        lose(l, std::exchange(l.held, {})->then);
    }

    // A beginning of the answer that ends inside one of its messages.
    std::string torn(const link::holding& h) {
        std::uniform_int_distribution<std::size_t> any{1, h.bytes.size() - 1};
        auto at = any(random);
        while (std::find(h.ends.begin(), h.ends.end(), at) != h.ends.end()) at = any(random);
        return h.bytes.substr(0, at);
    }

    void lose(link& l, verdict v) {
        count(l, [&](auto& all, auto&) {
            ++(v.what == fate::drop ? all.dropped : all.silenced)[static_cast<std::size_t>(v.where)];
        });
        l.held.reset();
        if (v.what == fate::silence) {
            l.state = link::phase::silent;
            return;
        }
        l.state = link::phase::closing;
        l.server.close();
        l.to_server = {};
        if (v.where == place::in_reply) return; // once the client has its part
        l.client.reset();
        l.to_client = {};
    }

    void lose_all(verdict v) {
        for (auto& l : links)
            if (l.live()) lose(l, v);
    }
};

proxy::proxy(options o) : loop_{std::make_unique<loop>(std::move(o))} {}
proxy::~proxy() = default;
proxy::proxy(proxy&&) noexcept = default;
proxy& proxy::operator=(proxy&&) noexcept = default;

std::uint16_t proxy::port() const { return loop_->port; }

void proxy::at_commit(decide f) {
    loop_->order([&] { loop_->at_commit = std::move(f); });
}
void proxy::drop_probability(double p) {
    loop_->order([&] { loop_->set.drop_probability = p; });
}
void proxy::half_open(bool on) {
    loop_->order([&] { loop_->set.half_open = on; });
}
void proxy::delay(microseconds to_server, microseconds to_client) {
    loop_->order([&] { loop_->set.delay_to_server = to_server, loop_->set.delay_to_client = to_client; });
}
void proxy::drop_all() {
    loop_->order([&] { loop_->lose_all(drop(place::on_demand)); });
}
void proxy::silence_all() {
    loop_->order([&] { loop_->lose_all(silence(place::on_demand)); });
}
void proxy::refuse(bool on) {
    loop_->order([&] { loop_->refusing = on; });
}
void proxy::let_go() {
    loop_->order([&] {
        for (auto& l : loop_->links)
            if (l.state == link::phase::silent) l.close();
    });
}

counts proxy::totals() const {
    const std::lock_guard lock{loop_->guard};
    return loop_->total;
}
std::vector<connection_counts> proxy::connections() const {
    const std::lock_guard lock{loop_->guard};
    return loop_->each;
}

} // namespace idem::test
