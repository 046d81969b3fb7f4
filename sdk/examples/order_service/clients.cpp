#include "clients.hpp"

#include <idem/transaction.hpp>

#include <openssl/sha.h>

#include <cctype>
#include <chrono>

namespace shop {

namespace {

constexpr std::string_view scheme = "bearer ";
constexpr std::size_t most_seen = 10'000;

std::string bytes_of(std::string_view hex) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
        bytes += static_cast<char>(std::stoi(std::string{hex.substr(i, 2)}, nullptr, 16));
    return bytes;
}

} // namespace

std::string sha256(std::string_view text) {
    std::string digest(SHA256_DIGEST_LENGTH, '\0');
    SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
           reinterpret_cast<unsigned char*>(digest.data()));
    return digest;
}

clients clients::read(idem::client& from) {
    idem::transaction tx{from.connection(), std::chrono::seconds{5}};
    const idem::result rows = tx.exec("SELECT encode(api_key_sha256, 'hex'), name FROM clients");
    clients all;
    for (int row = 0; row < rows.rows(); ++row) all.names_.emplace(bytes_of(rows.text(row, 0)), rows.text(row, 1));
    return all;
}

std::string_view clients::name_of(const std::string& authorization) const {
    if (const auto seen = seen_.find(authorization); seen != seen_.end()) return seen->second;
    if (authorization.size() <= scheme.size()) return {};
    for (std::size_t i = 0; i < scheme.size(); ++i)
        if (std::tolower(static_cast<unsigned char>(authorization[i])) != scheme[i]) return {};
    const auto found = names_.find(sha256(std::string_view{authorization}.substr(scheme.size())));
    if (found == names_.end()) return {};
    if (seen_.size() >= most_seen) seen_.clear();
    return seen_[authorization] = found->second;
}

} // namespace shop
