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
//
// Several consumers of one name, in threads or processes as you like, share the work once it has several lanes, as by
// idem_subscribe('daily sales', lanes => 8): each has a client of its own, and fetches from whatever lane is free. A
// key always belongs to one lane, so its messages stay in order.
//
//     std::vector<std::jthread> workers;
//     for (int i = 0; i < 4; ++i)
//         workers.emplace_back([] {
//             idem::client client{"dbname=shop"};
//             idem::consumer{client, "daily sales", work}.run();
//         });
#pragma once

#include <idem/client.hpp>
#include <idem/errors.hpp>
#include <idem/message.hpp>
#include <idem/run.hpp>
#include <idem/transaction.hpp>

#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace idem {

struct consumer_options {
    // How many messages at most are fetched, held in memory, and worked on in one transaction; 1 to 100000.
    int batch = 100;
    // How long the server looks out for a message before it says that there is none; at most a minute. stop() does
    // not wait for it.
    std::chrono::milliseconds wait = std::chrono::seconds{10};
    // How long run() waits after a batch that was not full: what comes meanwhile is one batch, so there are fewer and
    // larger ones. A message that comes after a pause does not wait.
    std::chrono::milliseconds linger{0};
    // A server silent for so long (a fetch: in addition to its wait) is given up, statement by statement.
    std::chrono::milliseconds response_timeout = std::chrono::seconds{10};
    // The server ends the transaction, and another process may have its messages, when nothing came from us for so
    // long; 0: its own setting. The callback must not pause longer between two statements.
    std::chrono::milliseconds idle_timeout = std::chrono::seconds{10};
    // That lane alone, from 0; else whichever is free and has something.
    std::optional<std::int64_t> lane{};
    // Called before each new try with what went wrong, for your log; to give up, throw from it.
    std::function<void(const std::exception&)> on_retry{};
    // Called when a message has failed alone, before it is parked, with what its callback or its COMMIT has thrown; to
    // give up instead, throw from it.
    std::function<void(const message&, const std::exception&)> on_failure{};
};

namespace detail {

// The work on a batch, within an open transaction. Where it goes message by message, `at` tells how far it has come.
// `sqlstate_of_current` as in detail::work.
struct batch_work {
    std::function<void(client&, std::chrono::milliseconds response_timeout, std::span<const message>,
                       std::optional<std::size_t>& at)>
        body;
    std::optional<std::string> (*sqlstate_of_current)();
};

// What a consumer does after a batch has failed: smaller ones, until the message that fails is alone.
struct search {
    std::int64_t lane{};
    std::size_t among{};               // as many of the lane's next messages are suspect
    std::size_t next{};                // so many are taken at once
    std::optional<std::int64_t> bad{}; // it failed alone
    std::string why{};
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

// Messages come in the order of their ids within a batch, so those of one key in their publishers' order. Several
// consumers of one name never have the same message; those in excess of its lanes stand by. It stays where it is, for a
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
    // Tried again, with backoff up to a second, for as long as it takes: 40001 (try_again), 40P01, a lost or silent
    // connection, no connection.
    //
    // A MESSAGE THAT FAILS: any other std::exception of `fn`, or a COMMIT that is refused, rolls the batch back. The
    // messages are taken again in smaller batches until one fails alone. It is parked with the exception's text, as by
    // idem_nack(): it comes again after 1 s, 2 s, 4 s and so on, later messages of its key wait behind it, all others
    // go on; after idem.max_attempts it goes to idem_dead_letters. For external consumers its lane waits. A message
    // that kills its process again and again ends there too.
    //
    // What passes out of here is no message's fault: what on_retry and on_failure throw, what `fn` throws that is no
    // std::exception, and what the server says to fetch or nack, an idem::error; besides its own
    //   22023 batch out of range, no such lane   25001 the connection is in a transaction   ID011 invalid name
    //   ID007 wait out of range                  42704 no such consumer                     42501 not granted
    void run();

    // The same, but ends when there is nothing left but what is parked, and no other transaction has a lane in hand; or
    // when those that do have had it for idle_timeout, while there was nothing else.
    void drain();

    // Makes run and drain return, at once when they wait for a message or for a new try, else after the batch in hand.
    // From then on they return immediately. May be called from any thread and from a signal handler.
    void stop() noexcept;

private:
    consumer(client& on, std::string name, detail::batch_work work, consumer_options options);

    template <typename Client, typename Fn>
    static detail::batch_work work(Fn fn) {
        return {[fn = std::move(fn)](client& open, std::chrono::milliseconds timeout, std::span<const message> batch,
                                     std::optional<std::size_t>& at) mutable {
                    detail::transactions<Client>::use(open, timeout, [&](auto& tx) {
                        if constexpr (std::invocable<Fn&, decltype(tx), const message&>)
                            for (at = 0; *at < batch.size(); ++*at) std::invoke(fn, tx, batch[*at]);
                        else
                            std::invoke(fn, tx, batch);
                    });
                },
                detail::transactions<Client>::sqlstate_of_current};
    }

    void loop(bool until_empty);
    bool work_on_next_batch(bool until_empty);
    bool blame_a_message(const std::exception&, const std::optional<std::string>& sqlstate);
    [[nodiscard]] bool stopped() const { return stopped_within(std::chrono::milliseconds{0}); }
    [[nodiscard]] bool stopped_within(std::chrono::milliseconds) const;
    void end_transaction() noexcept;

    client& client_;
    std::string name_;
    detail::batch_work work_;
    consumer_options options_;
    std::array<int, 2> bell_{-1, -1}; // a pipe: stop() writes to it, and it stays readable
    std::vector<message> batch_{};    // in hand
    std::optional<std::size_t> at_{}; // in it
    std::optional<detail::search> search_{};
    int nothing_ = 0;        // fetches in a row that brought no message; 2: or more
    bool held_ = false;      // another transaction had a lane, when drain last looked
    bool unsettled_ = false; // or the fetch is to be followed by another
    bool suspect_ = false;   // the server may still hold a transaction of ours that we lost
};

} // namespace idem
