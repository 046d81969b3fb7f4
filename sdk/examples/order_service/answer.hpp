// An HTTP/1.1 answer, read where it lies: enough of HTTP for clients that know who answers them. It has a
// Content-Length, as all of the order service's and of nginx's own have.
#pragma once

#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace shop {

struct bad_answer : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct answer {
    int status = 0;
    std::string_view head{}, body{}; // head: the header lines, each with its line end

    // Of what the clients here ask for.
    std::optional<int> retry_after{}; // seconds
    bool replayed = false, closes = false;

    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    // Empty if there is none; any case.
    [[nodiscard]] std::string_view header(std::string_view name) const noexcept;

    // What an answer and its replays must have in common, byte for byte: all but what speaks of this very exchange.
    [[nodiscard]] std::string essence() const;

    // The answer at the beginning of what has come so far, which must stay where it is; none while it is not complete.
    // Throws bad_answer.
    static std::optional<answer> parse(std::string_view all);

private:
    std::size_t size_ = 0;
};

} // namespace shop
