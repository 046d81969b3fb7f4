-- What every view shows.
BEGIN;
SELECT plan(16);

CREATE FUNCTION pg_temp.columns(view regclass) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
	FROM pg_attribute WHERE attrelid = view AND attnum > 0 AND NOT attisdropped
$$;
SELECT is(pg_temp.columns('idem_keys'),
	'scope text, key text, status text, attempt integer, response jsonb, claimed_at timestamp with time zone, '
	'completed_at timestamp with time zone, expires_at timestamp with time zone, digest bigint, token bigint, holder_pid integer', 'idem_keys');
SELECT is(pg_temp.columns('idem_holders'),
	'pid integer, since timestamp with time zone, query text, key_hash bigint', 'idem_holders');
SELECT is(pg_temp.columns('idem_compensations'),
	'scope text, key text, handlers jsonb, deadline timestamp with time zone, state text', 'idem_compensations');
SELECT is(pg_temp.columns('idem_stores'),
	'store text, generation integer, rows bigint, bytes bigint, next_rotation timestamp with time zone, blocked_by integer[]', 'idem_stores');
SELECT is(pg_temp.columns('idem_stats'),
	'claims bigint, replays bigint, mismatches bigint, in_progress bigint, cancelled bigint, waits bigint, takeovers bigint, '
	'refused_transitions bigint, retry_ratio numeric, cancellations bigint, published bigint, fetched bigint, nacks bigint, '
	'dead_letters bigint, consumed bigint, duplicates bigint, maintained_at timestamp with time zone, since timestamp with time zone, missing text', 'idem_stats');
SELECT is(pg_temp.columns('idem_outbox'),
	'id bigint, topic text, key text, type text, payload jsonb, headers jsonb, created_at timestamp with time zone', 'idem_outbox');
SELECT is(pg_temp.columns('idem_consumers'),
	'consumer text, lane bigint, depth bigint, oldest_age interval, held_by integer, parked bigint, dead bigint', 'idem_consumers');
SELECT is(pg_temp.columns('idem_dead_letters'),
	'consumer text, id bigint, topic text, key text, type text, payload jsonb, headers jsonb, created_at timestamp with time zone, '
	'attempts integer, error text, failed_at timestamp with time zone', 'idem_dead_letters');
SELECT is(pg_temp.columns('idem_subscriptions'),
	'consumer text, id integer, topics text[], lanes integer, external boolean, since timestamp with time zone', 'idem_subscriptions, where relays and workers ask for the lanes');
SELECT is(pg_temp.columns('idem_outbox_0'),
	'id bigint, xid xid8, era bigint, created_at timestamp with time zone, branch bigint, slot integer, topic text, key text, type text, payload jsonb, headers jsonb',
	'idem_outbox_0, for those who read the tables by logical decoding');
SELECT is(pg_temp.columns('idem_transitions'),
	'machine text, from_state text, to_state text, enabled boolean, shipped boolean', 'idem_transitions');
SELECT is(pg_temp.columns('idem_guarded_topics'), 'topic text, machine text', 'idem_guarded_topics');
SELECT is(pg_temp.columns('idem_outbox_states'),
	'topic text, key text, state text, id bigint, since timestamp with time zone', 'idem_outbox_states');
SELECT set_eq('SELECT * FROM idem_transitions', $$VALUES
	('order', NULL, 'created', true, true), ('order', 'created', 'paid', true, true),
	('order', 'paid', 'completed', true, true), ('order', 'created', 'cancelled', true, true)
$$, 'the machine that is shipped');
SELECT set_eq($$SELECT store, generation FROM idem_stores$$,
	$$SELECT s, g FROM unnest('{keys,inbox,outbox,positions,watermarks}'::text[]) AS s, generate_series(0, 2) AS g UNION ALL VALUES ('pinned', NULL::int), ('parked', NULL)$$, 'a row for each generation, and for idem_pinned and idem_parked');
SELECT is_empty($$
	SELECT attrelid::regclass, attname FROM pg_attribute
	WHERE attrelid IN ('idem_keys'::regclass, 'idem_keys_0'::regclass, 'idem_pinned'::regclass)
	  AND attname IN ('scope', 'key') AND attcollation <> '"C"'::regcollation
$$, 'scopes and keys compare as bytes');

SELECT * FROM finish();
ROLLBACK;
