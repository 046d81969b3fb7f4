// What a statement returned: a PGresult that frees itself.
#pragma once

#include <libpq-fe.h>

#include <memory>
#include <string_view>

namespace idem {

class result {
public:
    explicit result(PGresult* owned = nullptr) noexcept : raw_{owned} {}

    [[nodiscard]] int rows() const noexcept { return PQntuples(raw_.get()); }
    [[nodiscard]] int columns() const noexcept { return PQnfields(raw_.get()); }
    [[nodiscard]] bool is_null(int row, int column) const noexcept { return PQgetisnull(raw_.get(), row, column) != 0; }

    // The value as text, empty for NULL; valid as long as the result.
    [[nodiscard]] std::string_view text(int row, int column) const noexcept {
        return {PQgetvalue(raw_.get(), row, column), static_cast<std::size_t>(PQgetlength(raw_.get(), row, column))};
    }

    // What the server says was done, as "INSERT 0 1"; and its number alone, as "1" (empty if there is none).
    [[nodiscard]] std::string_view tag() const noexcept { return PQcmdStatus(raw_.get()); }
    [[nodiscard]] std::string_view affected() const noexcept { return PQcmdTuples(raw_.get()); }

    // For anything else that libpq offers.
    [[nodiscard]] PGresult* get() const noexcept { return raw_.get(); }

private:
    struct clear {
        void operator()(PGresult* raw) const noexcept { PQclear(raw); }
    };
    std::unique_ptr<PGresult, clear> raw_;
};

} // namespace idem
