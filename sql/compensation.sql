--
-- idem_compensate_with, idem_confirm, and what a key with a compensation is
-- to all the others.
-- In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_compensation;
CREATE DATABASE regress_idem_compensation;
\c regress_idem_compensation
CREATE EXTENSION idem;
CREATE TABLE compensated (what text);
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO compensated VALUES ($1 #>> '{}')$$;
CREATE FUNCTION undo_answering(jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO compensated VALUES ($1 #>> '{}'); SELECT $1$$;
-- claims, registers, completes
CREATE PROCEDURE place(key text, deadline interval = NULL, ttl interval = NULL) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key, ttl => ttl);
	PERFORM idem_compensate_with(key, 'undo(jsonb)', to_jsonb(key), deadline => deadline);
	PERFORM idem_complete(key, '"done"');
END $$;
-- what is stored
CREATE VIEW pg_temp.stored AS
	SELECT key, fate, deadline - completed_at BETWEEN '59 min' AND '1 h' AS deadline,
	       CASE WHEN isfinite(expires_at) THEN date_trunc('hour', expires_at - now() + interval '1 min')::text ELSE 'never' END AS expires_in,
	       replace(handlers::text, to_json(current_user)::text, '"me"')::jsonb AS handlers, answer - 'cancelled_at' AS answer
	FROM idem_pinned ORDER BY key;

BEGIN;
SELECT status, cacheable_until FROM idem_claim('compensation', '{"a": 1}');
SELECT idem_compensate_with('compensation', 'undo(jsonb)', '"first"');
SELECT idem_compensate_with('compensation', 'undo_answering(jsonb)', '{"second": [1, null]}', deadline => '1 day');
SELECT idem_compensate_with('compensation', 'undo(jsonb)', NULL, deadline => '1 hour');
SELECT idem_compensate_with('compensation', 'undo(jsonb)', '4', deadline => '2 hours');
SELECT count(*) AS nothing_yet FROM idem_pinned;
SELECT idem_complete('compensation', '{"b": 2}');
-- it can be cancelled, so do not cache it
SELECT status, response, cacheable_until FROM idem_claim('compensation');
COMMIT;
SELECT * FROM pg_temp.stored \gx
SELECT status, response, cacheable_until FROM idem_claim('compensation', '{"a": 1}');
SELECT status FROM idem_claim('compensation', '{"a": 2}');
SELECT scope, key, handlers -> 0 ->> 'handler' AS first, jsonb_array_length(handlers), deadline > now() AS deadline, state FROM idem_compensations;
SELECT key, status, response, expires_at FROM idem_keys;
SELECT status, response, expires_at FROM idem_status('compensation');
SELECT * FROM idem_verify();

-- without a deadline it expires as any other; confirmed, it stays for 30 days or its ttl
CALL place('no deadline');
CALL place('no deadline, long', ttl => '100 days');
CALL place('deadline, long', '1 h', '100 days');
CALL place('deadline, short', '1 h', '1 ms');
SELECT key, deadline, expires_in FROM pg_temp.stored;
SELECT pg_sleep(0.01);
CALL idem_maintain();
-- never expires before it is settled
SELECT status, response FROM idem_claim('deadline, short');
SELECT idem_confirm(key) FROM unnest('{no deadline,"no deadline, long","deadline, long","deadline, short"}'::text[]) AS key;
SELECT key, fate, expires_in FROM pg_temp.stored;
SELECT status, response, cacheable_until > now() + interval '29 days' AS cacheable FROM idem_claim('deadline, short');
SELECT key, state FROM idem_compensations ORDER BY key;
CALL place('expires', ttl => '1 ms');
SELECT pg_sleep(0.01);
SELECT status FROM idem_status('expires');
SELECT idem_confirm('expires') :fails

-- released, rolled back: forgotten
BEGIN;
SELECT status FROM idem_claim('dropped');
SELECT idem_compensate_with('dropped', 'undo(jsonb)', '1');
SELECT idem_release('dropped');
SELECT status FROM idem_claim('dropped');
SELECT idem_complete('dropped', '1');
COMMIT;
SELECT count(*) FROM idem_pinned WHERE key = 'dropped';
BEGIN;
SELECT status FROM idem_claim('savepoint');
SELECT idem_compensate_with('savepoint', 'undo(jsonb)', '"kept"');
SAVEPOINT s;
SELECT idem_compensate_with('savepoint', 'undo(jsonb)', '"dropped"', deadline => '1 hour');
ROLLBACK TO s;
SELECT idem_compensate_with('savepoint', 'undo(jsonb)', '"kept too"');
RELEASE s;
SAVEPOINT s;
SELECT idem_complete('savepoint', '0');
ROLLBACK TO s;
SELECT idem_complete('savepoint', '1');
COMMIT;
SELECT key, deadline, jsonb_path_query_array(handlers, '$[*].args') FROM pg_temp.stored WHERE key = 'savepoint';

-- prepared
BEGIN;
SELECT status FROM idem_claim('prepared statement');
PREPARE compensate_with AS SELECT idem_compensate_with($1, $2, $3);
EXECUTE compensate_with ('prepared statement', 'undo(jsonb)', '1');
SELECT idem_complete('prepared statement', '1');
COMMIT;

-- in one statement
SELECT idem_confirm(key) FROM (SELECT 'one statement' AS key, idem_claim('one statement') OFFSET 0) AS c,
	LATERAL (SELECT idem_compensate_with(key, 'undo(jsonb)', '1') OFFSET 0) AS w,
	LATERAL (SELECT idem_complete(key, '1') OFFSET 0) AS d;
SELECT key, fate FROM pg_temp.stored WHERE key = 'one statement';

-- confirm: what it does and refuses
SELECT idem_confirm('compensation');
SELECT idem_confirm('compensation');
BEGIN;
SELECT idem_confirm('savepoint');
SAVEPOINT s;
SELECT idem_confirm('savepoint');
ROLLBACK;
SELECT fate FROM pg_temp.stored WHERE key = 'savepoint';
SELECT status FROM idem_claim('ordinary') \g /dev/null
BEGIN;
SELECT status FROM idem_claim('ordinary');
SELECT idem_confirm('ordinary') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('ordinary');
SELECT idem_complete('ordinary', '1');
SELECT idem_confirm('ordinary');
COMMIT;
SELECT idem_confirm('ordinary');
SELECT idem_confirm('no such key') :fails
SELECT idem_confirm('compensation', 'another scope') :fails
SELECT idem_confirm('') :fails
SELECT idem_confirm('k', NULL) :fails
SELECT status FROM idem_cancel('cancelled');
SELECT idem_confirm('cancelled') :fails
BEGIN READ ONLY; SELECT idem_confirm('compensation') :fails
ROLLBACK;

-- evict: not what can still be cancelled
SELECT idem_evict('savepoint') :fails
SELECT idem_evict('compensation'), idem_evict('cancelled');
SELECT status FROM idem_status('compensation') UNION ALL SELECT status FROM idem_status('cancelled');

-- at every isolation level
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL place('serializable', '1 h');
SELECT idem_confirm('serializable');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM idem_cancel('savepoint');
SELECT status FROM idem_claim('savepoint');
COMMIT;

-- bad input changes nothing
CREATE FUNCTION error_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', state, regexp_replace(message, '\d+\.\d+\.\d+', 'VERSION'), nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE FUNCTION takes_json(json) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION takes_two(jsonb, text = NULL) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION returns_text(jsonb) RETURNS text LANGUAGE sql AS $$SELECT ''$$;
CREATE FUNCTION returns_set(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$SELECT $1$$;
CREATE PROCEDURE undo_procedure(jsonb) LANGUAGE sql AS '';
CREATE AGGREGATE undo_aggregate(jsonb) (sfunc = jsonb_concat, stype = jsonb);
CREATE FUNCTION pg_temp.temporary(jsonb) RETURNS void LANGUAGE sql AS '';
\pset format unaligned
\t on
BEGIN;
SELECT status FROM idem_claim('bad');
SELECT error_of($$SELECT idem_compensate_with('bad', 'takes_json(json)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'takes_two(jsonb, text)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'returns_text(jsonb)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'returns_set(jsonb)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'undo_procedure(jsonb)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'undo_aggregate(jsonb)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'pg_temp.temporary(jsonb)', '1')$$) ~ 'It is temporary';
SELECT error_of($$SELECT idem_compensate_with('bad', 'no_such_function(jsonb)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 1::regprocedure, '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', '-', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', NULL, '1')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'undo(jsonb)', '1', deadline => '0')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'undo(jsonb)', '1', deadline => '-1 s')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'undo(jsonb)', '1', deadline => '11 years')$$);
SELECT error_of($$SELECT idem_compensate_with('bad', 'undo(jsonb)', '1', 'another scope')$$);
SELECT error_of($$SELECT idem_compensate_with(NULL, 'undo(jsonb)', '1')$$);
SELECT error_of($$SELECT idem_compensate_with('not claimed', 'undo(jsonb)', '1')$$);
SELECT idem_complete('bad', '1');
SELECT error_of($$SELECT idem_compensate_with('bad', 'undo(jsonb)', '1')$$);
COMMIT;
\t off
\pset format aligned
SELECT count(*) FROM idem_pinned WHERE key = 'bad';
SELECT count(*) AS undone FROM compensated;
SELECT * FROM compensated;

-- idem_verify() finds what is wrong
BEGIN;
CALL place('overdue', '1 ms');
CALL place('expiring', '1 h');
UPDATE idem_pinned SET deadline = now() - interval '2 hours' WHERE key = 'overdue';
UPDATE idem_pinned SET expires_at = now() + interval '1 hour' WHERE key = 'expiring';
INSERT INTO idem_pinned SELECT digest, now(), now(), 'infinity', 2, scope, key, NULL, 'null', 'tombstone', NULL, NULL, NULL, '{}' FROM idem_keys WHERE key = 'ordinary';
INSERT INTO idem_pinned SELECT idem_digest(k), now(), now(), 'infinity', NULL, '', k, NULL, '1', fate, NULL, NULL, handlers, answer
FROM (VALUES ('no handlers', 'held', NULL::jsonb, NULL::jsonb), ('empty', 'confirmed', '[]', NULL), ('no array', 'held', '{}', NULL), ('no answer', 'compensated', '[1]', NULL),
             ('too much', 'tombstone', '[1]', '{}'), ('an answer', NULL, NULL, '{}'), ('odd', 'odd', '[1]', '{}')) AS v (k, fate, handlers, answer);
SELECT invariant, object FROM idem_verify() ORDER BY invariant COLLATE "C", object COLLATE "C";
SELECT state FROM idem_compensations WHERE key = 'overdue';
SELECT status FROM idem_claim('odd') :fails
ROLLBACK;
SELECT * FROM idem_verify();


\c :home
DROP DATABASE regress_idem_compensation;
