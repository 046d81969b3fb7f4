# Keys, over a store that is loaded with live ones: sourced by bench/run.
# shellcheck shell=bash disable=SC2154,SC2034,SC2030,SC2031 # variables of bench/run, some of them changed for one server

# ---- the keys ----

load() { # FILE…, side by side, into $db
    local file pid pids=() waited=0
    [ $# -eq 0 ] || say "loading $keys live keys: $*"
    for file in "$@"; do
        { sql -f "bench/load_$file.sql" && say "loaded $file"; } &
        pids+=($!)
    done
    until [ -z "$(jobs -rp)" ]; do
        sleep 1
        [ $((++waited % 20)) -ne 0 ] || say "  $(sql -A -c "SELECT pg_size_pretty(pg_database_size('$db'))") so far"
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
    warm
    sql -c "INSERT INTO loaded VALUES ($keys, '$*')"
}

# Indexes that are no catalog's, into shared_buffers or, to "read", into the system's cache.
warm() { sql -o /dev/null -c "SELECT pg_prewarm(oid, '${1:-buffer}') FROM pg_class WHERE relkind = 'i' AND oid >= 16384"; }

ready() { # FILE…: load, unless a kept server has just that, or no keys are wanted
    local have
    have=$(sql -A -c "SELECT keys || ' ' || files FROM loaded" 2>/dev/null) || :
    if [ "$have" = "$keys $*" ] || { [ $# -eq 0 ] && [ -n "$have" ]; }; then
        sql -c 'TRUNCATE sample'
        warm
        return
    fi
    database "$db"
    load "$@"
}

# ---- the parts ----

throughput() { alternate script throughput "$requests" bare floor idiom idem idem_from idem_request idiom_returning idem_returning; }
wal() {
    local rounds=1
    sql -d bench -c "INSERT INTO setup VALUES ('requests a run of wal', '$wal_requests')"
    alternate script wal "$wal_requests" idem idiom
}
replay() { alternate script replay "$requests" idem_replay idiom_replay; }
sdk() { alternate sdk_loop sdk $((requests / 2)) plain idiom idem idem_last; }
sdk_loop() { PGHOST=127.0.0.1 PGDATABASE=bench measure "$@" build/sdk/bench/sdk_loop "$2" "$clients" "$4"; }
# The same over a link of a millisecond each way.
link() {
    local out link port
    out=$(mktemp)
    build/sdk/bench/slow_link "$PGPORT" 1 >"$out" &
    link=$!
    until [ -s "$out" ]; do kill -0 "$link" && sleep 0.1; done
    port=$(cat "$out")
    alternate link_loop link $((requests / 16)) plain idiom idem idem_last
    kill "$link"
    rm -f "$out"
}
link_loop() { measure "$@" env PGHOST=127.0.0.1 PGPORT="$port" PGDATABASE=bench build/sdk/bench/sdk_loop "$2" "$clients" "$4"; }

memory() {
    say "memory: a backend claims and completes up to a million keys"
    sql -f bench/memory.sql
}
expiry() {
    say "expiry: half of the keys"
    sql -c 'TRUNCATE loaded' # afterwards they are gone
    sql -f bench/expiry.sql
}
