// The messages' way to another database: outbox → idem-relay → NATS JetStream → nats_consumer, each of these killed and
// started anew all the time.
#pragma once

#include "database.hpp"
#include "killed.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace intake {

class broker {
public:
    static bool is_here(); // nats-server, and what needs its library

    // Makes the other database, and starts all.
    broker(database&, std::uint64_t seed);

    // No more killing: lets it catch up, and fetches the other database's daily sales into demo_reported. Throws if it
    // does not.
    void finish(database&);

    struct kills {
        std::size_t relay, server, receiver;
    };
    kills kills() const { return {relay_->kills(), server_->kills(), receiver_->kills()}; }

private:
    std::unique_ptr<killed> server_{}, relay_{}, receiver_{};
};

} // namespace intake
