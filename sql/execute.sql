--
-- idem_execute: claim, work and completion in one statement.
-- In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_execute;
DROP ROLE IF EXISTS regress_idem_owner, regress_idem_caller;
CREATE DATABASE regress_idem_execute;
\c regress_idem_execute
CREATE EXTENSION idem;
CREATE TABLE orders (n int GENERATED ALWAYS AS IDENTITY, item text UNIQUE, pence int CHECK (pence > 0), by text DEFAULT current_user);
CREATE FUNCTION place(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	n int;
BEGIN
	INSERT INTO orders (item, pence) VALUES (request ->> 'item', (request ->> 'pence')::int) RETURNING orders.n INTO n;
	RETURN jsonb_build_object('order', n, 'total', 10.50, 'note', null);
END $$;
\pset null '(null)'

-- executed, and completed for ever after, byte for byte; a statement alone is enough
SELECT status, response FROM idem_execute('place(jsonb)', 'k', '{"item": "pen", "pence": 150}');
SELECT status, response FROM idem_execute('place(jsonb)', 'k', '{"pence": 150.0, "item": "pen"}');
SELECT (idem_execute('place(jsonb)', 'k', '{"item": "pen", "pence": 150}')).status;
SELECT status, response, attempt FROM idem_claim('k', '{"item": "pen", "pence": 150}');
SELECT item, pence FROM orders;
-- another request, another scope
SELECT status, response FROM idem_execute('place(jsonb)', 'k', '{"item": "pen", "pence": 151}');
SELECT status, response FROM idem_execute('place(jsonb)', 'k', '{"item": "ink", "pence": 151}', 'shop');
SELECT status, response FROM idem_execute('place(jsonb)', 'k', '{"item": "ink", "pence": 151}', 'shop');
-- what idem_claim and idem_complete did, it replays, and the other way round
BEGIN;
SELECT status FROM idem_claim('by hand', '{"item": "cap", "pence": 1}');
SELECT idem_complete('by hand', '"by hand"');
SELECT status, response FROM idem_execute('place(jsonb)', 'by hand', '{"item": "cap", "pence": 1}');
COMMIT;
SELECT status, response FROM idem_execute('place(jsonb)', 'by hand', '{"item": "cap", "pence": 1}');
-- in the transaction that claims the key, it is an error
BEGIN;
SELECT status FROM idem_claim('claimed');
SELECT status, response FROM idem_execute('place(jsonb)', 'claimed', '{"item": "cap", "pence": 1}') :fails
ROLLBACK;
-- released there, it is not
BEGIN;
SELECT status FROM idem_claim('released');
SELECT idem_release('released');
SELECT status FROM idem_execute('place(jsonb)', 'released', '{"item": "released", "pence": 1}');
COMMIT;

-- an error of the handler is the statement's; nothing is stored, and a retry runs
SELECT status, response FROM idem_execute('place(jsonb)', 'broken', '{"item": "cup", "pence": 0}') :fails
SELECT status, response FROM idem_execute('place(jsonb)', 'broken', '{"item": "cup", "pence": "x"}') :fails
SELECT status FROM idem_status('broken');
SELECT status, response FROM idem_execute('place(jsonb)', 'broken', '{"item": "cup", "pence": 5}');
-- also if it is caught, here or by a savepoint
BEGIN;
DO $$
BEGIN
	PERFORM idem_execute('place(jsonb)', 'caught', '{"item": "pen", "pence": 1}');
EXCEPTION WHEN unique_violation THEN NULL;
END $$;
SAVEPOINT s;
SELECT status FROM idem_execute('place(jsonb)', 'undone', '{"item": "undone", "pence": 1}');
ROLLBACK TO s;
SELECT status FROM idem_execute('place(jsonb)', 'caught', '{"item": "caught", "pence": 1}');
SELECT status FROM idem_execute('place(jsonb)', 'undone', '{"item": "undone", "pence": 1}');
COMMIT;
SELECT item, pence FROM orders ORDER BY item;
SELECT scope, key FROM idem_keys ORDER BY key, scope;

-- ttl, expiry, cancellation
SELECT status FROM idem_execute('place(jsonb)', 'short', '{"item": "short", "pence": 1}', ttl => '1 hour');
SELECT date_trunc('hour', expires_at - completed_at) FROM idem_keys WHERE key = 'short';
UPDATE idem_keys_0 SET expires_at = 'epoch' WHERE key = 'short';
SELECT status FROM idem_execute('place(jsonb)', 'short', '{"item": "again", "pence": 1}');
SELECT status FROM idem_cancel('never');
SELECT status, response FROM idem_execute('place(jsonb)', 'never', '{"item": "never", "pence": 1}');
-- a handler that can be undone
CREATE FUNCTION remove(jsonb) RETURNS void LANGUAGE sql AS $$DELETE FROM orders WHERE item = $1 ->> 'item'$$;
CREATE FUNCTION place_undoable(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_compensate_with(request ->> 'key', 'remove(jsonb)', request);
	RETURN place(request);
END $$;
SELECT status FROM idem_execute('place_undoable(jsonb)', 'undoable', '{"key": "undoable", "item": "undoable", "pence": 1}');
SELECT status FROM idem_cancel('undoable');
SELECT status, response FROM idem_execute('place_undoable(jsonb)', 'undoable', '{"key": "undoable", "item": "undoable", "pence": 1}');
SELECT count(*) FROM orders WHERE item ~ 'undoable|never';

-- until when it may be cached: as for idem_claim(), and not while it can be cancelled
SELECT status, cacheable_until AS until FROM idem_execute('place(jsonb)', 'cached', '{"item": "cached", "pence": 1}', ttl => '40 days') \gset
SELECT :'status' AS status, expires_at = :'until' AS as_long FROM idem_keys WHERE key = 'cached';
SELECT status, cacheable_until = :'until' AS as_long FROM idem_execute('place(jsonb)', 'cached', '{"item": "cached", "pence": 1}');
SELECT status, cacheable_until = :'until' AS as_long FROM idem_claim('cached');
SELECT status, cacheable_until FROM idem_execute('place(jsonb)', 'cached', '{"item": "cached", "pence": 2}');
SELECT status, cacheable_until FROM idem_execute('place_undoable(jsonb)', 'undoable', '{"key": "undoable", "item": "undoable", "pence": 1}');
SELECT status, cacheable_until FROM idem_execute('place_undoable(jsonb)', 'held', '{"key": "held", "item": "held", "pence": 1}');
SELECT status, cacheable_until FROM idem_execute('place_undoable(jsonb)', 'held', '{"key": "held", "item": "held", "pence": 1}');
SELECT idem_confirm('held');
SELECT status, cacheable_until > now() + '29 days' AS confirmed FROM idem_execute('place_undoable(jsonb)', 'held', '{"key": "held", "item": "held", "pence": 1}');

-- handlers of all kinds: an SQL function, a stable one, a strict one, one that answers with a large stored value, a temporary one
CREATE TABLE large AS SELECT jsonb_agg(md5(i::text)) AS value FROM generate_series(1, 500) AS i;
CREATE FUNCTION in_sql(jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO orders (item, pence) VALUES ($1 #>> '{}', 1) RETURNING to_jsonb(item)$$;
CREATE FUNCTION is_stable(jsonb) RETURNS jsonb LANGUAGE sql STABLE STRICT AS $$SELECT to_jsonb(count(*)) FROM orders$$;
CREATE FUNCTION give_large(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT value FROM large$$;
CREATE FUNCTION pg_temp.temporary(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT '"temporary"'::jsonb$$;
SELECT status, response FROM idem_execute('in_sql(jsonb)', 'sql', '"sql"');
SELECT status, response = to_jsonb((SELECT count(*) FROM orders)) AS same FROM idem_execute('is_stable(jsonb)', 'stable', '1');
SELECT e.status, e.response = l.value AS same FROM idem_execute('give_large(jsonb)', 'large', '1') AS e, large AS l;
SELECT e.status, e.response = l.value AS same FROM idem_execute('give_large(jsonb)', 'large', '1') AS e, large AS l;
SELECT status, response FROM idem_execute('pg_temp.temporary(jsonb)', 'temporary', '1');
SELECT status, response FROM idem_execute('in_sql(jsonb)', 'null', 'null') :fails
-- a row each: every call sees what those before it did
SELECT i, status, response FROM generate_series(1, 3) AS i, idem_execute('in_sql(jsonb)', 'row ' || i % 2, to_jsonb('row ' || i % 2));

-- the handler works on its own key
CREATE FUNCTION meddle(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE request ->> 'do';
	RETURN '1';
END $$;
SELECT idem_execute('meddle(jsonb)', 'own', '{"do": "SELECT idem_claim(''own'')"}') :fails
SELECT idem_execute('meddle(jsonb)', 'own', '{"do": "SELECT idem_execute(''place(jsonb)'', ''own'', ''1'')"}') :fails
SELECT idem_execute('meddle(jsonb)', 'own', '{"do": "SELECT idem_complete(''own'', ''2'')"}') :fails
SELECT idem_execute('meddle(jsonb)', 'own', '{"do": "SELECT idem_release(''own'')"}') :fails
-- on others it may; one that it leaves open stops the commit
SELECT status, response FROM idem_execute('meddle(jsonb)', 'outer', '{"do": "SELECT idem_execute(''in_sql(jsonb)'', ''inner'', ''\"inner\"'')"}');
SELECT status, response FROM idem_execute('in_sql(jsonb)', 'inner', '"inner"');
SELECT idem_execute('meddle(jsonb)', 'leaves', '{"do": "SELECT idem_claim(''left'')"}') :fails
SELECT key FROM idem_keys WHERE key ~ 'own|leaves|left';

-- a deferred constraint fails at COMMIT, with the key
CREATE TABLE parts (item text REFERENCES orders (item) DEFERRABLE INITIALLY DEFERRED);
SELECT idem_execute('meddle(jsonb)', 'deferred', '{"do": "INSERT INTO parts VALUES (''nothing'')"}') :fails
SELECT status FROM idem_status('deferred');

-- bad input, and nothing changed
CREATE FUNCTION two(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT $1$$;
CREATE FUNCTION of_json(json) RETURNS jsonb LANGUAGE sql AS $$SELECT $1::jsonb$$;
CREATE FUNCTION to_text(jsonb) RETURNS text LANGUAGE sql AS $$SELECT $1::text$$;
CREATE FUNCTION set_of(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$SELECT $1$$;
CREATE PROCEDURE procedure(jsonb) LANGUAGE sql AS $$SELECT 1$$;
CREATE FUNCTION returns_null(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN PERFORM place('{"item": "bad", "pence": 1}'); RETURN NULL; END $$;
SELECT idem_execute('two(jsonb, jsonb)', 'bad', '1') :fails
SELECT idem_execute('of_json(json)', 'bad', '1') :fails
SELECT idem_execute('to_text(jsonb)', 'bad', '1') :fails
SELECT idem_execute('set_of(jsonb)', 'bad', '1') :fails
SELECT idem_execute('procedure(jsonb)', 'bad', '1') :fails
SELECT idem_execute('remove(jsonb)', 'bad', '1') :fails
SELECT idem_execute('no_such(jsonb)', 'bad', '1') :fails
SELECT idem_execute(4294967295::oid::regprocedure, 'bad', '1') :fails
SELECT idem_execute(NULL, 'bad', '1') :fails
SELECT idem_execute('returns_null(jsonb)', 'bad', '1') :fails
SELECT idem_execute('place(jsonb)', 'bad', NULL) :fails
SELECT idem_execute('place(jsonb)', NULL, '1') :fails
SELECT idem_execute('place(jsonb)', '', '1') :fails
SELECT idem_execute('place(jsonb)', repeat('x', 256), '1') :fails
SELECT idem_execute('place(jsonb)', 'bad', '1', NULL) :fails
SELECT idem_execute('place(jsonb)', 'bad', '1', repeat('x', 256)) :fails
SELECT idem_execute('place(jsonb)', 'bad', '1', ttl => '0') :fails
SELECT idem_execute('place(jsonb)', 'bad', '1', ttl => '11 years') :fails
BEGIN READ ONLY;
SELECT idem_execute('place(jsonb)', 'bad', '1') :fails
ROLLBACK;
-- what is wrong with the handler is said for a completed key, too
SELECT idem_execute('to_text(jsonb)', 'k', '{"item": "pen", "pence": 150}') :fails
SELECT count(*) FROM orders WHERE item = 'bad';
SELECT status FROM idem_status('bad');

-- as its caller, and only what that one may execute
CREATE ROLE regress_idem_owner;
CREATE ROLE regress_idem_caller;
SELECT idem_grant('regress_idem_caller', 'app');
GRANT INSERT ON orders TO regress_idem_owner;
GRANT SELECT (n) ON orders TO regress_idem_owner;
CREATE FUNCTION place_as_owner(jsonb) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
	AS $$INSERT INTO orders (item, pence) VALUES ($1 #>> '{}', 1) RETURNING jsonb_build_object('by', current_user, 'path', current_setting('search_path'))$$;
ALTER FUNCTION place_as_owner OWNER TO regress_idem_owner;
REVOKE EXECUTE ON FUNCTION place_as_owner FROM PUBLIC;
SET ROLE regress_idem_caller;
SELECT idem_execute('place(jsonb)', 'as caller', '{"item": "as caller", "pence": 1}') :fails
SELECT idem_execute('place_as_owner(jsonb)', 'as owner', '"as owner"') :fails
RESET ROLE;
GRANT EXECUTE ON FUNCTION place_as_owner TO regress_idem_caller;
GRANT INSERT ON orders TO regress_idem_caller;
GRANT SELECT (n) ON orders TO regress_idem_caller;
SET ROLE regress_idem_caller;
SELECT status FROM idem_execute('place(jsonb)', 'as caller', '{"item": "as caller", "pence": 1}');
SELECT status, response FROM idem_execute('place_as_owner(jsonb)', 'as owner', '"as owner"');
SELECT current_user, current_setting('search_path') = '"$user", public' AS unchanged;
RESET ROLE;
SELECT item, by FROM orders WHERE item ~ '^as ' ORDER BY item;

-- it is counted like any call
SET track_functions = 'all';
SELECT status FROM idem_execute('in_sql(jsonb)', 'counted', '"counted"');
SELECT pg_stat_force_next_flush();
SELECT calls FROM pg_stat_user_functions WHERE funcname = 'in_sql';
RESET track_functions;

SELECT * FROM idem_verify();
\c :home
DROP DATABASE regress_idem_execute;
DROP ROLE regress_idem_owner, regress_idem_caller;
