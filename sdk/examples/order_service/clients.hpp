// Who may use the service: the table "clients", in memory.
#pragma once

#include <idem/client.hpp>

#include <string>
#include <string_view>
#include <unordered_map>

namespace shop {

// 32 bytes.
std::string sha256(std::string_view text);

class clients {
public:
    clients() = default;
    // Throws idem::error.
    static clients read(idem::client&);

    // The name of who sends "Authorization: Bearer <key>"; empty: nobody.
    [[nodiscard]] std::string_view name_of(const std::string& authorization) const;

private:
    std::unordered_map<std::string, std::string> names_{}; // by the key's SHA-256
    // By what was sent: to hash a key costs more than to parse all of a request.
    mutable std::unordered_map<std::string, std::string_view> seen_{};
};

} // namespace shop
