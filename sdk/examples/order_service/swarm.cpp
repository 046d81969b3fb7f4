#include "swarm.hpp"

#include "answer.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>

namespace shop {

namespace {

using moment = std::int64_t; // microseconds since the beginning
constexpr moment never = std::numeric_limits<moment>::max();
constexpr moment second = 1'000'000, millisecond = 1'000;

constexpr moment patience = 30 * second; // with a request
constexpr moment connect_time = 3 * second, answer_time = 12 * second;
constexpr moment look_around = 20 * millisecond; // how exact pauses and times are
constexpr std::size_t most_known = 20'000;       // orders to be sent again
constexpr std::size_t most_samples = 10;

std::system_error broken(const char* what) { return {errno, std::generic_category(), what}; }

// ---- orders ----

std::uint64_t mix(std::uint64_t n) { // splitmix64
    n += 0x9e3779b97f4a7c15;
    n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9;
    n = (n ^ (n >> 27)) * 0x94d049bb133111eb;
    return n ^ (n >> 31);
}

struct article {
    const char *sku, *description;
    int pence;
};
constexpr std::array<article, 8> articles{{{"85123A", "WHITE HANGING HEART T-LIGHT HOLDER", 255},
                                           {"71053", "WHITE METAL LANTERN", 339},
                                           {"84406B", "CREAM CUPID HEARTS COAT HANGER", 275},
                                           {"22752", "SET 7 BABUSHKA NESTING BOXES", 765},
                                           {"21730", "GLASS STAR FROSTED T-LIGHT HOLDER", 425},
                                           {"22633", "HAND WARMER UNION JACK", 185},
                                           {"84879", "ASSORTED COLOUR BIRD ORNAMENT", 169},
                                           {"22745", "POPPY'S PLAYHOUSE BEDROOM", 210}}};

void append(std::string& to, std::uint64_t n) {
    std::array<char, 20> digits;
    to.append(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), n).ptr);
}

void append_hex(std::string& to, std::uint64_t n) {
    for (int shift = 60; shift >= 0; shift -= 4) to += "0123456789abcdef"[n >> shift & 15];
}

// One to three lines; calls with(article, quantity).
template <typename With>
void for_each_line(std::uint64_t dice, With&& with) {
    for (std::uint64_t left = 1 + dice % 3; left > 0; --left) {
        dice = mix(dice);
        with(articles[dice % articles.size()], 1 + (dice >> 8) % 12);
    }
}

// ---- clients ----

struct order {
    std::uint64_t number = 0;
    std::string first{}; // answer's essence; empty: there is none yet
    int uses = 0;        // by requests in hand, and as one that may be sent again
};

struct request {
    order* of = nullptr;
    moment due = 0;
    bool repeat = false;       // its key was sent before
    bool was_answered = false; // and answered
    int tries = 0;
};

enum class state { closed, connecting, idle, busy, waiting };

struct client {
    int fd = -1;
    shop::state state = state::closed;
    bool listed = false; // among the idle
    request now{};       // with an order: busy, or to be sent once there is a connection or the time has come
    std::string in{}, out{};
};

} // namespace

void append_order(std::string& to, std::uint64_t number, std::uint64_t seed) {
    const std::uint64_t dice = mix(number ^ mix(seed));
    to += R"({"customer":"c)";
    append(to, dice % 100'000);
    to += R"(","country":"United Kingdom","placed_at":"2010-12-0)";
    append(to, 1 + (dice >> 20) % 7);
    to += R"( 08:26:00","lines":[)";
    char comma = ' ';
    for_each_line(dice, [&](const article& a, std::uint64_t quantity) {
        if (comma == ',') to += comma;
        comma = ',';
        ((to += R"({"sku":")") += a.sku) += R"(","description":")";
        (to += a.description) += R"(","quantity":)";
        append(to, quantity);
        to += R"(,"unit_pence":)";
        append(to, static_cast<std::uint64_t>(a.pence));
        to += '}';
    });
    to += "]}";
}

std::int64_t pence_of_order(std::uint64_t number, std::uint64_t seed) {
    std::int64_t sum = 0;
    for_each_line(mix(number ^ mix(seed)), [&](const article& a, std::uint64_t quantity) {
        sum += a.pence * static_cast<std::int64_t>(quantity);
    });
    return sum;
}

struct swarm::inside {
    explicit inside(const swarm_options& given)
        : options{given},
          clients(static_cast<std::size_t>(given.connections)),
          wake(clients.size(), never),
          random{given.seed},
          poll{epoll_create1(EPOLL_CLOEXEC)} {
        if (poll < 0) throw broken("epoll_create1");
        for (const std::string& each : options.api_keys)
            heads.push_back("POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nAuthorization: "
                            "Bearer " +
                            each + "\r\nIdempotency-Key: \"" + options.keys);
    }
    ~inside() {
        for (const client& each : clients)
            if (each.fd >= 0) ::close(each.fd);
        ::close(poll);
    }
    inside(const inside&) = delete;
    inside& operator=(const inside&) = delete;

    [[nodiscard]] moment clock() const {
        return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began).count();
    }

    // About so long: what failed together shall not come again together.
    moment about(moment time) {
        return time + static_cast<moment>(random() % static_cast<std::uint64_t>(time / 2 + 1));
    }

    // ---- connections ----

    std::size_t index_of(const client& c) const { return static_cast<std::size_t>(&c - clients.data()); }

    void watch(client& c, int how, std::uint32_t events) const {
        epoll_event event{.events = events, .data = {.u64 = index_of(c)}};
        if (epoll_ctl(poll, how, c.fd, &event) != 0) throw broken("epoll_ctl");
    }

    void connect(client& c) {
        c.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (c.fd < 0) throw broken("socket");
        const int on = 1;
        setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        to.sin_port = htons(static_cast<std::uint16_t>(options.port));
        if (::connect(c.fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS) {
            cut(c);
            return;
        }
        watch(c, EPOLL_CTL_ADD, EPOLLOUT);
        c.state = state::connecting;
        wake[index_of(c)] = now + connect_time;
    }

    void connected(client& c) {
        int failed = 0;
        socklen_t size = sizeof failed;
        getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &failed, &size);
        if (failed != 0) {
            cut(c);
            return;
        }
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        ++open;
        if (c.now.of != nullptr)
            send(c);
        else if (began_to_send)
            next(c);
        else
            rest(c);
    }

    void close(client& c) {
        if (c.state != state::connecting && c.state != state::closed) --open;
        ::close(c.fd); // and so out of epoll
        c.fd = -1;
        c.state = state::closed;
        c.in.clear();
        c.out.clear();
    }

    // Lost, or given up: soon again.
    void cut(client& c) {
        if (c.fd >= 0) close(c);
        if (c.now.of != nullptr && began_to_send) ++report.cuts;
        if (!give_up_late(c)) wake[index_of(c)] = now + about((c.now.tries > 3 ? 500 : 50) * millisecond);
    }

    void rest(client& c) {
        c.state = state::idle;
        wake[index_of(c)] = never;
        if (!c.listed) idle.push_back(index_of(c));
        c.listed = true;
    }

    // ---- requests ----

    void release(order* o) {
        if (--o->uses > 0) return;
        o->first.clear();
        spare.push_back(o);
    }

    // May be sent again later.
    void keep(order* o) {
        if (known.size() >= most_known) return;
        known.push_back(o);
        ++o->uses;
    }

    request choose(moment at) {
        request r{.due = at};
        if (!known.empty() && std::uniform_real_distribution{}(random) < options.retry_share) {
            const std::size_t place = random() % known.size();
            r.of = known[place];
            r.repeat = true;
            r.was_answered = !r.of->first.empty();
            ++report.repeats;
            if (random() % 4 != 0) { // else it comes once more
                known[place] = known.back();
                known.pop_back();
                --r.of->uses;
            }
        } else {
            if (spare.empty()) {
                orders.emplace_back();
                spare.push_back(&orders.back());
            }
            r.of = spare.back();
            spare.pop_back();
            r.of->number = report.orders++;
            report.is_acknowledged.push_back(false);
            unmarked.push_back(false);
            if (options.retry_share > 0 && random() % 10 == 0) keep(r.of); // so it may be sent twice at a time
        }
        ++r.of->uses;
        ++report.requests;
        return r;
    }

    void write(std::string& to, const request& r) {
        to += heads[r.of->number % heads.size()];
        append(to, r.of->number);
        to += "\"\r\ntraceparent: 00-";
        append_hex(to, mix(options.seed));
        append_hex(to, r.of->number + 1);
        to += '-';
        append_hex(to, random() | 1);
        to += "-01\r\nContent-Length: ";
        body.clear();
        append_order(body, r.of->number, options.seed);
        append(to, body.size());
        (to += "\r\n\r\n") += body;
    }

    void begin(client& c, moment at) {
        c.now = choose(at);
        send(c);
    }

    void send(client& c) {
        c.state = state::busy;
        wake[index_of(c)] = now + answer_time;
        ++c.now.tries;
        ++report.tries;
        outgoing.clear();
        write(outgoing, c.now);
        const ssize_t sent = ::send(c.fd, outgoing.data(), outgoing.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            cut(c);
        } else if (const auto begin = static_cast<std::size_t>(std::max<ssize_t>(sent, 0)); begin < outgoing.size()) {
            c.out = outgoing.substr(begin);
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        }
    }

    void send_rest(client& c) {
        const ssize_t sent = ::send(c.fd, c.out.data(), c.out.size(), MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) cut(c);
            return;
        }
        c.out.erase(0, static_cast<std::size_t>(sent));
        if (c.out.empty()) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    }

    void receive(client& c) {
        const ssize_t got = recv(c.fd, incoming.data(), incoming.size(), 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0 || c.state != state::busy) { // what comes unasked for is the end too
            cut(c);
            return;
        }
        std::string_view all{incoming.data(), static_cast<std::size_t>(got)};
        if (!c.in.empty()) all = c.in.append(all);
        const auto complete = answer::parse(all);
        if (!complete) {
            if (c.in.empty()) c.in = all;
            return;
        }
        if (complete->size() != all.size()) throw bad_answer{"more than an answer"};
        answered(c, *complete);
    }

    void answered(client& c, const answer& a) {
        const bool closes = a.closes;
        bool final = true;
        switch (a.status) {
        case 201: judge(c.now, a); break;
        case 409:
            if (a.retry_after) {
                ++report.in_progress;
                final = false;
            } else {
                unexpected(c.now, a);
            }
            break;
        case 429:
        case 502:
        case 503:
        case 504:
            ++report.unavailable;
            note_unavailable();
            final = false;
            break;
        default: unexpected(c.now, a);
        }
        const moment pause = final ? 0 : about(a.retry_after.value_or(1) * second * 3 / 4);
        c.in.clear();
        if (closes) close(c);
        if (final) {
            ++report.answered;
            done(c);
            if (!closes)
                next(c);
            else
                wake[index_of(c)] = now + about(10 * millisecond);
        } else if (!give_up_late(c)) {
            if (!closes) c.state = state::waiting;
            wake[index_of(c)] = now + pause;
        } else if (!closes) {
            next(c);
        }
    }

    void judge(request& r, const answer& a) {
        std::string essence = a.essence();
        const std::uint64_t number = r.of->number;
        if (r.of->first.empty()) {
            r.of->first = std::move(essence);
            if (!r.repeat) keep(r.of);
        } else if (r.of->first != essence) {
            ++report.wrong_replays;
            sample("order " + std::to_string(number) + " was answered\n" + r.of->first + "\nand now\n" + essence);
        }
        if (!report.is_acknowledged[number]) {
            report.is_acknowledged[number] = true;
            ++report.acknowledged;
        }
        if (a.replayed) return;
        if (unmarked[number]) {
            ++report.executed_twice;
            sample("order " + std::to_string(number) + " was executed twice");
        }
        unmarked[number] = true;
        if (r.was_answered) ++report.unmarked_replays;
    }

    void unexpected(const request& r, const answer& a) {
        ++report.others[a.status];
        sample("order " + std::to_string(r.of->number) + " is answered with " + std::to_string(a.status) + ": " +
               std::string{a.body});
    }

    void sample(std::string what) {
        if (report.samples.size() < most_samples) report.samples.push_back(std::move(what));
    }

    void note_unavailable() {
        const moment tenth = now / (100 * millisecond);
        if (tenth != last_unavailable) report.seconds_unavailable += 0.1;
        last_unavailable = tenth;
    }

    // The request has its answer, or never will.
    void done(client& c) {
        request& r = c.now;
        if (r.due >= measured_from) {
            report.all.add(now - r.due);
            (r.repeat ? report.repeated : report.first).add(now - r.due);
        }
        if (now >= measured_from && !ending) ++report.measured_answers;
        --in_hand;
        release(std::exchange(r.of, nullptr));
    }

    bool give_up_late(client& c) {
        if (c.now.of == nullptr || now - c.now.due < patience) return false;
        ++report.unanswered;
        sample("order " + std::to_string(c.now.of->number) + " has no answer after " + std::to_string(c.now.tries) +
               " tries");
        done(c);
        if (c.state == state::closed) wake[index_of(c)] = now + about(50 * millisecond);
        return true;
    }

    // It is free.
    void next(client& c) {
        if (options.rate == 0 && !ending && has_more()) {
            ++in_hand;
            begin(c, now);
        } else {
            rest(c);
        }
    }

    [[nodiscard]] bool has_more() const { return options.requests == 0 || report.requests < options.requests; }

    // ---- the loop ----

    void wake_up(client& c) {
        switch (c.state) {
        case state::closed: connect(c); break;
        case state::connecting: cut(c); break;
        case state::waiting: send(c); break;
        case state::busy:
            ++report.silences;
            cut(c);
            break;
        case state::idle: next(c); break;
        }
    }

    void turn(int milliseconds) {
        std::array<epoll_event, 512> events;
        const int n = epoll_wait(poll, events.data(), events.size(), milliseconds);
        if (n < 0 && errno != EINTR) throw broken("epoll_wait");
        now = clock();
        for (int i = 0; i < n; ++i) {
            if (i % 32 == 31) now = clock();
            client& c = clients[events[static_cast<std::size_t>(i)].data.u64];
            const std::uint32_t what = events[static_cast<std::size_t>(i)].events;
            if (c.state == state::connecting) {
                connected(c);
                continue;
            }
            if ((what & EPOLLOUT) != 0 && !c.out.empty()) send_rest(c);
            if ((what & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0 && c.fd >= 0) receive(c);
        }
        if (now - looked_around < look_around) return;
        looked_around = now;
        for (std::size_t i = 0; i < wake.size(); ++i)
            if (wake[i] <= now) {
                wake[i] = never;
                wake_up(clients[i]);
            }
    }

    // Hands what is due to those who are idle, the one that was so the longest first.
    void hand_out(moment until) {
        for (; next_due() <= until && has_scheduled(); ++scheduled) due.push_back(next_due());
        while (!due.empty() && !idle.empty()) {
            client& c = clients[idle.front()];
            idle.pop_front();
            c.listed = false;
            if (c.state != state::idle) continue;
            ++in_hand;
            const moment was_due = due.front();
            due.pop_front();
            begin(c, was_due);
        }
    }
    [[nodiscard]] moment next_due() const { // by count, so that no rounding adds up
        return sending_from + static_cast<moment>(static_cast<double>(scheduled) * 1e6 / options.rate);
    }
    [[nodiscard]] bool has_scheduled() const { return options.requests == 0 || scheduled < options.requests; }

    void connect_all() {
        for (std::size_t i = 0; i < clients.size(); ++i)
            wake[i] = static_cast<moment>(i) * 100; // 10,000 a second: no queue of a listener overflows
        while (open < clients.size()) {
            turn(10);
            if (now > static_cast<moment>(clients.size()) * 100 + patience)
                throw std::runtime_error{"only " + std::to_string(open) + " of " + std::to_string(clients.size()) +
                                         " connections could be made"};
        }
    }

    swarm_options options;
    swarm_report report{};
    std::vector<client> clients;
    std::vector<moment> wake; // when to look at a client, by index
    std::mt19937_64 random;
    int poll;
    std::vector<std::string> heads{};

    std::deque<order> orders{};
    std::vector<order*> spare{}, known{};
    std::vector<bool> unmarked{}; // there was an answer without Idempotency-Replayed

    std::deque<std::size_t> idle{};
    std::deque<moment> due{}; // and nobody was free
    std::uint64_t scheduled = 0, in_hand = 0;
    std::size_t open = 0;

    std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
    moment now = 0, looked_around = 0, sending_from = 0, measured_from = 0, last_unavailable = -1;
    bool began_to_send = false, ending = false;
    std::string outgoing{}, body{};
    std::vector<char> incoming = std::vector<char>(65'536);
};

swarm::swarm(const swarm_options& options) : inside_{std::make_unique<inside>(options)} {}
swarm::~swarm() = default;
const swarm_report& swarm::report() const noexcept { return inside_->report; }

void swarm::run(const std::function<void()>& ready,
                const std::function<void(double, const swarm_report&)>& every_second,
                const std::function<bool()>& stop) {
    inside& all = *inside_;
    all.connect_all();
    ready();
    all.began_to_send = true;
    all.now = all.sending_from = all.clock();
    all.measured_from = all.now + static_cast<moment>(all.options.warm_up * 1e6);
    const moment end = all.options.seconds > 0 ? all.now + static_cast<moment>(all.options.seconds * 1e6) : never;
    moment told = all.now;

    if (all.options.rate == 0) // one after the other: ten thousand at once is nobody's day
        for (std::size_t i = 0; i < all.clients.size(); ++i) all.wake[i] = all.now + static_cast<moment>(i) * 100;
    for (;;) {
        if (!all.ending) {
            const bool enough = all.options.rate > 0 ? !all.has_scheduled() && all.due.empty() : !all.has_more();
            if (all.now >= end || enough || stop()) {
                all.report.measured = static_cast<double>(all.now - std::min(all.now, all.measured_from)) / 1e6;
                all.ending = true; // what was due and has found nobody free is begun yet
            } else if (all.options.rate > 0) {
                all.hand_out(all.now);
            }
        } else if (all.options.rate > 0 && !all.due.empty()) {
            all.hand_out(-1);
        }
        if (all.ending && all.in_hand == 0 && all.due.empty()) break;
        all.turn(1);
        if (all.now - told >= second) {
            told += second;
            every_second(static_cast<double>(all.now - all.sending_from) / 1e6, all.report);
        }
    }
}

} // namespace shop
