// libFuzzer: what the SDK reads of the server's answers is either refused or read wholly.
#include <idem/detail/sql.hpp>
#include <idem/errors.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

using idem::detail::parse_numbers;

void must(bool holds) {
    if (!holds) std::abort();
}

std::string array_of(const std::vector<std::int64_t>& numbers) {
    std::string text = "{";
    for (const std::int64_t number : numbers) text += (text.size() > 1 ? "," : "") + std::to_string(number);
    return text + "}";
}

void try_as_array(const std::string& text) {
    try {
        const std::vector<std::int64_t> numbers = parse_numbers(text);
        const auto commas = std::ranges::count(text, ',');
        must(text.empty() || text == "{}" ? numbers.empty() : std::ssize(numbers) == commas + 1);
        must(parse_numbers(array_of(numbers)) == numbers);
    } catch (const idem::error& refused) {
        must(refused.sqlstate() == "0A000");
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text{reinterpret_cast<const char*>(data), size};
    try_as_array(text);
    try_as_array("{" + text + "}");

    std::vector<std::int64_t> numbers(size / sizeof(std::int64_t));
    if (!numbers.empty()) std::memcpy(numbers.data(), data, numbers.size() * sizeof(std::int64_t));
    must(parse_numbers(array_of(numbers)) == numbers);

    try {
        must(idem::to_string(idem::detail::parse_status(text)) == text);
    } catch (const idem::error&) {}
    return 0;
}
