#include "cache.hpp"

#include "clients.hpp"

#include <utility>

namespace shop {

namespace {

constexpr std::size_t overhead = 200; // of an entry, in the list and in the table

} // namespace

const std::string* cache::find(std::string_view client, std::string_view key, std::string_view request) {
    if (entries_.empty()) return nullptr;
    const auto found = by_name_.find(name_of(client, key));
    if (found == by_name_.end()) return nullptr;
    const auto place = found->second;
    if (place->until <= std::chrono::system_clock::now()) {
        drop(place);
        return nullptr;
    }
    // Another text may still be the same JSON: that is for the database to say.
    if (place->digest != sha256(request)) return nullptr;
    entries_.splice(entries_.begin(), entries_, place);
    return &place->response;
}

void cache::keep(std::string_view client, std::string_view key, std::string_view request, std::string_view response,
                 time_point until) {
    entry added{name_of(client, key), sha256(request), std::string{response}, until};
    if (bytes_of(added) > most_bytes_ || until <= std::chrono::system_clock::now()) return;
    if (const auto old = by_name_.find(added.name); old != by_name_.end()) drop(old->second);
    bytes_ += bytes_of(added);
    entries_.push_front(std::move(added));
    by_name_.emplace(entries_.front().name, entries_.begin());
    while (bytes_ > most_bytes_) drop(std::prev(entries_.end()));
}

void cache::drop(entries::iterator place) {
    bytes_ -= bytes_of(*place);
    by_name_.erase(place->name);
    entries_.erase(place);
}

// A client's name has no blank.
std::string cache::name_of(std::string_view client, std::string_view key) {
    std::string name{client};
    return (name += ' ') += key;
}

std::size_t cache::bytes_of(const entry& one) {
    return one.name.capacity() + one.digest.capacity() + one.response.capacity() + overhead;
}

} // namespace shop
