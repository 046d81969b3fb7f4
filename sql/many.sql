--
-- Many keys in one call: idem_execute_many, idem_claim_many, idem_complete_many.
-- In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_many;
CREATE DATABASE regress_idem_many;
\c regress_idem_many
CREATE EXTENSION idem;
CREATE TABLE orders (item text UNIQUE, pence int CHECK (pence > 0));
-- every call of it, also those that are undone
CREATE SEQUENCE runs;
CREATE FUNCTION place(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('runs');
	INSERT INTO orders VALUES (request ->> 'item', (request ->> 'pence')::int);
	IF request ? 'then' THEN
		EXECUTE request ->> 'then';
	END IF;
	RETURN jsonb_build_object('placed', request ->> 'item', 'orders', (SELECT count(*) FROM orders));
END $$;
CREATE FUNCTION request(item text, pence int, "then" text = NULL) RETURNS jsonb LANGUAGE sql AS $$SELECT jsonb_strip_nulls(jsonb_build_object('item', item, 'pence', pence, 'then', "then"))$$;
-- how many times handlers have run since
CREATE FUNCTION ran() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint := nextval('runs') - 1;
BEGIN
	PERFORM setval('runs', 1, false);
	RETURN n;
END $$;
\pset null '(null)'

-- each runs once, in the order given, and sees what those before it did; then they are replayed, in any order
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{z,y,x}', ARRAY[request('z', 1), request('y', 2), request('x', 3)]);
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{x,z}', ARRAY[request('x', 3), request('z', 1)]);
SELECT ran();
SELECT key, response FROM idem_keys ORDER BY key;
-- of one: as idem_execute; of none: no rows
SELECT status, response FROM idem_execute('place(jsonb)', 'x', request('x', 3));
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{w}', ARRAY[request('w', 1)]);
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{}', '{}');
SELECT key, status, response FROM idem_claim_many('{}');
SELECT key, status, response FROM idem_claim_many('{}', '{}');
SELECT idem_complete_many('{}', '{}');
-- a scope for all
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{x,z}', ARRAY[request('scoped x', 3), request('scoped z', 1)], 'shop');
SELECT key FROM idem_keys WHERE scope = 'shop' ORDER BY key;
-- bounds of the arrays do not matter
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '[7:8]={z,v}', '[0:1]={"{\"item\": \"z\", \"pence\": 1}", "{\"item\": \"v\", \"pence\": 1}"}');
SELECT ran();

-- all of it in one call: done before, another request, given twice, given twice with another request, cancelled
SELECT status FROM idem_cancel('cancelled');
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{a,x,b,b,y,cancelled,b,a,y,cancelled}', ARRAY[
	request('a', 1), request('x', 3), request('b', 1), request('b', 1), request('y', 99),
	request('c', 1), request('b', 2), request('a', 1), request('y', 2), request('d', 1)]);
SELECT ran();
SELECT item FROM orders WHERE item IN ('a', 'b', 'c', 'd') ORDER BY item;

-- one that fails fails only itself; those before it run twice, those after it once
SELECT key, status, response - 'context' AS response FROM idem_execute_many('place(jsonb)', '{f1,f2,f3,f4,f5}', ARRAY[
	request('f1', 1), request('f2', 1), request('f3', 0), request('f4', 1), request('f5', 1)]);
SELECT ran();
SELECT item FROM orders WHERE item ~ '^f' ORDER BY item;
SELECT key FROM idem_keys WHERE key ~ '^f' ORDER BY key;
SELECT count(*) FROM pg_locks WHERE objsubid = 7341 AND locktype = 'advisory';
-- what it says: as the error does
\a
SELECT key, jsonb_pretty(response) FROM idem_execute_many('place(jsonb)', '{f3,raised}', ARRAY[request('f1', 1), request('raised', 1,
	$$DO 'BEGIN RAISE EXCEPTION SQLSTATE ''AB123'' USING MESSAGE = ''no'', DETAIL = ''never'', HINT = ''ask again''; END'$$)]);
\a
-- a retry runs
SELECT status, response FROM idem_execute_many('place(jsonb)', '{f3}', ARRAY[request('f3', 1)]);
-- the first, the last, all, all but one; each of those that are given twice is answered as the first
SELECT key, status, response ->> 'sqlstate' AS sqlstate FROM idem_execute_many('place(jsonb)', '{g1,g2,g3}', ARRAY[request('g1', 0), request('g2', 1), request('g3', 1)]);
SELECT key, status, response ->> 'sqlstate' AS sqlstate FROM idem_execute_many('place(jsonb)', '{g4,g5,g6}', ARRAY[request('g4', 1), request('g5', 1), request('g6', 0)]);
SELECT key, status, response ->> 'sqlstate' AS sqlstate FROM idem_execute_many('place(jsonb)', '{g7,g8,g7,g7}', ARRAY[request('g7', 0), request('g8', 0), request('g7', 0), request('g7', 1)]);
SELECT key, status, response ->> 'sqlstate' AS sqlstate FROM idem_execute_many('place(jsonb)', '{g7,g8,g9}', ARRAY[request('g7', 0), request('g8', 1), request('g9', 0)]);
SELECT item FROM orders WHERE item ~ '^g' ORDER BY item;
SELECT ran();
-- two that cannot both: the first one wins; a handler that returns nothing fails
SELECT key, status, response ->> 'message' AS message FROM idem_execute_many('place(jsonb)', '{h1,h2}', ARRAY[request('h', 1), request('h', 1)]);
CREATE FUNCTION returns_null(jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO orders VALUES ('null', 1); SELECT NULL::jsonb$$;
SELECT key, status, response - 'context' AS response FROM idem_execute_many('returns_null(jsonb)', '{nothing}', '{1}');
SELECT count(*) FROM orders WHERE item = 'null';
-- what succeeded before and fails in its second run: it alone then
CREATE SEQUENCE second;
SELECT ran();
SELECT key, status, response ->> 'message' AS message, cacheable_until > now() AS cacheable FROM idem_execute_many('place(jsonb)', '{i1,i2,i3,i4,i5}', ARRAY[
	request('i1', 1), request('i2', 1, $$DO 'BEGIN IF nextval(''second'') = 2 THEN RAISE ''the second time''; END IF; END'$$),
	request('i3', 1), request('i4', 0), request('i5', 1)]);
SELECT ran();
SELECT item FROM orders WHERE item ~ '^i' ORDER BY item;
SELECT key FROM idem_keys WHERE key ~ '^i' ORDER BY key;

-- what is not of one key alone aborts the call: a serialization failure, a deadlock, no memory, cancelled, out of disk, an internal error
CREATE FUNCTION raising(state text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT key || ' ' || status FROM idem_execute_many('place(jsonb)', '{j1,j2}', ARRAY[
		request('j1', 1), request('j2', 1, format($x$DO 'BEGIN RAISE EXCEPTION SQLSTATE ''%s''; END'$x$, state))])
$$;
\set SHOW_CONTEXT never
SELECT raising('40001') :fails
SELECT raising('40P01') :fails
SELECT raising('53200') :fails
SELECT raising('57014') :fails
SELECT raising('58030') :fails
SELECT raising('XX000') :fails
\set SHOW_CONTEXT errors
SELECT raising('55P03');
SELECT raising('P0001');
SELECT key FROM idem_keys WHERE key ~ '^j' ORDER BY key;
SET statement_timeout = 200;
SELECT idem_execute_many('place(jsonb)', '{j3,j4}', ARRAY[request('j3', 1), request('j4', 1, 'SELECT pg_sleep(60)')]) :fails
RESET statement_timeout;
-- so does what fails at COMMIT
CREATE TABLE parts (item text REFERENCES orders (item) DEFERRABLE INITIALLY DEFERRED);
SELECT idem_execute_many('place(jsonb)', '{j3,j4}', ARRAY[request('j3', 1), request('j4', 1, 'INSERT INTO parts VALUES (''nothing'')')]) :fails
SELECT idem_execute_many('place(jsonb)', '{j3,j4}', ARRAY[request('j3', 1), request('j4', 1, 'SELECT idem_claim(''left'')')]) :fails
SELECT item FROM orders WHERE item ~ '^j' ORDER BY item;

-- in a transaction: savepoints undo all of it, keys that it holds are replayed, released ones run
BEGIN;
SELECT status FROM idem_claim('released');
SELECT idem_release('released');
SAVEPOINT s;
SELECT key, status FROM idem_execute_many('place(jsonb)', '{released,k1,k2}', ARRAY[request('released', 1), request('k1', 0), request('k2', 1)]);
ROLLBACK TO s;
SELECT key, status FROM idem_execute_many('place(jsonb)', '{released,k1,k2}', ARRAY[request('released', 0), request('k1', 1), request('k2', 1)]);
SELECT key, status FROM idem_execute_many('place(jsonb)', '{released,k1,k2}', ARRAY[request('released', 1), request('k1', 1), request('k2', 1)]);
COMMIT;
SELECT item FROM orders WHERE item ~ '^k|released' ORDER BY item;
SELECT key FROM idem_keys WHERE key ~ '^k|released' ORDER BY key;
BEGIN;
SELECT status FROM idem_claim('open');
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{open}', '{1}') :fails
ROLLBACK;
-- a setting of one that fails goes with it, and so does one that only ran before it, until it runs again
BEGIN;
SELECT key, status FROM idem_execute_many('place(jsonb)', '{l1,l2}', ARRAY[
	request('l1', 1, 'SELECT set_config(''app.test'', ''l1'', true)'), request('l2', 1, $$SELECT set_config('app.test', 'l2', true); SELECT 1/0$$)]);
SELECT current_setting('app.test', true);
COMMIT;
-- a function in SQL, whose plans are kept between the keys, also fails and goes on
CREATE FUNCTION in_sql(jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO orders VALUES ($1 ->> 'item', ($1 ->> 'pence')::int) RETURNING to_jsonb(item)$$;
SELECT key, status, response ->> 'sqlstate' AS sqlstate FROM idem_execute_many('in_sql(jsonb)', '{m1,m2,m3,m4}', ARRAY[request('m1', 1), request('m2', 0), request('m3', 1), request('m4', 0)]);

-- one that looks by the snapshot that it is called with sees what those before it did, but not what it does itself
CREATE FUNCTION is_stable(request jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
	PERFORM in_sql(request);
	RETURN to_jsonb((SELECT count(*) FROM orders WHERE item ~ '^s\d'));
END $$;
SELECT key, status, response FROM idem_execute_many('is_stable(jsonb)', '{s1,s2,s3}', ARRAY[request('s1', 1), request('s2', 1), request('s3', 1)]);
-- large responses that come from a table
CREATE TABLE large AS SELECT jsonb_agg(md5(i::text)) AS value FROM generate_series(1, 500) AS i;
CREATE FUNCTION give_large(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT value FROM large$$;
SELECT m.key, m.status, m.response = l.value AS same FROM idem_execute_many('give_large(jsonb)', '{large 1,large 2,large 1}', '{1,2,1}') AS m, large AS l;
SELECT m.key, m.status, m.response = l.value AS same FROM idem_execute_many('give_large(jsonb)', '{large 1,large 2}', '{1,2}') AS m, large AS l;

-- also if it is gone before the answer is given
CREATE FUNCTION take_large(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF request = '"take"' THEN
		RETURN (SELECT value FROM large);
	END IF;
	TRUNCATE large;
	RETURN request;
END $$;
SELECT key, status, jsonb_array_length(response) AS length FROM idem_execute_many('take_large(jsonb)', '{take,drop}', '{"\"take\"","[]"}');

-- 500 at a time, some of them failing; not one more
SELECT ran() IS NOT NULL;
CREATE TEMP TABLE answers AS SELECT key, status, response FROM idem_execute_many('place(jsonb)',
	ARRAY(SELECT 'n' || i FROM generate_series(1, 500) AS i), ARRAY(SELECT request('n' || i, (i % 100)) FROM generate_series(1, 500) AS i));
SELECT status, count(*), min(response ->> 'sqlstate') AS sqlstate FROM answers GROUP BY status ORDER BY status;
SELECT ran() <= 1000 AS each_at_most_twice;
SELECT count(*) FROM orders WHERE item ~ '^n\d';
SELECT count(*) FROM idem_keys WHERE key ~ '^n\d';
SELECT status, count(*) FROM idem_execute_many('place(jsonb)',
	ARRAY(SELECT 'n' || i FROM generate_series(500, 1, -1) AS i), ARRAY(SELECT request('n' || i, (i % 100)) FROM generate_series(500, 1, -1) AS i)) GROUP BY status ORDER BY status;
SELECT count(*) FROM idem_execute_many('place(jsonb)', ARRAY(SELECT 'n' || i FROM generate_series(1, 501) AS i), array_fill('1'::jsonb, '{501}')) :fails
SELECT idem_claim_many(ARRAY(SELECT 'n' || i FROM generate_series(1, 501) AS i)) :fails
SELECT idem_claim_many('{n1}', array_fill('1'::jsonb, '{501}')) :fails
SELECT idem_complete_many(ARRAY(SELECT 'n' || i FROM generate_series(1, 501) AS i), array_fill('1'::jsonb, '{501}')) :fails

-- claims and completions for work in statements of one's own
BEGIN;
CREATE TEMP TABLE work ON COMMIT DROP AS SELECT key, status, response FROM idem_claim_many('{o1,x,o2,o1,x,o3,cancelled,o2}', ARRAY[
	request('o1', 1), request('x', 3), request('o2', 2), request('o1', 1), request('x', 4), request('o3', 3), '1', '2']);
SELECT * FROM work;
INSERT INTO orders SELECT key, 7 FROM work WHERE status = 'claimed';
SELECT idem_release('o3');
DELETE FROM orders WHERE item = 'o3';
SELECT idem_complete_many(array_agg(key), array_agg(to_jsonb(upper(key)))) FROM work WHERE status = 'claimed' AND key <> 'o3';
COMMIT;
SELECT key, status, response FROM idem_claim_many('{o2,o1}', ARRAY[request('o2', 2), request('o2', 2)]);
-- without requests nothing is compared
SELECT key, status, response FROM idem_claim_many('{o2,o1}');
SELECT key, status, response FROM idem_claim_many('{o2,o1}', NULL);
BEGIN;
SELECT key, status, response FROM idem_claim_many('{p,p}', scope => 'shop');
SELECT idem_complete_many('{p}', '{1}', 'shop');
SELECT key, status, response FROM idem_claim_many('{p,p}', scope => 'shop');
COMMIT;
-- left open, it stops the commit; and so does a statement alone
SELECT key, status, response FROM idem_claim_many('{q1}') :fails
-- completed all or none: not claimed, completed before, given twice
BEGIN;
SELECT status FROM idem_claim_many('{q1,q2}');
SAVEPOINT s;
SELECT idem_complete_many('{q1,q2,q3}', '{1,2,3}') :fails
ROLLBACK TO s;
SELECT idem_complete_many('{q1,q2,q1}', '{1,2,3}') :fails
ROLLBACK TO s;
SELECT idem_complete_many('{q1}', '{1}');
SELECT idem_complete_many('{q1,q2}', '{1,2}') :fails
ROLLBACK TO s;
SELECT idem_complete_many('{q1,q2}', '{1,2}');
SELECT key, status FROM idem_claim_many('{q1,q2,q3}');
SELECT idem_complete('q3', '3');
COMMIT;
SELECT key, response FROM idem_keys WHERE key ~ '^q' ORDER BY key;

-- a scope for each: the same key in two scopes is two keys
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{c,c,c,c,z,c}', ARRAY[
	request('a''s', 1), request('b''s', 1), request('a''s', 1), request('b''s', 2), request('z', 1), request('c''s', 1)], '{a,b,a,b,"",c}'::text[]);
SELECT key, status, response FROM idem_execute_many('place(jsonb)', '{c,c,c}', ARRAY[request('c''s', 1), request('b''s', 1), request('a''s', 1)], scopes => '{c,b,b}');
SELECT scope, response ->> 'placed' AS placed FROM idem_keys WHERE key = 'c' ORDER BY scope;
SELECT key, status, response ->> 'sqlstate' AS sqlstate FROM idem_execute_many('place(jsonb)', '{d,d,d}', ARRAY[request('d1', 1), request('d2', 0), request('d3', 1)], scopes => '{a,b,a b}');
SELECT scope, key FROM idem_keys WHERE key = 'd' ORDER BY scope;
SELECT count(*) FROM idem_execute_many('place(jsonb)', '{}', '{}', scopes => '{}');
-- a literal is one for all
SELECT status FROM idem_execute_many('place(jsonb)', '{t1,t2}', ARRAY[request('t1', 1), request('t2', 1)], '{a,b}');
SELECT scope, key FROM idem_keys WHERE key ~ '^t\d' ORDER BY key;

-- what comes along with each, and is not compared: the handler of that key gets it, also when it runs again, and nobody else
CREATE FUNCTION tell(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF request = '0' THEN
		RAISE 'zero';
	END IF;
	RETURN (SELECT jsonb_build_object('told', idem_context(), 'within', (SELECT response FROM idem_execute('tell_within(jsonb)', 'within ' || request::text, '1')), 'after', idem_context()));
END $$;
CREATE FUNCTION tell_within(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT coalesce(idem_context(), '"nothing"')$$;
SELECT key, status, response - 'context' AS response FROM idem_execute_many('tell(jsonb)', '{v1,v2,v3,v4}', '{1,2,0,4}', '{"","","",""}', '{"{\"trace\": 1}",NULL,3,"[4]"}');
SELECT key, status, response FROM idem_execute_many('tell(jsonb)', '{v1,v2}', '{1,2}', '{"",""}'::text[], '{"\"another\"",2}');
SELECT key, status, response FROM idem_execute_many('tell(jsonb)', '{v5}', '{5}', scopes => '{""}', contexts => NULL);
SELECT idem_context() IS NULL AS outside;

-- until when each may be cached: not while it can be cancelled
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql AS '';
CREATE TEMP TABLE cached AS SELECT * FROM idem_execute_many('place(jsonb)', '{r1,r2,r3,r1,r2,x,y,cancelled}', ARRAY[
	request('r1', 1), request('r2', 1, $$SELECT idem_compensate_with('r2', 'undo(jsonb)', '1')$$), request('r3', 0), request('r1', 1),
	request('r2', 1, $$SELECT idem_compensate_with('r2', 'undo(jsonb)', '1')$$), request('x', 3), request('y', 99), '1']);
SELECT c.key, c.status, cacheable_until = expires_at AS as_long FROM cached AS c LEFT JOIN idem_keys AS k ON k.key = c.key AND scope = '' ORDER BY c.ctid;
SELECT m.key, m.status, m.cacheable_until = c.cacheable_until AS as_long FROM idem_claim_many('{r1,r2,x,cancelled}') AS m LEFT JOIN cached AS c ON c.key = m.key AND c.status IN ('executed', 'completed') AND c.key <> 'r2' GROUP BY 1, 2, 3 ORDER BY 1;

-- bad input, and nothing changed
SELECT idem_execute_many(NULL, '{bad}', '{1}') :fails
SELECT idem_execute_many('request(text, int, text)', '{bad}', '{1}') :fails
SELECT idem_execute_many('place(jsonb)', NULL, '{1}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', NULL) :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1,2}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,NULL}', '{1,2}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,""}', '{1,2}') :fails
SELECT idem_execute_many('place(jsonb)', ARRAY['bad', repeat('x', 256)], '{1,2}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,worse}', '{1,NULL}') :fails
SELECT idem_execute_many('place(jsonb)', '{{bad},{worse}}', '{1,2}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,worse}', '{{1},{2}}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', NULL) :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', '{a}', '{1,2}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', '{a}', '{{1}}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', repeat('x', 256)) :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', scopes => NULL) :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', scopes => '{}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,worse}', '{1,2}', scopes => '{a,b,c}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,worse}', '{1,2}', scopes => '{{a},{b}}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,worse}', '{1,2}', scopes => '{a,NULL}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad,worse}', '{1,2}', ARRAY['a', repeat('x', 256)]) :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', array_fill('a'::text, '{501}')) :fails
SELECT idem_execute_many('place(jsonb)', '{bad,""}', '{1,2}', scopes => '{a,b}') :fails
SELECT idem_execute_many('place(jsonb)', '{bad}', '{NULL}', scopes => '{a}') :fails
SELECT idem_execute_many('request(text, int, text)', '{bad}', '{1}', scopes => '{a}') :fails
SELECT idem_claim_many(NULL) :fails
SELECT idem_claim_many('{bad,NULL}') :fails
SELECT idem_claim_many('{bad,worse}', '{1}') :fails
SELECT idem_claim_many('{bad,worse}', '{1,NULL}') :fails
SELECT idem_claim_many('{}', scope => NULL) :fails
SELECT idem_complete_many(NULL, '{1}') :fails
SELECT idem_complete_many('{bad}', NULL) :fails
SELECT idem_complete_many('{bad}', '{1,2}') :fails
SELECT idem_complete_many('{bad}', '{NULL}') :fails
SELECT idem_complete_many('{bad}', '{1}', NULL) :fails
BEGIN READ ONLY;
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}') :fails
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_execute_many('place(jsonb)', '{bad}', '{1}', scopes => '{a}') :fails
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_claim_many('{bad}') :fails
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_complete_many('{bad}', '{1}') :fails
ROLLBACK;
SELECT count(*) FROM orders WHERE item = 'bad';
SELECT status FROM idem_status('bad');
SELECT count(*) FROM idem_keys WHERE key IN ('bad', 'worse');

SELECT * FROM idem_verify();
\c :home
DROP DATABASE regress_idem_many;
