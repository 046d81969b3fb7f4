// Messages go out without waiting for one another; deliver returns when the stream has acknowledged all of them.
//
// Their order in the stream is usually that of seq, and nothing relies on it. When an acknowledgement fails to come, or
// a message is refused, later ones are in the stream already, and the missing one follows them; libnats, too, sends
// what was under way when its connection broke in an order of its own. The stream drops what it had within its window
// for duplicates, by Nats-Msg-Id; what slips through, idem_consume_seq() calls a duplicate. And a message that comes
// before one which is missing it calls a gap: the receiver leaves that to be redelivered, so it applies all of them in
// the order of seq, each once.
#include "nats_sink.hpp"

#include "nats_url.hpp"

#include <nats/nats.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <climits>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <type_traits>
#include <utility>

namespace idem::relay {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds ack_wait{10'000}, api_wait{5'000}, ping_interval{10'000}, write_deadline{10'000},
    reconnect_wait{250}, look_around{100};
constexpr const char* lost = "the connection is lost";
constexpr int too_large = 10054, headers_too_large = 10097; // JetStream's own error codes

template <auto Destroy>
struct destroyer {
    template <typename T>
    void operator()(T* raw) const noexcept {
        Destroy(raw);
    }
};
using options_ptr = std::unique_ptr<natsOptions, destroyer<natsOptions_Destroy>>;
using context_ptr = std::unique_ptr<jsCtx, destroyer<jsCtx_Destroy>>;
using message_ptr = std::unique_ptr<natsMsg, destroyer<natsMsg_Destroy>>;
using stream_info_ptr = std::unique_ptr<jsStreamInfo, destroyer<jsStreamInfo_Destroy>>;

// What libnats keeps of an error of this thread is more precise than its status; "(conn.c:2088): " is for its makers.
std::string text_of(natsStatus status) {
    const char* const last = nats_GetLastError(nullptr);
    if (last == nullptr || *last == '\0') return natsStatus_GetText(status);
    const std::string_view text{last};
    const auto place = text.starts_with('(') ? text.find("): ") : std::string_view::npos;
    return std::string{place == std::string_view::npos ? text : text.substr(place + 3)};
}

void check(natsStatus status) {
    if (status == NATS_NO_MEMORY) throw std::bad_alloc{};
    if (status != NATS_OK) throw std::runtime_error{text_of(status)};
}

// ---- the connection ----

// All lanes have one. libnats reconnects by itself, for ever.
class server {
public:
    server(nats_url url, const std::string& consumer) : url_{std::move(url)} {
        std::vector<const char*> servers;
        for (const std::string& each : url_.servers) servers.push_back(each.c_str());
        natsOptions* raw = nullptr;
        check(natsOptions_Create(&raw));
        options_.reset(raw);
        check(natsOptions_SetServers(raw, servers.data(), static_cast<int>(servers.size())));
        check(natsOptions_SetName(raw, ("idem-relay " + consumer).c_str()));
        check(natsOptions_SetMaxReconnect(raw, INT_MAX));
        check(natsOptions_SetReconnectWait(raw, reconnect_wait.count()));
        check(natsOptions_SetPingInterval(raw, ping_interval.count()));
        check(natsOptions_SetWriteDeadline(raw, write_deadline.count()));
        if (url_.tls) check(natsOptions_SetSecure(raw, true));
        if (!url_.user.empty()) check(natsOptions_SetUserInfo(raw, url_.user.c_str(), url_.password.c_str()));
        if (!url_.token.empty()) check(natsOptions_SetToken(raw, url_.token.c_str()));
        if (!url_.credentials.empty())
            check(natsOptions_SetUserCredentialsFromFiles(raw, url_.credentials.c_str(), nullptr));
    }

    [[nodiscard]] const nats_url& url() const noexcept { return url_; }

    // With the stream there. Throws away.
    std::shared_ptr<natsConnection> ready() {
        const std::lock_guard one{turn_};
        if (!connection_ || natsConnection_Status(connection_.get()) == NATS_CONN_STATUS_CLOSED) open();
        if (natsConnection_Status(connection_.get()) != NATS_CONN_STATUS_CONNECTED) is_away(lost);
        require_stream();
        return connection_;
    }

    [[noreturn]] void is_away(const std::string& why) const { throw away{url_.shown() + ": " + why}; }

private:
    void open() {
        natsConnection* raw = nullptr;
        const natsStatus status = natsConnection_Connect(&raw, options_.get());
        if (status != NATS_OK) is_away(text_of(status));
        connection_.reset(raw, natsConnection_Destroy);
    }

    // One that is there may have been set up by somebody who knows why: it stays as it is.
    void require_stream() {
        jsOptions options;
        jsOptions_Init(&options);
        options.Wait = api_wait.count();
        jsCtx* raw = nullptr;
        check(natsConnection_JetStream(&raw, connection_.get(), &options));
        const context_ptr js{raw};

        jsErrCode code{};
        jsStreamInfo* info = nullptr;
        natsStatus status = js_GetStreamInfo(&info, raw, url_.stream.c_str(), nullptr, &code);
        if (code == JSStreamNotFoundErr) {
            const std::string subjects = url_.prefix + ".>";
            const char* const list = subjects.c_str();
            jsStreamConfig config;
            jsStreamConfig_Init(&config);
            config.Name = url_.stream.c_str();
            config.Subjects = const_cast<const char**>(&list);
            config.SubjectsLen = 1;
            status = js_AddStream(&info, raw, &config, nullptr, &code);
        }
        const stream_info_ptr owner{info};
        if (status != NATS_OK) is_away("stream \"" + url_.stream + "\": " + text_of(status));
    }

    nats_url url_;
    options_ptr options_;
    std::mutex turn_{};
    std::shared_ptr<natsConnection> connection_{};
};

// ---- a message ----

bool equal_but_for_case(std::string_view a, std::string_view b) {
    return std::ranges::equal(a, b,
                              [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

bool may_be_carried(const std::string& name, const std::string& value) {
    const auto is_of_a_name = [](unsigned char c) { return c > ' ' && c < 0x7f && c != ':'; };
    const auto is_control = [](unsigned char c) { return c < ' ' || c == 0x7f; };
    const std::string_view begins = std::string_view{name}.substr(0, 5);
    return !name.empty() && !value.empty() && std::ranges::all_of(name, is_of_a_name) &&
           std::ranges::none_of(value, is_control) && !equal_but_for_case(begins, "nats-") &&
           !equal_but_for_case(begins, "idem-");
}

message_ptr envelope(const message& m, const nats_url& url, const std::string& consumer) {
    natsMsg* raw = nullptr;
    check(natsMsg_Create(&raw, nats_subject(url.prefix, m.topic).c_str(), nullptr, m.payload.data(),
                         static_cast<int>(m.payload.size())));
    message_ptr made{raw};
    const auto set = [&](const char* name, const std::string& value) {
        if (!value.empty())
            check(natsMsgHeader_Set(raw, name, nats_header(value).c_str())); // libnats reads no empty ones
    };
    set("Idem-Consumer", consumer);
    set("Idem-Source", m.source.value());
    set("Idem-Lane", std::to_string(m.lane));
    set("Idem-Seq", std::to_string(m.seq.value()));
    set("Idem-Message-Id", m.message_id.value());
    set("Idem-Topic", m.topic);
    set("Idem-Created-At", m.created_at);
    if (m.key) set("Idem-Key", *m.key);
    if (m.type) set("Idem-Type", *m.type);
    if (m.tombstone()) set("Idem-Tombstone", "true");
    if (!m.headers) return made;
    const nlohmann::json headers = nlohmann::json::parse(*m.headers);
    for (const auto& [name, value] : headers.items()) {
        const auto* const text = value.get_ptr<const std::string*>();
        if (text != nullptr && may_be_carried(name, *text)) check(natsMsgHeader_Set(raw, name.c_str(), text->c_str()));
    }
    return made;
}

// ---- what the stream answers ----

// It will be the same every time.
bool is_final(natsStatus status, int code) {
    return status == NATS_MAX_PAYLOAD || code == too_large || code == headers_too_large;
}

struct failure {
    std::int64_t seq;
    bool final;
    std::string why;
};

// Of the messages of a batch; filled by a thread of libnats.
class answers {
public:
    void expect_one() {
        const std::lock_guard lock{turn_};
        ++open_;
    }
    void has_come(std::optional<failure> failed) {
        const std::lock_guard lock{turn_};
        if (failed && (!first_ || failed->seq < first_->seq)) first_ = std::move(failed);
        if (--open_ == 0) all_.notify_one();
    }
    // True when all have come.
    [[nodiscard]] bool wait(milliseconds time) {
        std::unique_lock lock{turn_};
        return all_.wait_for(lock, time, [&] { return open_ == 0; });
    }
    // The failure of the least seq, if there was one.
    [[nodiscard]] std::optional<failure> take() {
        const std::lock_guard lock{turn_};
        return std::exchange(first_, {});
    }

private:
    std::mutex turn_{};
    std::condition_variable all_{};
    int open_ = 0;
    std::optional<failure> first_{};
};

std::int64_t seq_of(natsMsg* m) {
    const char* text = nullptr;
    return natsMsgHeader_Get(m, "Idem-Seq", &text) == NATS_OK ? std::strtoll(text, nullptr, 10) : 0;
}

void on_answer(jsCtx*, natsMsg* raw, jsPubAck*, jsPubAckErr* error, void* closure) {
    std::optional<failure> failed;
    if (error != nullptr) {
        const bool has_text = error->ErrText != nullptr && *error->ErrText != '\0';
        failed = {seq_of(raw), is_final(error->Err, error->ErrCode),
                  has_text ? error->ErrText : natsStatus_GetText(error->Err)};
    }
    natsMsg_Destroy(raw);
    static_cast<answers*>(closure)->has_come(std::move(failed));
}

// ---- the sink ----

class nats_sink final : public sink {
public:
    nats_sink(std::shared_ptr<server> on, std::string consumer)
        : server_{std::move(on)},
          consumer_{std::move(consumer)} {}

    void connect() override {
        auto ready = server_->ready();
        if (ready == connection_) return;
        js_.reset();
        connection_ = std::move(ready);
        jsOptions options;
        jsOptions_Init(&options);
        options.Wait = api_wait.count();
        options.PublishAsync.AckHandler = on_answer;
        options.PublishAsync.AckHandlerClosure = &answers_;
        jsCtx* raw = nullptr;
        check(natsConnection_JetStream(&raw, connection_.get(), &options));
        js_.reset(raw);
    }

    std::optional<refusal> deliver(std::span<const message> batch) override {
        const std::uint64_t at_first = reconnects();
        std::optional<failure> failed;
        for (auto each = batch.begin(); each != batch.end() && !failed; ++each) failed = send(*each);
        while (!answers_.wait(look_around)) // libnats answers for a server that does not, but takes its time
            if (!connected() || reconnects() != at_first) give_up_what_is_open();
        if (auto before = answers_.take()) failed = std::move(before); // what was sent has the lesser seq
        if (!failed) return {};
        if (!failed->final) server_->is_away(failed->why);
        const auto refused = std::ranges::find(batch, failed->seq, [](const message& m) { return m.seq.value(); });
        return refusal{static_cast<std::size_t>(refused - batch.begin()), failed->why};
    }

private:
    // The answer comes later, if nothing is wrong already.
    std::optional<failure> send(const message& m) {
        if (!connected()) return failure{m.seq.value(), false, lost};
        // The same whenever the same delivery is repeated, another for a new delivery of the same message.
        const std::string id =
            nats_header(m.source.value()) + '/' + std::to_string(m.lane) + '/' + std::to_string(m.seq.value());
        jsPubOptions options;
        jsPubOptions_Init(&options);
        options.MaxWait = ack_wait.count();
        options.MsgId = id.c_str();
        options.ExpectStream = server_->url().stream.c_str();
        natsMsg* raw = envelope(m, server_->url(), consumer_).release();
        answers_.expect_one();
        const natsStatus status = js_PublishMsgAsync(js_.get(), &raw, &options);
        const message_ptr unsent{raw}; // none when libnats took it
        if (status == NATS_OK) return {};
        answers_.has_come({});
        return failure{m.seq.value(), is_final(status, 0), text_of(status)};
    }

    [[nodiscard]] bool connected() const {
        return natsConnection_Status(connection_.get()) == NATS_CONN_STATUS_CONNECTED;
    }

    [[nodiscard]] std::uint64_t reconnects() const {
        natsStatistics* raw = nullptr;
        check(natsStatistics_Create(&raw));
        const std::unique_ptr<natsStatistics, destroyer<natsStatistics_Destroy>> owner{raw};
        std::uint64_t unused = 0;
        std::uint64_t count = 0;
        check(natsConnection_GetStats(connection_.get(), raw));
        check(natsStatistics_GetCounts(raw, &unused, &unused, &unused, &unused, &count));
        return count;
    }

    // The answers were lost with the connection. For those that are on their way all the same, on_answer is called.
    void give_up_what_is_open() {
        natsMsgList open{};
        if (js_PublishAsyncGetPendingList(&open, js_.get()) != NATS_OK) return; // none
        for (int i = 0; i < open.Count; ++i) answers_.has_come(failure{seq_of(open.Msgs[i]), false, lost});
        natsMsgList_Destroy(&open);
    }

    std::shared_ptr<server> server_;
    std::string consumer_;
    std::shared_ptr<natsConnection> connection_{};
    answers answers_{};
    context_ptr js_{};
};

} // namespace

sinks nats_sinks(const std::string& url, const std::string& consumer) {
    std::shared_ptr<server> shared;
    nats_url parsed = parse_nats_url(url);
    try {
        shared = std::make_shared<server>(std::move(parsed), consumer);
    } catch (const std::runtime_error& refused) {
        throw bad_url{refused.what()};
    } // by libnats
    return [=] { return std::make_unique<nats_sink>(shared, consumer); };
}

} // namespace idem::relay
