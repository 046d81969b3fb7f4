#include "access_log.hpp"

#include <charconv>
#include <cstdint>
#include <ctime>
#include <iterator>
#include <utility>

namespace shop {

namespace {

constexpr std::size_t at_once = 32 * 1024;

void append(std::string& to, std::uint64_t number, int digits) {
    char text[20];
    for (char* at = text + digits; at != text; number /= 10) *--at = static_cast<char>('0' + number % 10);
    to.append(text, static_cast<std::size_t>(digits));
}

void append(std::string& to, std::uint64_t number) {
    char text[20];
    to.append(text, std::to_chars(std::begin(text), std::end(text), number).ptr);
}

} // namespace

access_log::access_log(std::shared_ptr<spdlog::logger> to) : to_{std::move(to)} {}

access_log::~access_log() { flush(); }

void access_log::write(const entry& what) {
    using namespace std::chrono;
    if (!to_) return;
    const auto now = system_clock::now().time_since_epoch();
    if (const std::time_t second = duration_cast<seconds>(now).count(); second != second_) {
        std::tm parts{};
        gmtime_r(&second, &parts);
        char text[40];
        date_.assign(text, std::strftime(text, sizeof text, "time=%Y-%m-%dT%H:%M:%S.", &parts));
        second_ = second;
    }
    const auto part = [this](std::string_view name, std::string_view text) {
        (lines_ += name) += text.empty() ? "-" : text;
    };
    lines_ += date_;
    append(lines_, static_cast<std::uint64_t>(duration_cast<microseconds>(now % 1s).count()), 6);
    part("Z method=", what.method);
    part(" path=", what.path);
    append(lines_ += " status=", what.status);
    const auto took = static_cast<std::uint64_t>(duration_cast<microseconds>(what.took).count());
    append(lines_ += " ms=", took / 1000);
    append(lines_ += '.', took % 1000, 3);
    part(" client=", what.client);
    part(" trace=", what.trace);
    lines_ += what.replayed ? " replayed=true\n" : " replayed=false\n";
    if (lines_.size() > at_once) flush();
}

void access_log::flush() {
    if (lines_.empty()) return;
    to_->info(std::string_view{lines_});
    lines_.clear();
}

} // namespace shop
