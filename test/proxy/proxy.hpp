// A loopback proxy between libpq and PostgreSQL: counts round trips and loses connections where it hurts.
//
//     idem::test::proxy proxy{{.host = getenv("PGHOST"), .port = getenv("PGPORT")}};
//     proxy.at_commit([](auto&) { return idem::test::drop(idem::test::place::after_commit); });
//     PQconnectdb(("hostaddr=127.0.0.1 port=" + std::to_string(proxy.port()) + …).c_str());
//
// It runs in a thread of its own; all members may be called from any other thread.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace idem::test {

// Where a connection was lost.
enum class place {
    before_commit, // the server never gets the COMMIT
    after_commit,  // the server has executed it and answered; nothing of its answer passes
    in_reply,      // part of the answer passes, ending inside a message
    at_random,     // at some other message, see drop_probability
    on_demand      // drop_all, silence_all
};
constexpr std::size_t places = 5;

enum class fate {
    pass,
    drop,   // both sides are closed (the client sees a reset; after part of a reply, an end of file)
    silence // a black hole: nothing passes either way any more, and neither side is told
};

struct verdict {
    fate what = fate::pass;
    place where = place::before_commit; // one of the first three
};
constexpr verdict pass() { return {}; }
constexpr verdict drop(place where) { return {fate::drop, where}; }
constexpr verdict silence(place where) { return {fate::silence, where}; }

// A COMMIT on its way to the server. It is the connection's nth, and the proxy's nth, both from 1.
struct commit {
    std::size_t connection; // index in proxy::connections()
    std::uint64_t nth_here, nth;
};

struct connection_counts {
    std::uint16_t client_port = 0;  // the client's own port, to tell connections apart
    std::uint64_t messages = 0;     // from the client, after its startup
    std::uint64_t round_trips = 0;  // client speaks after server spoke; startup and Terminate do not count
    std::uint64_t commits = 0;      // COMMITs on their way
    std::uint64_t commits_done = 0; // of which the server said COMMIT
    bool open = true;
};

struct counts {
    std::uint64_t connections = 0, refused = 0, messages = 0, round_trips = 0, commits = 0, commits_done = 0;
    std::array<std::uint64_t, places> dropped{}, silenced{};

    std::uint64_t dropped_at(place p) const { return dropped[static_cast<std::size_t>(p)]; }
    std::uint64_t silenced_at(place p) const { return silenced[static_cast<std::size_t>(p)]; }
    std::uint64_t lost() const; // dropped and silenced, everywhere
};

class proxy {
public:
    using decide = std::function<verdict(const commit&)>;

    struct options {
        std::string host = "127.0.0.1"; // as PGHOST: a name, an address, or the directory of a unix socket
        std::string port = "5432";
        std::uint64_t seed = 1;      // for drop_probability and for where a reply is cut
        double drop_probability = 0; // for each client message after the startup that is not a COMMIT
        std::chrono::microseconds delay_to_server{0}, delay_to_client{0};
        bool half_open = false; // after silence, keep the server's side open when the client goes, until let_go()
    };

    explicit proxy(options);
    ~proxy();
    proxy(proxy&&) noexcept;
    proxy& operator=(proxy&&) noexcept;

    std::uint16_t port() const; // listens on 127.0.0.1

    void at_commit(decide); // called in the proxy's thread: be quick, do not call the proxy
    void drop_probability(double);
    void half_open(bool);
    void delay(std::chrono::microseconds to_server, std::chrono::microseconds to_client);

    void drop_all();
    void silence_all();
    void refuse(bool); // while true, new connections are reset at once
    void let_go();     // close what silence holds open

    counts totals() const;
    std::vector<connection_counts> connections() const; // in order of arrival

private:
    struct loop;
    std::unique_ptr<loop> loop_;
};

} // namespace idem::test
