#include <idem/transaction.hpp>

#include <idem/detail/sql.hpp>
#include <idem/errors.hpp>

#include "wire.hpp"

#include <vector>

namespace idem {

result transaction::exec(const std::string& sql, std::initializer_list<std::optional<std::string_view>> parameters) {
    // libpq wants its strings zero-terminated, which a view need not be.
    std::vector<std::optional<std::string>> terminated;
    std::vector<const char*> values;
    terminated.reserve(parameters.size());
    for (const auto& parameter : parameters) {
        terminated.emplace_back(parameter ? std::optional{std::string{detail::no_zero_byte(*parameter)}}
                                          : std::nullopt);
        values.push_back(parameter ? terminated.back()->c_str() : nullptr);
    }

    detail::reply answer = parameters.size() == 0 ? detail::ask(connection_, sql, timeout_)
                                                  : detail::ask(connection_, sql, values, timeout_);
    if (answer.copying()) throw error{"COPY is not for exec: use connection() and libpq's own functions", "0A000"};
    answer.check(connection_);
    return std::move(answer.results.back());
}

} // namespace idem
