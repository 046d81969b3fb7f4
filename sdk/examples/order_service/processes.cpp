#include "processes.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <utility>

namespace shop {

namespace {

std::string contents(const std::filesystem::path& file) {
    std::ifstream from{file, std::ios::binary};
    return {std::istreambuf_iterator<char>{from}, {}};
}

struct figures {
    double seconds{};
    std::uint64_t memory{};
};

// None if it is gone.
std::optional<figures> figures_of(pid_t pid) {
    const std::string stat = contents("/proc/" + std::to_string(pid) + "/stat");
    const auto name_end = stat.rfind(')'); // the name may contain anything
    if (name_end == std::string::npos) return {};
    std::istringstream rest{stat.substr(name_end + 1)};
    std::vector<std::string> field{std::istream_iterator<std::string>{rest}, {}};
    if (field.size() < 22) return {};
    const auto ticks = std::stod(field[11]) + std::stod(field[12]); // utime, stime
    return figures{ticks / static_cast<double>(sysconf(_SC_CLK_TCK)),
                   std::stoull(field[21]) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))};
}

std::vector<pid_t> children_of(pid_t pid) {
    const std::string id = std::to_string(pid);
    std::istringstream list{contents("/proc/" + id + "/task/" + id + "/children")};
    return {std::istream_iterator<pid_t>{list}, {}};
}

// "postgres: USER DATABASE …", or "postgres: checkpointer" and the like, or the postmaster's command line
std::string row_of_backend(pid_t pid) {
    std::istringstream title{contents("/proc/" + std::to_string(pid) + "/cmdline")};
    std::string word, user, database;
    title >> word >> user >> database;
    return std::ranges::any_of(std::array{"shop", "read_model"}, [&](auto name) { return database == name; })
               ? "postgres, " + database
               : "postgres, itself";
}

} // namespace

processes::processes(std::filesystem::path directory) : directory_{std::move(directory)} { reset(); }

void processes::reset() {
    counts_ = false;
    rows_.clear();
    look();
    counts_ = true;
    began_ = std::chrono::steady_clock::now();
}

double processes::seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
}

void processes::look_at(pid_t pid, const std::string& name) {
    const auto now = figures_of(pid);
    if (!now) return;
    const std::string row = name == "postgres" ? row_of_backend(pid) : name;
    if (pid != getpid()) // what we start is not ours
        for (const pid_t child : children_of(pid)) look_at(child, name);
    using_[pid] = now->seconds;
    const auto before = used_.find(pid);
    // a pid that is used again began with less
    const double since = before == used_.end() || before->second > now->seconds ? 0 : before->second;
    usage& sum = rows_[row];
    if (counts_) sum.seconds += now->seconds - since;
    if (row.starts_with("postgres")) return;
    memory_[row] += now->memory;
    sum.peak_memory = std::max(sum.peak_memory, memory_[row]);
}

void processes::look() {
    memory_.clear();
    using_.clear();
    std::error_code none;
    for (const auto& each : std::filesystem::directory_iterator{directory_, none}) {
        if (each.path().extension() != ".pid") continue;
        const std::string row = each.path().stem();
        pid_t pid = 0;
        if (!(std::istringstream{contents(each.path())} >> pid)) continue; // it is being started
        look_at(pid, row);
    }
    look_at(getpid(), "load");
    used_ = std::exchange(using_, {});
}

} // namespace shop
