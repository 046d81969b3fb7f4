// idem over libpqxx: header-only, so that it follows the libpqxx that you build with (tried: 6.4, 7.10, 8.0).
//
//     pqxx::work tx{connection};                            // or any other pqxx transaction
//     auto claim = idem::claim(tx, key, request, {.scope = "shop"});
//     if (!claim) return claim.response();
//     … the work, on tx …
//     idem::complete(tx, key, response, "shop");
//     tx.commit();
//
// or the whole loop:
//
//     idem::pqxx_client client{"dbname=shop"};
//     auto outcome = idem::run(client, key, request, [&](pqxx::transaction_base& tx) { tx.exec(…); return response; });
#pragma once

#include <idem/claim.hpp>
#include <idem/client.hpp>
#include <idem/consumer.hpp>
#include <idem/detail/compensate.hpp>
#include <idem/detail/execute.hpp>
#include <idem/detail/lease.hpp>
#include <idem/detail/messages.hpp>
#include <idem/detail/sql.hpp>
#include <idem/detail/transition.hpp>
#include <idem/execute.hpp>
#include <idem/nack.hpp>
#include <idem/run.hpp>

#include <pqxx/pqxx>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace idem {

namespace detail {

#if PQXX_VERSION_MAJOR < 7
// A libpqxx connection on a PGconn that stays ours. libpqxx 6 asks a policy for it; this one never gives another, so
// that libpqxx cannot reconnect behind run's back, in the middle of a transaction.
class pqxx_session final : public pqxx::connection_base {
public:
    explicit pqxx_session(PGconn* raw) : connection_base{policy_}, policy_{raw} { init(); }
    ~pqxx_session() noexcept { close(); }
    pqxx_session(const pqxx_session&) = delete;
    pqxx_session& operator=(const pqxx_session&) = delete;

    pqxx::connection_base& get() noexcept { return *this; }

private:
    class borrow final : public pqxx::connectionpolicy {
    public:
        explicit borrow(PGconn* raw) : connectionpolicy{{}}, raw_{raw} {}
        handle do_startconnect(handle) override { return raw_; }
        handle do_completeconnect(handle raw) override { return raw; }
        handle do_dropconnect(handle) noexcept override { return nullptr; }
        handle do_disconnect(handle) noexcept override { return nullptr; }

    private:
        PGconn* raw_;
    };
    borrow policy_;
};
#else
// A libpqxx connection on a PGconn that stays ours.
class pqxx_session final {
public:
    explicit pqxx_session(PGconn* raw) : connection_{pqxx::connection::seize_raw_connection(raw)} {}
    ~pqxx_session() { static_cast<void>(std::move(connection_).release_raw_connection()); }
    pqxx_session(const pqxx_session&) = delete;
    pqxx_session& operator=(const pqxx_session&) = delete;

    pqxx::connection& get() noexcept { return connection_; }

private:
    pqxx::connection connection_;
};
#endif

inline auto& pqxx_connection(client& on) {
    if (on.attached() == nullptr) on.attach(std::make_shared<pqxx_session>(on.connection()));
    return static_cast<pqxx_session*>(on.attached())->get();
}

inline std::optional<std::string> pqxx_sqlstate_of_current() {
    try {
        throw;
    } catch (const pqxx::serialization_failure&) { // these three know no sqlstate() in libpqxx 6
        return "40001";
    } catch (const pqxx::deadlock_detected&) {
        return "40P01";
    } catch (const pqxx::broken_connection&) {
        return "08006";
    } catch (const pqxx::sql_error& refused) {
        return std::string{refused.sqlstate()};
    } catch (const pqxx::failure&) {
        return "";
    } catch (...) {
        return sqlstate_of_current();
    }
}

} // namespace detail

namespace detail {

// Quotes for the transaction's connection; NULL for nothing.
inline auto pqxx_quote(pqxx::transaction_base& tx) {
    return [&tx](std::optional<std::string_view> text) -> std::string {
        return text ? tx.quote(std::string{no_zero_byte(*text)}) : "NULL";
    };
}

// A field's text; nothing for NULL.
inline std::optional<std::string> pqxx_text(const pqxx::result& from, int row, int column) {
    const auto field = from[row][column];
    if (field.is_null()) return std::nullopt;
    return field.as<std::string>();
}

} // namespace detail

// As over libpq, see <idem/claim.hpp>; but what the server refuses is thrown as libpqxx does, a pqxx::sql_error.
inline claim_result claim(pqxx::transaction_base& tx, std::string_view key, std::optional<std::string_view> request,
                          const claim_options& options = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result answer = tx.exec(detail::claim_sql(quote(key), quote(request), quote(options.scope), options));
    const auto text = [&answer](int column) { return detail::pqxx_text(answer, 0, column); };
    return {detail::parse_status(*text(0)), text(1), text(2)};
}

inline std::string complete(pqxx::transaction_base& tx, std::string_view key, std::string_view response,
                            std::string_view scope = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result answer = tx.exec(detail::complete_sql(quote(key), quote(response), quote(scope)));
    return answer[0][0].as<std::string>();
}

inline void release(pqxx::transaction_base& tx, std::string_view key, std::string_view scope = {}) {
    const auto quote = detail::pqxx_quote(tx);
    tx.exec(detail::release_sql(quote(key), quote(scope)));
}

// As over libpq, see <idem/compensate.hpp>.
inline void compensate_with(pqxx::transaction_base& tx, std::string_view key, std::string_view handler,
                            std::string_view args, const compensate_options& options = {}) {
    const auto quote = detail::pqxx_quote(tx);
    tx.exec(detail::compensate_with_sql(quote(key), quote(handler), quote(args), options, quote(options.scope)));
}

inline void confirm(pqxx::transaction_base& tx, std::string_view key, std::string_view scope = {}) {
    const auto quote = detail::pqxx_quote(tx);
    tx.exec(detail::confirm_sql(quote(key), quote(scope)));
}

inline cancellation cancel(pqxx::transaction_base& tx, std::string_view key, const cancel_options& options = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result row =
        tx.exec(detail::cancel_sql(quote(key), quote(options.reason), quote(options.scope), options));
    return detail::read_cancellation([&row](int column) { return detail::pqxx_text(row, 0, column); });
}

// As over libpq, see <idem/lease.hpp>.
inline lease claim_lease(pqxx::transaction_base& tx, std::string_view key, std::optional<std::string_view> request,
                         std::chrono::milliseconds length, const claim_options& options = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result row =
        tx.exec(detail::claim_lease_sql(quote(key), quote(request), quote(options.scope), length, options));
    return detail::read_lease([&row](int column) { return detail::pqxx_text(row, 0, column); }, key, options.scope);
}

inline void renew(pqxx::transaction_base& tx, const lease& held, std::chrono::milliseconds length) {
    const auto quote = detail::pqxx_quote(tx);
    tx.exec(detail::renew_sql(quote(held.key()), held.token(), length, quote(held.scope())));
}

inline void checkpoint(pqxx::transaction_base& tx, const lease& held, std::string_view step,
                       std::string_view state = "null") {
    const auto quote = detail::pqxx_quote(tx);
    tx.exec(detail::checkpoint_sql(quote(held.key()), held.token(), quote(step), quote(state), quote(held.scope())));
}

inline void compensate_with(pqxx::transaction_base& tx, const lease& held, std::string_view handler,
                            std::string_view args, std::optional<std::chrono::milliseconds> deadline = {}) {
    const auto quote = detail::pqxx_quote(tx);
    tx.exec(detail::compensate_with_sql(quote(held.key()), quote(handler), quote(args), {.deadline = deadline},
                                        quote(held.scope()), std::to_string(held.token())));
}

inline std::string complete(pqxx::transaction_base& tx, const lease& held, std::string_view response) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result answer = tx.exec(
        detail::complete_sql(quote(held.key()), quote(response), quote(held.scope()), std::to_string(held.token())));
    return answer[0][0].as<std::string>();
}

inline void release(pqxx::transaction_base& tx, const lease& held) {
    const auto quote = detail::pqxx_quote(tx);
    tx.exec(detail::release_sql(quote(held.key()), quote(held.scope()), std::to_string(held.token())));
}

// As over libpq, see <idem/execute.hpp>.
inline execution execute(pqxx::transaction_base& tx, std::string_view handler, std::string_view key,
                         std::string_view request, const execute_options& options = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result rows =
        tx.exec(detail::execute_sql(quote(handler), quote(key), quote(request), quote(options.scope), options));
    return detail::read_execution([&rows](int row, int column) { return detail::pqxx_text(rows, row, column); }, 0);
}

[[nodiscard]] inline std::vector<execution> execute_many(pqxx::transaction_base& tx, std::string_view handler,
                                                         std::span<const execute_item> items,
                                                         const execute_options& options = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result rows = tx.exec(detail::execute_many_sql(handler, items, options, quote));
    return detail::read_executions([&rows](int row, int column) { return detail::pqxx_text(rows, row, column); },
                                   static_cast<int>(rows.size()));
}

// As over libpq, see <idem/transition.hpp>.
inline transition_result transition(pqxx::transaction_base& tx, const stateful& rows, std::string_view key,
                                    std::string_view to) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result answer = tx.exec(detail::transition_sql(rows, quote(rows.machine), quote(key), quote(to)));
    return detail::read_transition(static_cast<int>(answer.size()),
                                   [&answer](int row, int column) { return detail::pqxx_text(answer, row, column); });
}

// As over libpq, see <idem/publish.hpp>.
inline std::int64_t publish(pqxx::transaction_base& tx, std::string_view topic, std::string_view payload,
                            const publish_options& options = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result answer = tx.exec(detail::publish_sql(quote(topic), quote(payload), quote(options.key),
                                                            quote(options.type), quote(options.headers)));
    return answer[0][0].as<std::int64_t>();
}

// As over libpq, see <idem/consume.hpp>.
[[nodiscard]] inline bool consume(pqxx::transaction_base& tx, std::string_view source, std::string_view message_id) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result answer = tx.exec(detail::consume_sql(quote(source), quote(message_id)));
    return answer[0][0].as<bool>();
}

[[nodiscard]] inline consume_status consume_seq(pqxx::transaction_base& tx, std::string_view source, std::int64_t lane,
                                                std::int64_t seq) {
    const pqxx::result answer = tx.exec(detail::consume_seq_sql(detail::pqxx_quote(tx)(source), lane, seq));
    return detail::parse_consume_status(answer[0][0].as<std::string>());
}

// As over libpq, see <idem/nack.hpp>.
[[nodiscard]] inline std::vector<std::int64_t> nack(pqxx::transaction_base& tx, std::string_view consumer,
                                                    const message& bad, std::string_view error,
                                                    std::optional<std::chrono::milliseconds> retry_in = {}) {
    const auto quote = detail::pqxx_quote(tx);
    const pqxx::result answer = tx.exec(detail::nack_sql(quote(consumer), bad, quote(error), retry_in));
    return detail::parse_numbers(answer[0][0].as<std::string>());
}

// What run and consumer need to hand out libpqxx transactions: a connection of its own, that it can replace and give up
// on, which libpqxx's own cannot.
class pqxx_client {
public:
    explicit pqxx_client(std::string conninfo) : client_{std::move(conninfo)} {}

    // The same connection for other uses between runs, with what was prepared on it. Each reconnect makes a new one.
    auto& connection() { return detail::pqxx_connection(client_); }

    [[nodiscard]] client& base() noexcept { return client_; }

private:
    client client_;
};

// As over libpq, see <idem/execute.hpp>.
inline execution execute(pqxx_client& on, std::string_view handler, std::string_view key, std::string_view request,
                         const execute_options& options = {}, const retry_options& retry = {}) {
    return execute(on.base(), handler, key, request, options, retry);
}

[[nodiscard]] inline std::vector<execution> execute_many(pqxx_client& on, std::string_view handler,
                                                         std::span<const execute_item> items,
                                                         const execute_options& options = {},
                                                         const retry_options& retry = {}) {
    return execute_many(on.base(), handler, items, options, retry);
}

// As over libpq, see <idem/run.hpp>. The callback gets a pqxx::transaction_base& on the open transaction; throws what
// it throws. Savepoints are plain SQL there. Its own statements know no response_timeout, libpqxx having none; a dead
// peer ends them through TCP (see client).
template <typename Work>
outcome run(pqxx_client& on, std::string_view key, std::optional<std::string_view> request, Work&& fn,
            const run_options& options = {}) {
    const auto body = [&fn](client& open, std::chrono::milliseconds) -> work_result {
        pqxx::nontransaction tx{detail::pqxx_connection(open)};
        work_result result = std::invoke(fn, static_cast<pqxx::transaction_base&>(tx));
        tx.commit(); // sends nothing: the transaction is run's
        return result;
    };
    return detail::run(on.base(), key, request, {body, detail::pqxx_sqlstate_of_current}, options);
}

// As over libpq, see <idem/consumer.hpp>: idem::consumer{pqxx_client, name, fn} gives `fn` a pqxx::transaction_base&.
template <>
struct detail::transactions<pqxx_client> {
    static client& base(pqxx_client& on) noexcept { return on.base(); }
    static std::optional<std::string> sqlstate_of_current() { return pqxx_sqlstate_of_current(); }
    template <typename Use>
    static void use(client& open, std::chrono::milliseconds, Use&& work) {
        pqxx::nontransaction tx{pqxx_connection(open)};
        work(static_cast<pqxx::transaction_base&>(tx));
        tx.commit(); // sends nothing: the transaction is the consumer's
    }
};

} // namespace idem
