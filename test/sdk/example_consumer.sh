#!/bin/sh
# The consumer of the examples, killed and started again: example_consumer.sh PROGRAM. Prints what it has counted.
set -eu
psql -qv ON_ERROR_STOP=1 <<'SQL'
SET client_min_messages = warning;
DROP TABLE IF EXISTS takings;
CREATE TABLE takings (item text PRIMARY KEY, pence bigint NOT NULL);
SELECT idem_unsubscribe(consumer) FROM idem_consumers WHERE consumer = 'takings' \g /dev/null
SELECT idem_subscribe('takings', ARRAY['orders'], lanes => 8) \g /dev/null
SQL
publish() { psql -qXc "SELECT idem_publish('orders', '{\"item\": \"tea\", \"pence\": 350}')" -o /dev/null; }
until_it_has() { until [ "$(psql -qXAtc 'SELECT sum(pence) FROM takings')" = "$1" ]; do sleep 0.02; done; }

publish
"$1" "" 4 &
until_it_has 350
kill -9 $!
publish
"$1" "" 4 &
until_it_has 700
publish
until_it_has 1050
kill $!
wait $!
echo "ended well, with $(psql -qXAtc 'SELECT pence FROM takings')"
