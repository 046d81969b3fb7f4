#include "rehearsal.hpp"

#include "progress.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <random>
#include <thread>

namespace intake {

namespace test = idem::test;

namespace {

request tampered(request r) {
    ++r.lines.at(0).quantity;
    return r;
}

// One COMMIT in sixteen is lost, before, after, or in mid-reply; of these, one in sixteen in silence.
test::proxy::decide lossy(std::uint64_t seed) {
    return [random = std::mt19937_64{seed}](auto&) mutable {
        const auto dice = random();
        const auto where = static_cast<test::place>((dice >> 32) % 3);
        if (dice % 16) return test::pass();
        return dice / 16 % 16 ? test::drop(where) : test::silence(where);
    };
}

} // namespace

std::size_t workload::count(errand what) const {
    const auto n = std::count_if(plan.begin(), plan.end(), [what](const delivery& d) { return d.what == what; });
    return static_cast<std::size_t>(n);
}

report rehearse(const std::string& title, const std::string& schema, const workload& load, const front_door& door) {
    const auto env = [](const char* name, const char* otherwise) {
        const auto value = std::getenv(name);
        return std::string{value && *value ? value : otherwise};
    };
    test::proxy proxy{{.host = env("PGHOST", "/var/run/postgresql"),
                       .port = env("PGPORT", "5432"),
                       .seed = load.seed,
                       .drop_probability = 1.0 / 256}};
    proxy.at_commit(lossy(load.seed));
    const auto conninfo = "host=127.0.0.1 hostaddr=127.0.0.1 port=" + std::to_string(proxy.port()) +
                          " options='-c search_path=" + schema + ",public' application_name=intake";

    mailbox mail{load.plan, load.requests.size()};
    std::atomic<std::size_t> done{0};
    std::atomic<unsigned> at_work{workers};
    std::mutex guard; // of the rest
    report all;
    std::vector<std::optional<std::string>> answers(load.requests.size());
    std::exception_ptr failure;

    const auto work = [&] {
        tally mine;
        try {
            idem::client client{conninfo};
            while (const auto d = mail.next()) {
                const auto& r = load.requests[d->request];
                const bool changed = d->what == errand::deliver_changed;
                const auto answer = door(client, *d, changed ? tampered(r) : r, mine);
                ++done;
                if (answer) {
                    const std::lock_guard lock{guard};
                    auto& first = answers[d->request];
                    if (!first) first = answer;
                    if (changed)
                        ++all.misled;
                    else
                        all.differing += first != answer;
                }
                mail.acknowledge(*d);
            }
        } catch (...) {
            const std::lock_guard lock{guard};
            failure = std::current_exception();
            mail.stop();
        }
        const std::lock_guard lock{guard};
        all.seen += mine;
        --at_work;
    };

    {
        std::vector<std::jthread> threads;
        for (unsigned i = 0; i < workers; ++i) threads.emplace_back(work);
        progress bar{title, load.plan.size()};
        while (at_work) {
            std::this_thread::sleep_for(std::chrono::milliseconds{50});
            if (interrupted) mail.stop();
            bar.show(done, proxy.totals().lost());
        }
        bar.end();
    }
    if (failure) std::rethrow_exception(failure);
    all.wire = proxy.totals();
    return all;
}

} // namespace intake
