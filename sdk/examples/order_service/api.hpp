// api: what the service answers to which request. An exchange makes of an HTTP request a call for the batcher, and of
// what came of it an HTTP answer.
#pragma once

#include "batcher.hpp"
#include "clients.hpp"
#include "http.hpp"

#include <memory>

namespace shop {

// What all exchanges share.
struct api {
    batcher& calls;
    clients known{};
    bool draining = false;

    std::unique_ptr<http_exchange> exchange(http_connection&);
};

} // namespace shop
