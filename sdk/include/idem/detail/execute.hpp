// The statements on execution that the SDK sends, and how it reads what comes back. Not for users.
#pragma once

#include <idem/execute.hpp>

#include <algorithm>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace idem::detail {

// Texts are SQL expressions, already quoted. The columns of an execution are status, response, cacheable_until, and a
// failure's sqlstate and message.
std::string execute_sql(std::string_view handler, std::string_view key, std::string_view request,
                        std::string_view scope, const execute_options&);
std::string execute_many_sql(std::string_view handler, std::string_view keys, std::string_view requests,
                             std::string_view scope, std::string_view contexts);
std::string array_sql(std::string_view elements, std::string_view type);

execute_status parse_execute_status(std::string_view);

// One literal for each item: `text` of it.
template <typename Text, typename Quote>
std::string execute_list(std::span<const execute_item> items, Text&& text, Quote&& quote) {
    std::string list;
    for (const execute_item& item : items) list.append(list.empty() ? "" : ",").append(quote(std::invoke(text, item)));
    return list;
}

// The same of texts that are not quoted yet, where they cannot be parameters. One scope is sent for all, unless an item
// has its own, or a context.
template <typename Quote>
std::string execute_many_sql(std::string_view handler, std::span<const execute_item> items,
                             const execute_options& options, Quote&& quote) {
    const auto has_scope = [](const execute_item& item) { return item.scope.has_value(); };
    const auto has_context = [](const execute_item& item) { return item.context.has_value(); };
    const auto scope = [&options](const execute_item& item) -> std::string_view {
        return item.scope ? *item.scope : options.scope;
    };
    const auto quote_or_null = [&quote](const std::optional<std::string>& text) {
        return text ? std::string{quote(*text)} : "NULL";
    };
    const bool contexts = std::ranges::any_of(items, has_context);
    return execute_many_sql(
        quote(handler), array_sql(execute_list(items, &execute_item::key, quote), "text"),
        array_sql(execute_list(items, &execute_item::request, quote), "jsonb"),
        contexts || std::ranges::any_of(items, has_scope) ? array_sql(execute_list(items, scope, quote), "text")
                                                          : quote(options.scope),
        contexts ? array_sql(execute_list(items, &execute_item::context, quote_or_null), "jsonb") : "");
}

// `text(row, column)`: the field's text, or nothing for NULL.
template <typename Text>
execution read_execution(Text&& text, int row) {
    const execute_status status = parse_execute_status(*text(row, 0));
    if (status == execute_status::failed)
        return {status, std::nullopt, std::nullopt, error{text(row, 4).value_or(""), text(row, 3).value_or("")}};
    return {status, text(row, 1), text(row, 2), std::nullopt};
}

template <typename Text>
std::vector<execution> read_executions(Text&& text, int rows) {
    std::vector<execution> all;
    all.reserve(static_cast<std::size_t>(rows));
    for (int row = 0; row < rows; ++row) all.push_back(read_execution(text, row));
    return all;
}

} // namespace idem::detail
