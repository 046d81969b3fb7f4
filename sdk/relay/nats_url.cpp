#include "nats_url.hpp"

#include "sink.hpp"

#include <algorithm>
#include <charconv>

namespace idem::relay {

namespace {

constexpr std::string_view form = "the form is nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][/STREAM]"
                                  "[?subject=PREFIX&creds=FILE]";

[[noreturn]] void refuse(const std::string& why) { throw bad_url{why + "; " + std::string{form}}; }

std::string decoded(std::string_view text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        unsigned byte = static_cast<unsigned char>(text[i]);
        if (text[i] == '%') {
            const std::string_view digits = text.substr(i + 1, 2);
            const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
            if (digits.size() < 2 || read.ptr != digits.data() + 2 || byte == 0)
                refuse("a % in it is not followed by two hexadecimal digits");
            i += 2;
        }
        plain += static_cast<char>(byte);
    }
    return plain;
}

// Cuts `text` at the first `mark`: what follows is returned, nothing if there is no such mark.
std::optional<std::string_view> cut(std::string_view& text, char mark) {
    const auto at = text.find(mark);
    if (at == std::string_view::npos) return {};
    const std::string_view rest = text.substr(at + 1);
    text = text.substr(0, at);
    return rest;
}

bool is_blank_or_control(char c) { return static_cast<unsigned char>(c) <= ' ' || c == '\x7f'; }

void add_server(nats_url& url, std::string_view server) {
    std::string_view host = server;
    const bool bracketed = host.starts_with('[');
    const auto colon = bracketed ? host.find(':', host.find(']')) : host.find(':');
    unsigned port = 4222;
    if (colon != std::string_view::npos) {
        const std::string_view digits = host.substr(colon + 1);
        const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), port);
        if (read.ec != std::errc{} || read.ptr != digits.data() + digits.size() || port < 1 || port > 65535)
            refuse("\"" + std::string{digits} + "\" is no port");
        host = host.substr(0, colon);
    }
    if (host.empty() || std::ranges::any_of(host, is_blank_or_control) || bracketed != host.ends_with(']'))
        refuse("\"" + std::string{server} + "\" is no host");
    url.servers.push_back("nats://" + std::string{host} + ':' + std::to_string(port));
}

void authenticate(nats_url& url, std::string_view userinfo) {
    const auto password = cut(userinfo, ':');
    if (userinfo.empty()) refuse("there is no user before the @");
    (password ? url.user : url.token) = decoded(userinfo);
    if (password) url.password = decoded(*password);
}

void set(nats_url& url, std::string_view parameter) {
    const auto value = cut(parameter, '=');
    if (!value || value->empty()) refuse("parameter \"" + std::string{parameter} + "\" has no value");
    if (parameter == "subject")
        url.prefix = decoded(*value);
    else if (parameter == "creds")
        url.credentials = decoded(*value);
    else
        refuse("there is no parameter \"" + std::string{parameter} + "\"");
}

std::string percent_encoded(char c) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(c);
    return {'%', digits[byte >> 4U], digits[byte & 15U]};
}

} // namespace

nats_url parse_nats_url(std::string_view text) {
    nats_url url;
    url.tls = text.starts_with("tls://");
    text.remove_prefix(text.find("://") + 3);
    auto parameters = cut(text, '?');
    const auto stream = cut(text, '/');
    if (const auto at = text.rfind('@'); at != std::string_view::npos) {
        authenticate(url, text.substr(0, at));
        text.remove_prefix(at + 1);
    }
    for (std::optional<std::string_view> rest = text; rest;) {
        std::string_view server = *rest;
        rest = cut(server, ',');
        add_server(url, server);
    }
    if (stream && !stream->empty()) url.stream = decoded(*stream);
    if (url.stream.find_first_of(".*>/\\") != std::string::npos || std::ranges::any_of(url.stream, is_blank_or_control))
        refuse("\"" + url.stream + "\" is no name for a stream");
    while (parameters) {
        std::string_view parameter = *parameters;
        parameters = cut(parameter, '&');
        set(url, parameter);
    }
    if (url.prefix.empty()) url.prefix = url.stream;
    if (url.prefix.starts_with('.') || url.prefix.ends_with('.') || url.prefix.find("..") != std::string::npos ||
        url.prefix.find_first_of("*>") != std::string::npos || std::ranges::any_of(url.prefix, is_blank_or_control))
        refuse("\"" + url.prefix + "\" is no beginning of a subject");
    return url;
}

std::string nats_url::shown() const {
    std::string all;
    for (const std::string& each : servers) all += (all.empty() ? "" : ",") + each.substr(each.find("://") + 3);
    return (tls ? "tls://" : "nats://") + all;
}

std::string nats_subject(std::string_view prefix, std::string_view topic) {
    std::string subject{prefix};
    subject += '.';
    for (std::size_t i = 0; i < topic.size(); ++i) {
        const char c = topic[i];
        const bool empty_part = c == '.' && (subject.back() == '.' || i + 1 == topic.size());
        if (empty_part || c == '*' || c == '>' || c == '%' || is_blank_or_control(c))
            subject += percent_encoded(c);
        else
            subject += c;
    }
    return subject;
}

std::string nats_header(std::string_view value) {
    std::string header;
    for (std::size_t i = 0; i < value.size(); ++i) {
        const char c = value[i];
        const bool at_an_end = i == 0 || i + 1 == value.size();
        if (c == '%' || (c == ' ' ? at_an_end : is_blank_or_control(c)))
            header += percent_encoded(c);
        else
            header += c;
    }
    return header;
}

} // namespace idem::relay
