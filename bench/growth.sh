# How it all grows, with keys, clients and lanes: sourced by bench/run.
# shellcheck shell=bash disable=SC2154,SC2034,SC2030,SC2031 # variables of bench/run, some of them changed for one server

# An empty store against a large one, where the memory is small; a run is a million requests, since after a checkpoint the
# first change of each of so many pages logs all of it.
hundred() {
    local keys=$many rounds=5
    sql -d bench -c "INSERT INTO setup VALUES ('keys of hundred', '$keys'), ('shared_buffers of hundred', '2GB'),
        ('requests a run of hundred', '$wal_requests')"
    [ -n "${IDEM_BENCH_KEEP-}" ] || scripts/server destroy hundred
    scripts/server start hundred 'shared_buffers = 2GB' 'max_wal_size = 8GB' 'checkpoint_timeout = 1h' \
        'maintenance_work_mem = 1GB' 'max_connections = 300'
    (
        eval "$(scripts/server env hundred)"
        db=hundred
        ready idem idem_current
        database none
    )
    alternate hundred_script hundred "$wal_requests" none hundred
    [ -n "${IDEM_BENCH_KEEP-}" ] || scripts/server destroy hundred
}
# The system's cache has what continual load would keep there, and not what the other one's turn has left of it.
hundred_script() { # WORK CONTESTANT ROUND REQUESTS
    (
        eval "$(scripts/server env hundred)"
        db=$2
        warm read
        measure "$@" transactions idem "$4"
    )
}

# With p99, of a log that has each transaction.
logged() { # SCRIPT REQUESTS
    local dir
    dir=$(mktemp -d)
    transactions "$1" "$2" -l --log-prefix="$dir/log"
    awk '{ print $3 }' "$dir"/log* | sort -n | awk '{ v[NR] = $1 } END { print "p99_ms = " v[int(NR * .99)] / 1000 }'
    rm -rf "$dir"
}
logged_script() { measure "$@" logged "$2" "$4"; } # WORK CONTESTANT ROUND REQUESTS

# Live keys, from ten thousand on.
growth_keys() {
    local db keys at rounds=3 contestant
    for ((keys = 10000; keys <= many; keys *= 10)); do
        at=$keys
        database growth
        load idem idem_current idiom
        for contestant in idem idiom; do
            sample growth_keys "$contestant" 1 bytes "$(sql -A -c "SELECT sum(pg_total_relation_size(oid)) / $keys FROM pg_class
                WHERE relkind = 'r' AND relname ~ '^${contestant}_keys'")"
        done
        alternate logged_script growth_keys "$requests" idem idiom
    done
    dropdb --force growth
    at=0
}

# Clients, over a million keys; each has five hundred requests at least, or it would be about what a session does once.
growth_clients() {
    local db keys=1000000 at rounds=3 clients least
    database growth
    load idem idem_current idiom floor
    for ((clients = 1; clients <= 256; clients *= 2)); do
        at=$clients
        least=$((clients * 500))
        alternate logged_script growth_clients $((requests > least ? requests : least)) idem idiom floor
    done
    dropdb --force growth
    at=0
}

# Lanes, of ten thousand message keys; a worker for each lane, up to sixteen.
growth_lanes() {
    local db n=$((messages / 10000 * 10000)) at rounds=3 lanes clients=1
    database lanes lanes
    say "lanes: loading $n messages"
    PGOPTIONS='-c synchronous_commit=off' sql -c "CALL load_keyed_messages($n)" -c 'VACUUM ANALYZE'
    for ((lanes = 1; lanes <= 64; lanes *= 2)); do
        at=$lanes
        alternate growth_lanes_loop growth_lanes "$n" idem
    done
    dropdb --force lanes
    at=0
}
growth_lanes_loop() { # WORK CONTESTANT ROUND MESSAGES
    sql -o /dev/null -c "SELECT rewind($lanes, 0)"
    PGDATABASE=$db measure "$@" build/sdk/bench/consumer_loop lanes $((lanes < 16 ? lanes : 16)) "$4"
}
