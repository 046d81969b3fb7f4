// watch: knows whether the database is there, so that nobody waits for one that is not, and reads the clients from it.
#pragma once

#include "clients.hpp"

#include <boost/asio/io_context.hpp>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace shop {

class watch {
public:
    // `known` is called in the io_context's thread, with the clients, as soon as they can be read. `connected` is set
    // as things are found to be.
    watch(boost::asio::io_context&, std::string conninfo, std::atomic<bool>& connected,
          std::function<void(clients)> known);
    ~watch();
    watch(const watch&) = delete;
    watch& operator=(const watch&) = delete;

    // Reads the clients again.
    void refresh();

private:
    void run();

    boost::asio::io_context& io_;
    std::string conninfo_;
    std::atomic<bool>& connected_;
    std::function<void(clients)> known_;
    std::mutex turn_{};
    std::condition_variable wake_{};
    bool wanted_ = true, ended_ = false;
    std::thread thread_;
};

} // namespace shop
