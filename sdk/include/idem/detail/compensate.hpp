// The statements on compensation that the SDK sends, and how it reads what comes back. Not for users.
#pragma once

#include <idem/compensate.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace idem::detail {

// Texts are SQL literals, already quoted, or NULL. The columns of a cancellation are status, response, and the refused
// step's machine, from, to.
std::string compensate_with_sql(std::string_view key, std::string_view handler, std::string_view args,
                                const compensate_options&, std::string_view scope, std::string_view token = "NULL");
std::string confirm_sql(std::string_view key, std::string_view scope);
std::string cancel_sql(std::string_view key, std::string_view reason, std::string_view scope, const cancel_options&);

cancel_status parse_cancel_status(std::string_view);

// `text(column)`: the field's text, or nothing for NULL.
template <typename Text>
cancellation read_cancellation(Text&& text) {
    std::optional<refused_step> step;
    const cancel_status status = parse_cancel_status(*text(0));
    if (auto machine = text(2); machine && status == cancel_status::refused)
        step = {*std::move(machine), text(3), text(4).value_or("")};
    return {status, text(1), std::move(step)};
}

} // namespace idem::detail
