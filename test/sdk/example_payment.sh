#!/bin/sh
# The payment of the examples, crashing at every point in turn: example_payment.sh PROGRAM. Its last line says how it
# went.
set -eu
examples=$(dirname "$0")/../../sdk/examples
provider=${PGDATABASE:-postgres}_provider
shop() { psql -qXAt -v ON_ERROR_STOP=1 -c 'SET client_min_messages = warning' "$@"; }
there() { psql -qXAt -v ON_ERROR_STOP=1 -d "$provider" "$@"; }

shop -c 'DROP TABLE IF EXISTS payments' -c 'DROP FUNCTION IF EXISTS void_payment(jsonb)' -f "$examples/payment.sql"
psql -qX -c 'SET client_min_messages = warning' -c "DROP DATABASE IF EXISTS \"$provider\"" -c "CREATE DATABASE \"$provider\""
there -f "$examples/provider.sql"
program=$1
pay() { IDEM_EXAMPLE_DIES_AT=${2-0} "$program" '' "dbname=$provider" "$1" 350; } # KEY [PLACE]
dies() { # KEY PLACE: false if it has not come to that place. Nobody waits for the lease's end here.
    status=0
    pay "$@" >/dev/null || status=$?
    shop -c "UPDATE idem_pinned SET lease_ends_at = now() WHERE key = '$1' AND fate = 'leased'"
    [ $status -eq 9 ] || { [ $status -eq 0 ] && return 1; }
}

# without a crash: another asks meanwhile, and the provider takes longer than the lease, which is therefore renewed
there -c 'UPDATE latency SET seconds = 3'
calm=$({ pay "calm-$$" & pay "calm-$$"; wait; } | sort | paste -sd ' ')
attempts=$(shop -c "SELECT attempt FROM idem_keys WHERE key = 'calm-$$'")
there -c 'UPDATE latency SET seconds = 0.1'

# a crash at each place in turn, and at the same again, counted from where it goes on; then none
places=1
while dies "crash-$places-$$" $places; do
    dies "crash-$places-$$" $places || :
    pay "crash-$places-$$" >/dev/null
    places=$((places + 1))
done
for place in $(seq $places); do [ "$(pay "crash-$place-$$")" = 'completed {"paid": 350}' ]; done

# one that never comes back: charged, and then nobody asks again until it is too late
dies "gone-$$" 6
shop -c "UPDATE idem_pinned SET deadline = now() WHERE key = 'gone-$$'" -c 'CALL idem_maintain()'
for key in $(shop -c "SELECT key FROM idem_outbox WHERE topic = 'voids' AND key LIKE '%-$$'"); do there -c "SELECT give_up('$key')" >/dev/null; done
late=$(pay "gone-$$")

charges=$(there -c "SELECT string_agg(DISTINCT state, ' ') || ' ' || count(*) FROM charges WHERE key LIKE 'crash%'")
payments=$(shop -c "SELECT string_agg(DISTINCT state, ' ') || ' ' || count(*) FROM payments WHERE key LIKE 'crash%'")
again=$(there -c "SELECT count(*) > $places FROM calls WHERE key LIKE 'crash%' AND what = 'authorise'")
gone=$(there -c "SELECT state FROM charges WHERE key = 'gone-$$'")
wrong=$(shop -c "SELECT count(*) FROM idem_verify()")
echo "$calm, attempt $attempts; $((places - 1)) crashes: charges $charges, payments $payments, asked again $again; gone: $gone, $late; wrong: $wrong"
psql -qX -c "DROP DATABASE \"$provider\""
