# What goes on beside the requests: sourced by bench/run.
# shellcheck shell=bash disable=SC2154,SC2034,SC2030,SC2031 # variables of bench/run, some of them changed for one server

# The median of whole numbers, a line each.
middle() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# The same claims on this server, which counts nothing, and on one that has the library preloaded.
counters() {
    local db
    database counters
    scripts/server destroy counting
    scripts/server start counting "shared_preload_libraries = 'idem'" 'max_wal_size = 8GB' 'checkpoint_timeout = 1h' \
        "shared_buffers = $(sql -A -d postgres -c 'SHOW shared_buffers')"
    (eval "$(scripts/server env counting)" && createdb "$db" && sql -f bench/schema.sql)
    alternate counters_script counters "$requests" not_counted counted
    scripts/server destroy counting
}
counters_script() { # WORK CONTESTANT ROUND REQUESTS
    (
        [ "$2" = not_counted ] || eval "$(scripts/server env counting)"
        measure "$@" transactions idem "$4"
    )
}

# Latency of claims, 4,000 a second: while a full generation is retired and truncated, and in the quiet around it. It is the
# median over the seconds of each second's p99, for a disk that others use too stalls now and then.
retire() {
    local db round
    database retire_loaded
    say "retire: loading ${IDEM_BENCH_RETIRED:-10000000} keys"
    sql -v keys="${IDEM_BENCH_RETIRED:-10000000}" -f bench/load_retire.sql
    db=retire
    for ((round = 1; round <= rounds; round++)); do
        PGOPTIONS='-c client_min_messages=warning' dropdb --if-exists --force "$db"
        createdb -T retire_loaded -S file_copy "$db"
        sync # or the system writes all that out meanwhile
        sleep 10
        retire_once "$round"
    done
}
retire_once() { # ROUND
    local dir load began ended quiet busy ms call
    dir=$(mktemp -d)
    pgbench -n -M prepared -c "$clients" -j 2 -R 4000 -T 900 -l --log-prefix="$dir/log" -f bench/tx/idem.sql "$db" >"$dir/out" &
    load=$!
    sleep 20
    sql -c "UPDATE idem_ring SET step = step + 1, ends_at[1] = now() WHERE store = 'keys'"
    began=$(date +%s%6N)
    for ((call = 0; call < 20; call++)); do
        sql -c 'CALL idem_maintain()'
        [ "$(sql -A -c "SELECT pg_relation_size('idem_keys_0')")" -gt 0 ] || break
    done
    ended=$(date +%s%6N)
    sleep 20
    kill "$load"
    wait "$load" || :
    [ "$(sql -A -c "SELECT pg_relation_size('idem_keys_0')")" -eq 0 ] || { echo "bench: retire: not emptied" >&2; exit 1; }
    cat "$dir"/log* | awk '{ print $5, $3 }' | sort -k 1,1n -k 2,2n | awk -v from=$((began / 1000000)) -v to=$((ended / 1000000)) '
        function second() { if (n > 1000) print (at >= from && at <= to) ? "busy" : "quiet", v[int(n * .99)] }
        $1 != at { second(); n = 0; at = $1 }
        { v[++n] = $2 }' >"$dir/seconds"
    p99() { awk -v of="$1" '$1 == of { print $2 }' "$dir/seconds" | middle; }
    quiet=$(p99 quiet) busy=$(p99 busy)
    ms=$(((ended - began) / 1000))
    sample retire quiet "$1" p99_us "$quiet"
    sample retire retired "$1" p99_us "$busy"
    sample retire retired "$1" ms "$ms"
    say "$(printf '%-10s  round %d  p99 %d us, while a generation goes (%d ms) %d us' retire "$1" "$quiet" "$ms" "$busy")"
    rm -rf "$dir"
}

# 5,000 requests a second, 30 % of them new and the others a client's own of its last thousand, while keys live for a
# tenth of the time: rotation goes on, by the worker. Latency counts from when a request was due. Of the first and the last sixth
# it is the median over the minutes of each minute's p99, for a machine that others use too stalls now and then.
steady() {
    local db=steady seconds=${IDEM_BENCH_SECONDS:-3600} dir
    [ "$seconds" -ge 360 ] || { echo 'bench: steady: it takes six minutes at least, of which the first is compared with the last' >&2; exit 2; }
    scripts/server destroy steady
    scripts/server start steady "shared_preload_libraries = 'idem'" 'idem.naptime = 10' "idem.key_ttl = '$((seconds / 10))s'" \
        'max_wal_size = 8GB' "shared_buffers = $(sql -A -d postgres -c 'SHOW shared_buffers')"
    dir=$(mktemp -d)
    sql -d bench -c "INSERT INTO setup VALUES ('seconds of steady', '$seconds')"
    say "steady: $seconds s"
    (
        eval "$(scripts/server env steady)"
        createdb "$db"
        sql -f bench/schema.sql -c "UPDATE idem_ring SET ttl = '{$((seconds / 10)),0,0}' WHERE store = 'keys'" # a shorter one comes with a turn
        pgbench -n -M prepared -c "$clients" -j 2 -R 5000 -T "$seconds" -P 60 -l --log-prefix="$dir/log" --sampling-rate=0.1 \
            -D mine=0 -D n=0 -f bench/tx/steady_new.sql@3 -f bench/tx/steady_again.sql@7 "$db" 2>&1 | grep ^progress
        steps=$(sql -A -c "SELECT step FROM idem_ring WHERE store = 'keys'")
        say "steady: the ring took $steps steps"
        [ "$steps" -ge 20 ] || { echo 'bench: steady: the ring did not turn' >&2; exit 1; }
    )
    # p99 of each minute: time, in us, is the third column, second of the end the fifth
    awk '{ print $5, $3 }' "$dir"/log* | sort -k 1,1n | awk 'NR == 1 { began = $1 } { print int(($1 - began) / 60) + 1, $2 }' |
        sort -k 1,1n -k 2,2n | awk '
            function minute() { if (n > 100) print at, v[int(n * .99)] }
            $1 != at { minute(); n = 0; at = $1 }
            { v[++n] = $2 }
            END { minute() }' >"$dir/minutes"
    while read -r at value; do
        sample steady minutes 1 p99_us "$value"
    done <"$dir/minutes"
    at=0
    median() { awk -v from="$1" -v to="$2" '$1 > from && $1 <= to { print $2 }' "$dir/minutes" | middle; }
    sample steady first 1 p99_us "$(median 0 $((seconds / 360)))"
    sample steady last 1 p99_us "$(median $((seconds / 72)) $((seconds / 60)))"
    rm -rf "$dir"
    scripts/server destroy steady
}
