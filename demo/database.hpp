// The connection for what is done before and after: straight, not through the proxy.
#pragma once

#include <idem/run.hpp>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace intake {

class database {
public:
    explicit database(const std::string& where = "")
        : client_{where + " options='-c client_min_messages=warning' application_name=intake"} {}

    idem::result exec(const std::string& sql, std::initializer_list<std::optional<std::string_view>> parameters = {}) {
        return idem::transaction{client_.connection(), std::chrono::seconds{60}}.exec(sql, parameters);
    }

    std::string value(const std::string& sql) { return std::string{exec(sql).text(0, 0)}; }

    // A script with a COPY FROM STDIN in it, which gets `input`; returns the last result.
    idem::result copy(const std::string& sql, const std::string& input) {
        const auto c = client_.connection();
        idem::result last;
        PQsendQuery(c, sql.c_str());
        for (idem::result next{PQgetResult(c)}; next.get(); next = idem::result{PQgetResult(c)}) {
            switch (PQresultStatus(next.get())) {
            case PGRES_COPY_IN:
                PQputCopyData(c, input.data(), static_cast<int>(input.size()));
                PQputCopyEnd(c, nullptr);
                break;
            case PGRES_FATAL_ERROR: throw std::runtime_error(PQresultErrorMessage(next.get()));
            default: last = std::move(next);
            }
        }
        return last;
    }

private:
    idem::client client_;
};

} // namespace intake
