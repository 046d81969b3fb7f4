#include "batcher.hpp"

#include <idem/compensate.hpp>
#include <idem/errors.hpp>

#include <boost/asio/post.hpp>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <exception>
#include <iterator>
#include <span>
#include <utility>

namespace shop {

namespace {

using clock = call::clock;
using std::chrono::milliseconds;

constexpr std::size_t most_at_once = 500;
constexpr const char* handler = "order_request(jsonb)"; // orders.sql
constexpr milliseconds silent_for{5'000};               // the server: then it is given up
constexpr milliseconds cancel_waits{100};               // for a key that is being worked on
constexpr milliseconds pause{50};                       // before a new try

// What a transaction costs by itself is 20 to 40 requests' worth, here and with all who read what it publishes. So
// while requests come at this pace, a batch waits this long for more of them.
constexpr milliseconds gathering{40};
constexpr double much = 1'000; // requests a second
constexpr milliseconds pace_over{100};

// Later it may work. Whether it has, the key tells.
bool is_away(std::string_view sqlstate) {
    return sqlstate.starts_with("08") || sqlstate.starts_with("57") || sqlstate.starts_with("53") ||
           sqlstate.starts_with("40") || sqlstate == "25006";
}

// Out of locks, or cancelled for taking too long.
bool may_be_of_one(std::string_view sqlstate) { return sqlstate == "53200" || sqlstate == "57014"; }

milliseconds left_until(clock::time_point when) {
    return std::max(milliseconds{0}, std::chrono::duration_cast<milliseconds>(when - clock::now()));
}

// 2024-05-31 09:07:03.141592+00; nothing for what is not like that, such as infinity.
std::optional<std::chrono::system_clock::time_point> time_of(const std::string& text) {
    std::tm date{};
    double second = 0;
    int offset = 0;
    // NOLINTNEXTLINE(cert-err34-c): what the server writes is in range
    if (std::sscanf(text.c_str(), "%d-%d-%d %d:%d:%lf%d", &date.tm_year, &date.tm_mon, &date.tm_mday, &date.tm_hour,
                    &date.tm_min, &second, &offset) != 7 ||
        offset != 0)
        return {};
    date.tm_year -= 1900;
    date.tm_mon -= 1;
    date.tm_sec = static_cast<int>(second);
    return std::chrono::system_clock::from_time_t(timegm(&date));
}

call::result result_of(idem::execute_status status) {
    switch (status) {
    case idem::execute_status::executed: return call::result::executed;
    case idem::execute_status::completed: return call::result::completed;
    case idem::execute_status::in_progress: return call::result::in_progress;
    case idem::execute_status::mismatch: return call::result::mismatch;
    case idem::execute_status::cancelled: return call::result::cancelled;
    case idem::execute_status::failed: break;
    }
    return call::result::failed;
}

call::result result_of(idem::cancel_status status) {
    switch (status) {
    case idem::cancel_status::compensated: return call::result::compensated;
    case idem::cancel_status::already: return call::result::already;
    case idem::cancel_status::tombstoned: return call::result::tombstoned;
    case idem::cancel_status::refused: return call::result::refused;
    case idem::cancel_status::in_progress: break;
    }
    return call::result::in_progress;
}

// As an array's literal has it, but for the end.
void append_element(std::string& array, std::string_view text) {
    array += array.empty() ? "{\"" : ",\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') array += '\\';
        array += c;
    }
    array += '"';
}

} // namespace

// ---- a thread ----

class batcher::worker {
public:
    explicit worker(batcher& all) : all_{all} {}

    void run() {
        calls mine;
        while (all_.take(mine)) {
            const auto is = [](call::kind kind) { return [kind](const call* each) { return each->what == kind; }; };
            const auto reads = std::ranges::stable_partition(mine, is(call::kind::execute)).begin();
            const auto cancels = std::stable_partition(reads, mine.end(), is(call::kind::read));
            execute({mine.begin(), reads});
            read({reads, cancels});
            for (auto each = cancels; each != mine.end(); ++each) cancel(**each);
        }
    }

private:
    using some = std::span<call*>;

    // In one transaction. If that fails for another reason than the database's absence, one of them is to blame, and
    // the others must not suffer for it.
    void execute(some calls) {
        if (calls.empty()) return;
        if (items_.size() < calls.size()) items_.resize(calls.size(), {{}, {}, "", ""});
        const auto items = std::span<const idem::execute_item>{items_}.first(calls.size());
        exchange_texts(calls);
        const bool done = ask(calls, [&](idem::client& client, milliseconds left) {
            const auto all =
                idem::execute_many(client, handler, items, {}, {.deadline = left, .response_timeout = silent_for});
            for (std::size_t i = 0; i < calls.size(); ++i) take(*calls[i], all[i]);
        });
        exchange_texts(calls);
        if (done) return answer(calls);
        execute(calls.first(calls.size() / 2));
        execute(calls.subspan(calls.size() / 2));
    }

    // To and fro: nothing is copied, and what has room keeps it.
    void exchange_texts(some calls) {
        for (std::size_t i = 0; i < calls.size(); ++i) {
            items_[i].key.swap(calls[i]->key);
            items_[i].request.swap(calls[i]->request);
            items_[i].scope->swap(calls[i]->client);
            items_[i].context->swap(calls[i]->context);
        }
    }

    static void take(call& one, const idem::execution& outcome) {
        one.came = result_of(outcome.status());
        if (outcome) {
            one.answer = outcome.response();
            one.cacheable_until = outcome.cacheable_until() ? time_of(*outcome.cacheable_until()) : std::nullopt;
        } else if (outcome.failure()) {
            one.answer = outcome.failure()->what();
            one.sqlstate = outcome.failure()->sqlstate();
        }
    }

    void read(some calls) {
        if (calls.empty()) return;
        std::string clients, keys;
        for (const call* each : calls) {
            append_element(clients, each->client);
            append_element(keys, each->key);
        }
        clients += '}';
        keys += '}';
        static_cast<void>(ask(calls, [&](idem::client& client, milliseconds left) {
            again(client, left, [&](idem::transaction& tx) {
                const idem::result rows = tx.exec("SELECT found FROM find_orders($1, $2) AS found", {clients, keys});
                for (std::size_t i = 0; i < calls.size(); ++i) {
                    const int row = static_cast<int>(i);
                    calls[i]->came = rows.is_null(row, 0) ? call::result::not_found : call::result::found;
                    calls[i]->answer = rows.text(row, 0);
                }
            });
        }));
        answer(calls);
    }

    void cancel(call& one) {
        call* only = &one;
        static_cast<void>(ask({&only, 1}, [&](idem::client& client, milliseconds left) {
            again(client, left, [&](idem::transaction& tx) {
                tx.exec("SELECT set_config('shop.context', $1, false)", {one.context}); // for undo_order
                const auto reason = one.request.empty() ? std::nullopt : std::optional{one.request};
                const auto done =
                    idem::cancel(tx, one.key, {.reason = reason, .scope = one.client, .wait = cancel_waits});
                one.came = result_of(done.status());
                one.answer.clear();
                if (one.came == call::result::refused)
                    one.answer = tx.exec("SELECT why_not_cancelled($1, $2)", {one.client, one.key}).text(0, 0);
            });
        }));
        answer({&only, 1});
    }

    // What may simply be asked again, as idem::execute_many does it by itself.
    template <typename Work>
    static void again(idem::client& client, milliseconds left, Work&& work) {
        for (const auto until = clock::now() + left;;) {
            try {
                if (!client.connected()) client.reconnect(silent_for);
                idem::transaction tx{client.connection(), silent_for};
                return work(tx);
            } catch (const idem::error& failure) {
                if (PQtransactionStatus(client.connection()) != PQTRANS_IDLE) client.disconnect();
                if (!is_away(failure.sqlstate()) || clock::now() + pause >= until) throw;
            }
            std::this_thread::sleep_for(pause);
        }
    }

    // False: it failed, but there is more than one call, and the database is there. Otherwise each has its result.
    template <typename Ask>
    bool ask(some calls, Ask&& question) {
        const auto all = [&](call::result came, const char* why) {
            for (call* each : calls) {
                each->came = came;
                each->answer = why;
            }
            return true;
        };
        const auto until = (*std::ranges::min_element(calls, {}, &call::until))->until;
        try {
            if (!client_) client_.emplace(all_.options_.conninfo);
            const auto since = clock::now();
            question(*client_, left_until(until));
            all_.metrics_.batch(calls.size(), clock::now() - since);
            all_.connected_ = true;
            return true;
        } catch (const idem::error& failure) {
            if (is_away(failure.sqlstate()) && (calls.size() == 1 || !may_be_of_one(failure.sqlstate()))) {
                if (!client_ || !client_->connected()) all_.connected_ = false;
                return all(call::result::away, failure.what());
            }
            return calls.size() == 1 && all(call::result::broken, failure.what());
        } catch (const std::exception& failure) {
            return all(call::result::broken, failure.what());
        }
    }

    void answer(some calls) { all_.answer({calls.begin(), calls.end()}); }

    batcher& all_;
    std::optional<idem::client> client_{};
    std::vector<idem::execute_item> items_{};
};

// ---- all of them ----

batcher::batcher(boost::asio::io_context& io, batcher_options options, metrics& counts)
    : io_{io},
      options_{std::move(options)},
      metrics_{counts} {
    for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { worker{*this}.run(); });
}

batcher::~batcher() {
    {
        const std::lock_guard lock{turn_};
        ended_ = true;
    }
    more_.notify_all();
    for (std::thread& each : threads_) each.join();
}

// They are handed over once all that the io_context has ready has run: one lock for many.
bool batcher::submit(call& one) {
    if (waiting() >= options_.most_waiting) return false;
    submitted_.push_back(&one);
    if (submitted_.size() == 1) boost::asio::post(io_, [this] { hand_over(); });
    return true;
}

void batcher::hand_over() {
    bool begun = false, full = false;
    {
        const std::lock_guard lock{turn_};
        const auto now = clock::now();
        handed_over_ += submitted_.size();
        if (now - counted_since_ >= pace_over) {
            is_busy_ =
                static_cast<double>(handed_over_) >= much * std::chrono::duration<double>(now - counted_since_).count();
            counted_since_ = now;
            handed_over_ = 0;
        }
        begun = queue_.empty();
        if (begun) gathered_since_ = now;
        queue_.insert(queue_.end(), submitted_.begin(), submitted_.end());
        waiting_ = queue_.size();
        full = queue_.size() >= most_at_once;
    }
    submitted_.clear();
    // Who gathers has its own clock.
    if (begun || full) more_.notify_one();
}

void batcher::give_up_overdue() {
    calls overdue;
    {
        const std::lock_guard lock{turn_};
        for (const auto now = clock::now(); !queue_.empty() && queue_.front()->until <= now; queue_.pop_front())
            overdue.push_back(queue_.front());
        waiting_ = queue_.size();
    }
    for (call* each : overdue) {
        each->came = call::result::away;
        each->answered();
    }
}

bool batcher::take(calls& into) {
    std::unique_lock lock{turn_};
    const auto is_due = [this] {
        return ended_ || queue_.size() >= most_at_once ||
               (!queue_.empty() && (!is_busy_ || clock::now() >= gathered_since_ + gathering));
    };
    while (!is_due()) {
        if (queue_.empty())
            more_.wait(lock);
        else
            more_.wait_until(lock, gathered_since_ + gathering);
    }
    const auto count = static_cast<std::ptrdiff_t>(std::min(most_at_once, queue_.size()));
    into.assign(queue_.begin(), queue_.begin() + count);
    queue_.erase(queue_.begin(), queue_.begin() + count);
    waiting_ = queue_.size();
    gathered_since_ = clock::now();
    if (!queue_.empty()) more_.notify_one();
    return count > 0;
}

void batcher::answer(calls&& done) {
    boost::asio::post(io_, [done = std::move(done)] {
        for (call* each : done) each->answered();
    });
}

} // namespace shop
