#!/bin/sh
# The orders of the examples: example_orders.sh PROGRAM. Prints what it answered, on one line.
set -eu
psql -qo /dev/null -v ON_ERROR_STOP=1 <<SQL
SET client_min_messages = warning;
DROP TABLE IF EXISTS orders;
DROP FUNCTION IF EXISTS undo_order(jsonb);
\i $(dirname "$0")/../../sdk/examples/orders.sql
SQL
ask() { "$1" '' "$2-$$" "$3"; }

{
    ask "$1" kept book
    ask "$1" kept pay
    ask "$1" kept cancel
    ask "$1" undone book
    ask "$1" undone cancel
    ask "$1" undone cancel
    ask "$1" undone book
    ask "$1" undone pay
    ask "$1" never cancel
    ask "$1" never book
    ask "$1" never pay
    psql -qXAtc "SELECT count(*) FROM idem_outbox WHERE topic = 'refunds' AND key LIKE '%-$$'"
} | paste -sd .
