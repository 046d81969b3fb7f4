// The statements on execution that the SDK sends, and how it reads what comes back. Not for users.
#pragma once

#include <idem/execute.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace idem::detail {

// Texts are SQL literals, already quoted. The columns of an execution are status, response, and a failure's sqlstate
// and message.
std::string execute_sql(std::string_view handler, std::string_view key, std::string_view request,
                        std::string_view scope, const execute_options&);
std::string execute_many_sql(std::string_view handler, std::string_view keys, std::string_view requests,
                             std::string_view scope);

execute_status parse_execute_status(std::string_view);

// One literal for each item: its key or its request.
template <typename Quote>
std::string execute_list(std::span<const execute_item> items, std::string execute_item::*member, Quote&& quote) {
    std::string list;
    for (const execute_item& item : items) list.append(list.empty() ? "" : ",").append(quote(item.*member));
    return list;
}

// `text(row, column)`: the field's text, or nothing for NULL.
template <typename Text>
execution read_execution(Text&& text, int row) {
    const execute_status status = parse_execute_status(*text(row, 0));
    if (status == execute_status::failed)
        return {status, std::nullopt, error{text(row, 3).value_or(""), text(row, 2).value_or("")}};
    return {status, text(row, 1), std::nullopt};
}

template <typename Text>
std::vector<execution> read_executions(Text&& text, int rows) {
    std::vector<execution> all;
    for (int row = 0; row < rows; ++row) all.push_back(read_execution(text, row));
    return all;
}

} // namespace idem::detail
