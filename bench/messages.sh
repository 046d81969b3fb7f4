# Messages, from the publisher to the last acknowledgement: sourced by bench/run.
# shellcheck shell=bash disable=SC2154,SC2034,SC2030,SC2031 # variables of bench/run, some of them changed for one server

# ---- in turn ----

# From npm; it finds the server as libpq does.
graphile() { (cd bench/peers && PGDATABASE=$db "$OLDPWD/build/peers/node_modules/.bin/graphile-worker" "$@"); }
# In one call, for one by one each looks at all before it; so it does without statistics, too.
graphile_jobs() { # HOW-MANY
    sql -o /dev/null -c "SELECT graphile_worker.add_jobs(array_agg(('created', '{\"item\": \"white hanging heart\"}', NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec)) FROM generate_series(1, $1)" \
        -c 'VACUUM ANALYZE graphile_worker._private_jobs'
}

# The messages stay and pile up for all alike. PgQ's ticker works between the runs, at nobody's cost.
publish() {
    local db
    database messages messages
    graphile --schema-only
    graphile_jobs 50000
    alternate publish_script publish "$requests" plain_publish idem_publish pgq_publish graphile_publish
}
publish_script() { # WORK CONTESTANT ROUND REQUESTS
    local n=$4
    [ "$2" != graphile_publish ] || n=$((n / 8)) # it notifies, and such COMMITs wait for each other
    sql -o /dev/null -c 'SELECT pgq.ticker()'
    script "${@:1:3}" "$n"
}

# All drain the same messages, every round; idem_held beside an old snapshot. They are vacuumed
# before, lest the first to read them pays for the others.
drain() {
    local db clients=1 n=$((messages / 1000 * 1000))
    database messages messages
    say "drain: loading $n messages"
    PGOPTIONS='-c synchronous_commit=off' sql -c "CALL load_messages($n)" -c 'VACUUM ANALYZE'
    graphile --schema-only
    alternate drain_loop drain "$n" idem idem_held pgq graphile
}
drain_loop() { # WORK CONTESTANT ROUND MESSAGES
    if [ "$2" = graphile ]; then
        # a tenth of them is time enough
        graphile_jobs $(($4 / 10))
        measure "$1" "$2" "$3" $(($4 / 10)) graphile_all $(($4 / 10))
        return
    fi
    sql -o /dev/null -c 'SELECT rewind()'
    PGDATABASE=$db measure "$@" build/sdk/bench/consumer_loop "$2" "$4"
}

graphile_all() { # JOBS
    local began=${EPOCHREALTIME/./}
    graphile --once >/dev/null || return
    echo "tps = $(($1 * 1000000 / (${EPOCHREALTIME/./} - began)))"
}

# Of 10,000 keys: one lane against four with as many workers, and against one lane with 50 keys parked.
lanes() {
    local db clients=1 n=$((messages / 10000 * 10000))
    database lanes lanes
    say "lanes: loading $n messages"
    PGOPTIONS='-c synchronous_commit=off' sql -c "CALL load_keyed_messages($n)" -c 'VACUUM ANALYZE'
    alternate lanes_loop lanes "$n" lanes_1 lanes_4 parked_50
}
lanes_loop() { # WORK CONTESTANT ROUND MESSAGES
    local lanes=1 parked=0
    case $2 in lanes_4) lanes=4 ;; parked_50) parked=50 ;; esac
    sql -o /dev/null -c "SELECT rewind($lanes, $parked)" -c 'VACUUM idem_parked'
    PGDATABASE=$db measure "$1" "$2" "$3" $(($4 - $4 / 10000 * parked)) \
        build/sdk/bench/consumer_loop lanes "$lanes" $(($4 - $4 / 10000 * parked))
}

# From the outbox until the last message is acknowledged by a stream, of a NATS server that has just been started.
relay() {
    local db clients=1 n=$((messages / 10000 * 10000)) PATH=$PATH:/usr/sbin
    command -v nats-server >/dev/null || { echo "bench: relay: there is no nats-server" >&2; exit 1; }
    database relay lanes
    say "relay: loading $n messages"
    PGOPTIONS='-c synchronous_commit=off' sql -c "CALL load_keyed_messages($n)" -c 'VACUUM ANALYZE'
    alternate relay_loop relay "$n" relay_1 relay_4
}
relay_loop() { # WORK CONTESTANT ROUND MESSAGES
    local lanes=${2#relay_} port=$((20000 + RANDOM % 12000)) store server
    store=$(mktemp -d)
    nats-server -js -sd "$store" -a 127.0.0.1 -p "$port" 2>"$store/log" &
    server=$!
    until grep -q 'Server is ready' "$store/log"; do
        kill -0 "$server" || { cat "$store/log" >&2; exit 1; }
        sleep 0.1
    done
    sql -o /dev/null -c "SELECT rewind($lanes, 0, external => true)"
    PGDATABASE=$db measure "$@" relay_all "nats://127.0.0.1:$port" "$4"
    kill "$server"
    wait "$server" || :
    rm -rf "$store"
}
relay_all() { # URL MESSAGES
    local began=${EPOCHREALTIME/./} left
    build/sdk/sdk/relay/idem-relay --consumer one --sink "$1" --once || return
    echo "tps = $(($2 * 1000000 / (${EPOCHREALTIME/./} - began)))"
    left=$(sql -A -c "SELECT sum(depth) FROM idem_consumers WHERE consumer = 'one'")
    [ "$left" = 0 ] || { echo "$left messages are left"; return 1; }
}

# ---- at the same time ----

# PgQ's own daemon, at the shortest period that it takes for its word.
with_ticker() { # COMMAND…
    local dir ticker status=0
    dir=$(mktemp -d)
    printf '%s\n' '[pgqd]' "base_connstr = host=$PGHOST port=$PGPORT user=$PGUSER password=$PGPASSWORD" \
        "database_list = $db" 'ticker_period = 0.1' 'check_period = 1' "logfile = $dir/log" "pidfile = $dir/pid" >"$dir/pgqd.ini"
    PATH=$PATH:/usr/sbin pgqd -q "$dir/pgqd.ini" &
    ticker=$!
    sleep 2 # it looks for its databases first
    "$@" || status=$?
    kill "$ticker"
    wait "$ticker" || :
    rm -rf "$dir"
    return $status
}

# From the publisher's COMMIT until the consumer has the message, at 1,000 messages/s.
latency() {
    local db
    database messages messages
    with_ticker alternate latency_loop latency $((requests / 16)) idem notify pgq
}
latency_loop() { # WORK CONTESTANT ROUND MESSAGES
    local out metric value
    out=$(
        export PGDATABASE=$db
        build/sdk/bench/consumer_loop latency "$2" "$clients" "$4"
        [ "$2" != idem ] || build/sdk/bench/consumer_loop idle
    )
    while read -r metric _ value; do sample "$1" "$2" "$3" "$metric" "$value"; done <<<"$out"
    say "$(printf '%-10s  round %d of %d  %-14s %s' "$1" "$3" "$rounds" "$2" "$(paste -sd ' ' <<<"$out")")"
}

# 64 publish what 16 consumers each want whole, until all have all of it.
crowd() {
    local db clients=1
    database messages messages
    sql -o /dev/null -f bench/crowd.sql
    with_ticker alternate crowd_loop crowd "$requests" idem idem_polled pgq
}
crowd_loop() { # WORK CONTESTANT ROUND MESSAGES
    PGDATABASE=$db measure "$@" build/sdk/bench/consumer_loop crowd "$2" 64 16 "$4"
}
