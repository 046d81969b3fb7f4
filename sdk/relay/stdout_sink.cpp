#include "stdout_sink.hpp"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <string_view>
#include <system_error>

namespace idem::relay {

namespace {

std::string quoted(std::string_view text) { return nlohmann::json(text).dump(); }
std::string quoted(const std::optional<std::string>& text) { return text ? quoted(std::string_view{*text}) : "null"; }

// Payload and headers go as they come, numbers digit by digit.
std::string line(const message& m) {
    return R"({"id":)" + std::to_string(m.id) + R"(,"lane":)" + std::to_string(m.lane) + R"(,"seq":)" +
           std::to_string(m.seq.value()) + R"(,"source":)" + quoted(m.source) + R"(,"message_id":)" +
           quoted(m.message_id) + R"(,"topic":)" + quoted(std::string_view{m.topic}) + R"(,"key":)" + quoted(m.key) +
           R"(,"type":)" + quoted(m.type) + R"(,"created_at":")" + m.created_at + R"(","headers":)" +
           m.headers.value_or("null") + R"(,"payload":)" + (m.tombstone() ? R"(null,"tombstone":true)" : m.payload) +
           "}\n";
}

[[noreturn]] void gone() { throw std::system_error{errno, std::generic_category(), "standard output"}; }

void write_out(std::string_view text) {
    while (!text.empty()) {
        const auto written = write(STDOUT_FILENO, text.data(), text.size());
        if (written >= 0)
            text.remove_prefix(static_cast<std::size_t>(written));
        else if (errno != EINTR)
            gone();
    }
}

class stdout_sink final : public sink {
public:
    explicit stdout_sink(std::shared_ptr<std::mutex> turn) : turn_{std::move(turn)} {}

    std::optional<refusal> deliver(std::span<const message> batch) override {
        std::string lines;
        for (const message& each : batch) lines += line(each);
        const std::lock_guard mine{*turn_};
        write_out(lines);
        return {};
    }

    // A reader may pause for long.
    [[nodiscard]] std::chrono::milliseconds patience() const override { return std::chrono::minutes{5}; }

private:
    std::shared_ptr<std::mutex> turn_; // lines of several lanes do not mix
};

} // namespace

sinks stdout_sinks() {
    // Else a connection would get its number.
    if (fcntl(STDOUT_FILENO, F_GETFD) < 0) gone();
    return [turn = std::make_shared<std::mutex>()] { return std::make_unique<stdout_sink>(turn); };
}

} // namespace idem::relay
