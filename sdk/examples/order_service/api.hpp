// api: what the service answers to which request. An exchange makes of an HTTP request a call for the batcher, and of
// what came of it an HTTP answer.
#pragma once

#include "access_log.hpp"
#include "batcher.hpp"
#include "cache.hpp"
#include "clients.hpp"
#include "http.hpp"
#include "metrics.hpp"

#include <memory>
#include <optional>

namespace shop {

// What all exchanges share.
struct api {
    batcher& calls;
    cache& responses;
    metrics& counts;
    access_log& log;
    std::optional<clients> known{}; // once the database was there
    bool draining = false;

    std::unique_ptr<http_exchange> exchange(http_connection&);
};

} // namespace shop
