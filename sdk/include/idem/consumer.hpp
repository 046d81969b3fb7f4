// consumer: works on the messages of the outbox, each exactly once. Fetch, work, ack, commit; again and again.
//
//     idem::client client{"dbname=shop"};
//     idem::consumer sales{client, "daily sales", [](idem::transaction& tx, const idem::message& m) {
//         tx.exec("UPDATE … ", {m.payload});
//     }};
//     sales.run(); // until somebody calls sales.stop()
//
// THE CALLBACK MAY RUN MORE THAN ONCE for a message, each time in a fresh transaction after the last one was rolled
// back: it does database work on `tx` and nothing else. Its work is kept exactly once.
#pragma once

#include <idem/client.hpp>
#include <idem/errors.hpp>
#include <idem/run.hpp>
#include <idem/transaction.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace idem {

// As it was published.
struct message {
    std::int64_t id{};
    std::string topic{};
    std::optional<std::string> key{}, type{};
    std::string payload{};                // JSON text
    std::optional<std::string> headers{}; // a JSON object
    std::string created_at{};             // ISO 8601, with microseconds and offset
    int attempt{};                        // 1: it has not failed before
};

struct consumer_options {
    // How many messages at most are fetched, held in memory, and worked on in one transaction; 1 to 100000.
    int batch = 100;
    // How long the server looks out for a message before it says that there is none; at most a minute. stop() does
    // not wait for it.
    std::chrono::milliseconds wait = std::chrono::seconds{10};
    // A server silent for so long (a fetch: in addition to its wait) is given up, statement by statement.
    std::chrono::milliseconds response_timeout = std::chrono::seconds{10};
    // The server ends the transaction, and another process may have its messages, when nothing came from us for so
    // long; 0: its own setting. The callback must not pause longer between two statements.
    std::chrono::milliseconds idle_timeout = std::chrono::seconds{10};
    // Called before each new try with what went wrong, for your log; to give up, throw from it.
    std::function<void(const std::exception&)> on_retry{};
};

namespace detail {

// The work on a batch, within an open transaction. `sqlstate_of_current` as in detail::work.
struct batch_work {
    std::function<void(client&, std::chrono::milliseconds response_timeout, std::span<const message>)> body;
    std::optional<std::string> (*sqlstate_of_current)();
};

// How a kind of client hands out its transactions: idem::pqxx_client has its own.
template <typename Client>
struct transactions;

template <>
struct transactions<client> {
    static client& base(client& on) noexcept { return on; }
    static std::optional<std::string> sqlstate_of_current() { return detail::sqlstate_of_current(); }
    template <typename Use>
    static void use(client& open, std::chrono::milliseconds response_timeout, Use&& work) {
        transaction tx{open.connection(), response_timeout};
        work(tx);
    }
};

} // namespace detail

// One lane: messages come in the order of their ids within a batch, so those of one key in their publishers' order.
// Several processes may run a consumer of one name: one of them works, the others stand by. It stays where it is, for a
// signal handler may know it. One thread at a time, but for stop().
class consumer {
public:
    // `on` is an idem::client or an idem::pqxx_client, outside of any transaction, which outlives the consumer; it
    // reconnects by itself. `name` is one that idem_subscribe() has made known. `fn` is called with the open
    // transaction, an idem::transaction& or a pqxx::transaction_base&, and
    //     const idem::message&               once for each message, or
    //     std::span<const idem::message>     once for the batch, never empty: for statements on all of it at once.
    template <typename Client, typename Fn>
    consumer(Client& on, std::string name, Fn fn, consumer_options options = {})
        : consumer{detail::transactions<Client>::base(on), std::move(name), work<Client>(std::move(fn)),
                   std::move(options)} {}
    consumer(const consumer&) = delete;
    consumer& operator=(const consumer&) = delete;
    ~consumer();

    // Works until stop(). Transactions are READ COMMITTED: BEGIN travels with the fetch and the ack with COMMIT, so a
    // batch costs two network round trips and those of the callback. A COMMIT whose reply was lost needs no question:
    // the next fetch goes on where the server is.
    //
    // Tried again, with backoff up to a second, for as long as it takes: 40001, 40P01, a lost or silent connection, no
    // connection.
    //
    // An exception of `fn` rolls the batch back and passes; so does any other error, an idem::error with its SQLSTATE.
    // Besides the server's own
    //   22023 batch out of range   25001 the connection is in a transaction   ID011 invalid name
    //   ID007 wait out of range    ID009 the callback ended the transaction   42704 no such consumer
    //   25P02 the callback returned though its transaction had failed
    void run();

    // The same, but ends when there is nothing left, or another transaction has it in hand; be it one of our own, of a
    // connection that went silent: the server ends that after idle_timeout.
    void drain();

    // Makes run and drain return, at once when they wait for a message, else after the batch in hand. From then on they
    // return immediately. May be called from any thread and from a signal handler.
    void stop() noexcept;

private:
    consumer(client& on, std::string name, detail::batch_work work, consumer_options options);

    template <typename Client, typename Fn>
    static detail::batch_work work(Fn fn) {
        return {[fn = std::move(fn)](client& open, std::chrono::milliseconds timeout,
                                     std::span<const message> batch) mutable {
                    detail::transactions<Client>::use(open, timeout, [&](auto& tx) {
                        if constexpr (std::invocable<Fn&, decltype(tx), const message&>)
                            for (const message& each : batch) std::invoke(fn, tx, each);
                        else
                            std::invoke(fn, tx, batch);
                    });
                },
                detail::transactions<Client>::sqlstate_of_current};
    }

    void loop(bool until_empty);
    bool work_on_next_batch(std::chrono::milliseconds wait);
    [[nodiscard]] bool stopped() const { return stopped_within(std::chrono::milliseconds{0}); }
    [[nodiscard]] bool stopped_within(std::chrono::milliseconds) const;
    void end_transaction() noexcept;

    client& client_;
    std::string name_;
    detail::batch_work work_;
    consumer_options options_;
    std::array<int, 2> bell_{-1, -1}; // a pipe: stop() writes to it, and it stays readable
    bool suspect_ = false;            // the server may still hold a transaction of ours that we lost
};

} // namespace idem
