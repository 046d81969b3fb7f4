// A private PostgreSQL server of the test's own, to be stopped and crashed.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

namespace test {

class server {
public:
    explicit server(std::string name) : name_{std::move(name)} {
        command("destroy");
        command("start");
    }
    ~server() { static_cast<void>(std::system(line("destroy").c_str())); }
    server(const server&) = delete;
    server& operator=(const server&) = delete;

    // As scripts/server has them.
    void command(const std::string& verb) const {
        if (std::system(line(verb).c_str()) != 0) throw std::runtime_error{"scripts/server " + verb + " failed"};
    }

    // Where it is, as conninfo.
    [[nodiscard]] std::string conninfo() const {
        FILE* const shell = popen(("eval \"$(" + line("env") +
                                   ")\"; echo \"host='$PGHOST' port=$PGPORT password=$PGPASSWORD dbname=$PGDATABASE\"")
                                      .c_str(),
                                  "r");
        std::string text(1000, '\0');
        text.resize(fread(text.data(), 1, text.size(), shell));
        pclose(shell);
        return text;
    }

private:
    [[nodiscard]] std::string line(const std::string& verb) const {
        return "'" IDEM_SOURCE_DIR "/scripts/server' " + verb + " " + name_;
    }

    std::string name_;
};

} // namespace test
