# Instructions of a backend, which callgrind counts and which repeat as no time does: sourced by bench/run.
# shellcheck shell=bash disable=SC2154,SC2034,SC2030,SC2031 # variables of bench/run, some of them changed for one server

# Over prepared statements in a pipeline, as everywhere here; of a transaction, what a thousand more take, so that what
# is done once does not count. All stores have half a million keys.
instructions() {
    local data=build/server/instructions/data output server contestant keys=500000
    scripts/server destroy instructions
    scripts/server start instructions 'autovacuum = off' 'fsync = off' 'max_wal_size = 8GB' 'checkpoint_timeout = 1h'
    output=$PWD/build/server/instructions/callgrind
    (
        db=instructions
        eval "$(scripts/server env instructions)"
        createdb "$db"
        sql -f bench/schema.sql -f bench/load_idiom.sql -f bench/load_floor.sql -f bench/load_idem.sql -f bench/load_idem_current.sql \
            -c 'CREATE TABLE two_columns (key text PRIMARY KEY, value text NOT NULL)' \
            -c "INSERT INTO two_columns SELECT loaded_key(i), '{\"order\": 4711, \"status\": \"created\"}' FROM generate_series(1, $keys) AS i" \
            -f bench/execute.sql -c "INSERT INTO once_keys (key, status) SELECT loaded_key(i), 'completed' FROM generate_series(1, $keys) AS i" \
            -f bench/messages.sql -c 'VACUUM ANALYZE' -c CHECKPOINT
    )
    # shellcheck disable=SC1090 # where it was a moment ago, with the settings that it keeps
    env=$(scripts/server env instructions)
    scripts/server stop instructions
    scripts/server as-user valgrind --tool=callgrind --trace-children=yes --callgrind-out-file="$output.%p" \
        "$(cd build/pg/root && echo "$PWD$(pg_config --bindir)")/postgres" -D "$PWD/$data" >"$data/../valgrind.log" 2>&1 </dev/null &
    server=$!
    for contestant in nothing two_columns claim_complete bare floor idiom idem idiom_returning idem_returning execute_idiom \
        execute_one plain_publish idem_publish pgq_publish; do
        sample instructions "$contestant" 1 instructions "$(eval "$env" && instructions_of "$contestant" "$output")"
        say "$(printf '%-10s  %-14s %8.0f each' instructions "$contestant" "$(sql -A -d bench -c "SELECT value FROM sample WHERE work = 'instructions' AND contestant = '$contestant'")")"
    done
    scripts/server stop instructions
    wait "$server" || :
    scripts/server destroy instructions
}
instructions_of() { # CONTESTANT OUTPUT
    local n sums=() postmaster others
    await answers || return
    postmaster=$(head -n 1 build/server/instructions/data/postmaster.pid)
    await settled "$postmaster" || return
    others=$(children "$postmaster")
    for n in 500 1500; do
        rm -f "$2".*
        pgbench -n -M prepared -c 1 -t "$n" -f "bench/tx/$1.sql" instructions >"$2" 2>&1 || { cat "$2" >&2; return 1; }
        # each process writes its own when it ends; the backend's is by far the largest
        await only "$postmaster" "$others" || return
        sums+=("$(awk '/^totals:/ && $2 > most { most = $2 } END { print most }' "$2".*)")
    done
    echo $(((sums[1] - sums[0]) / 1000))
}
# Under callgrind all takes fifty times as long; five minutes are enough.
await() { # COMMAND…
    local end=$((SECONDS + 300))
    until "$@"; do
        ((SECONDS < end)) || { echo "bench: instructions: in vain: $*" >&2; return 1; }
        sleep 0.2
    done
}
answers() { psql -Xqtc '' >/dev/null 2>&1; }
settled() { # POSTMASTER
    local before
    before=$(children "$1")
    [ -n "$before" ] && sleep 1 && [ "$(children "$1")" = "$before" ]
}
children() { cat "/proc/$1/task/$1/children"; }
# Has it no other children than these? One of them may have gone: a slow machine has psql's backend among them.
only() { # POSTMASTER PIDS
    local pid
    for pid in $(children "$1"); do [[ " $2 " == *" $pid "* ]] || return 1; done
}
