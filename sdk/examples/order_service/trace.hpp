// The traceparent of a request (W3C Trace Context): taken from it, or made.
#pragma once

#include <string>
#include <string_view>

namespace shop {

// 00-<trace id>-<parent id>-<flags>, of a request's header, or a new one if that is missing or invalid.
void take_traceparent(std::string& into, std::string_view header);

// 32 hexadecimal digits of it.
inline std::string_view trace_id(std::string_view traceparent) { return traceparent.substr(3, 32); }

} // namespace shop
