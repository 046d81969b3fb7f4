// Waiting for what others bring about.
#pragma once

#include <chrono>
#include <thread>

namespace test {

// Whether the condition holds within that time; it is asked now and then.
template <typename Condition>
bool comes_true(Condition&& condition, std::chrono::seconds within) {
    for (const auto until = std::chrono::steady_clock::now() + within; std::chrono::steady_clock::now() < until;) {
        if (condition()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
    }
    return condition();
}

} // namespace test
