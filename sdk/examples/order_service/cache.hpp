// cache: completed responses that nothing can change any more, for as long as the database says, and as much of them as
// there is room for; those that nobody has asked for longest go first.
#pragma once

#include <chrono>
#include <cstddef>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

namespace shop {

class cache {
public:
    using time_point = std::chrono::system_clock::time_point;

    explicit cache(std::size_t most_bytes) : most_bytes_{most_bytes} {}
    cache(const cache&) = delete;
    cache& operator=(const cache&) = delete;

    // The response to this very request under this key; null: ask the database.
    [[nodiscard]] const std::string* find(std::string_view client, std::string_view key, std::string_view request);

    void keep(std::string_view client, std::string_view key, std::string_view request, std::string_view response,
              time_point until);

    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

private:
    struct entry {
        std::string name{};   // client and key
        std::string digest{}; // of the request
        std::string response{};
        time_point until{};
    };
    using entries = std::list<entry>;

    static std::string name_of(std::string_view client, std::string_view key);
    static std::size_t bytes_of(const entry&);
    void drop(entries::iterator);

    std::size_t most_bytes_, bytes_ = 0;
    entries entries_{}; // the last asked for first
    std::unordered_map<std::string_view, entries::iterator> by_name_{};
};

} // namespace shop
