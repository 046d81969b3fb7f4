--
-- Consumers: subscribe, fetch, ack, seek, unsubscribe. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_consumer;
CREATE DATABASE regress_idem_consumer;
\c regress_idem_consumer
CREATE EXTENSION idem;
CREATE TABLE done (consumer text, id bigint, at serial);
CREATE FUNCTION publish(topic text, n int) RETURNS void LANGUAGE sql AS $$
	SELECT idem_publish(topic, to_jsonb(i), 'k' || i % 2, 'created') FROM generate_series(1, n) AS i $$;
-- what a consumer does in a transaction
CREATE FUNCTION work(c text, n int = 100) RETURNS TABLE (batch bigint, ids bigint[]) LANGUAGE plpgsql AS $$
BEGIN
	SELECT max(f.batch), array_agg(f.id ORDER BY f.ordinality) INTO batch, ids
	FROM idem_fetch(c, n) WITH ORDINALITY AS f;
	IF batch IS NOT NULL THEN
		INSERT INTO done SELECT c, unnest(ids);
		PERFORM idem_ack(c, batch);
	END IF;
	RETURN NEXT;
END $$;

SELECT publish('t', 3);
SELECT idem_subscribe('now'), idem_subscribe('earliest', start => 'earliest'), idem_subscribe('u', '{u,v}', start => 'earliest');
SELECT publish('u', 2);
SELECT consumer, lane, depth, oldest_age > '0' AS oldest_age, held_by, parked, dead FROM idem_consumers ORDER BY 1;
SELECT 'now' AS c, * FROM work('now');
SELECT 'earliest' AS c, * FROM work('earliest', 2);
SELECT 'earliest' AS c, * FROM work('earliest', 2);
SELECT 'earliest' AS c, * FROM work('earliest', 2);
SELECT 'earliest' AS c, * FROM work('earliest', 2);
SELECT 'u' AS c, * FROM work('u');
SELECT consumer, depth, oldest_age FROM idem_consumers ORDER BY 1;
SELECT * FROM idem_verify();

-- what a message looks like
SELECT idem_publish('u', '{"a": 1}', 'k', 'paid', '{"h": 1}');
BEGIN;
SELECT batch, seq, id, topic, key, type, payload, headers, created_at <= now() AS created_at, attempt FROM idem_fetch('u');
SELECT consumer, held_by = pg_backend_pid() AS mine FROM idem_consumers WHERE held_by IS NOT NULL;
SELECT * FROM idem_delivered(6);
SELECT idem_ack('u', 3);
SELECT * FROM idem_delivered(6);
-- and the next batch in the same transaction
SELECT idem_publish('u', '2');
SELECT count(*) FROM idem_fetch('u');
COMMIT;
-- the consumer's own messages come after its commit
SELECT * FROM work('u');
SELECT * FROM idem_delivered(6);
SELECT * FROM idem_delivered(1);
SELECT * FROM idem_delivered(-1);

-- not acked: an error, or nothing has happened
SELECT idem_publish('u', '3');
SELECT id FROM idem_fetch('u') :fails
BEGIN; SELECT id FROM idem_fetch('u'); COMMIT :fails
BEGIN; SELECT id FROM idem_fetch('u'); ROLLBACK;
BEGIN; SELECT id FROM idem_fetch('u'); SELECT id FROM idem_fetch('u') :fails
ROLLBACK;
BEGIN; SELECT id FROM idem_fetch('u'); SELECT idem_seek('u', now()) :fails
ROLLBACK;
BEGIN; SELECT id FROM idem_fetch('u'); SELECT idem_unsubscribe('u') :fails
ROLLBACK;
-- an empty fetch leaves nothing to ack
SELECT id FROM idem_fetch('earliest', 100) LIMIT 0;
SELECT * FROM work('earliest');
SELECT * FROM idem_fetch('earliest');
-- savepoints undo a fetch, an ack, and both
BEGIN;
SAVEPOINT s; SELECT batch, id FROM idem_fetch('u'); ROLLBACK TO s;
SELECT batch, id FROM idem_fetch('u');
SAVEPOINT s; SELECT idem_ack('u', 5); ROLLBACK TO s;
COMMIT :fails
BEGIN;
SAVEPOINT s; SELECT batch, id FROM idem_fetch('u'); SELECT idem_ack('u', 5); ROLLBACK TO s;
SELECT idem_ack('u', 5) :fails
ROLLBACK;
BEGIN;
SAVEPOINT s; SELECT batch, id FROM idem_fetch('u'); RELEASE s;
SAVEPOINT s; SELECT idem_ack('u', 5); RELEASE s;
SELECT idem_ack('u', 5) :fails
ROLLBACK;
BEGIN; SELECT batch, id FROM idem_fetch('u'); SELECT idem_ack('u', 5); COMMIT;
SELECT idem_ack('u', 5) :fails

-- two consumers in one transaction; one statement that does it all
SELECT publish('u', 2);
BEGIN; SELECT 'u' AS c, * FROM work('u'); SELECT 'now' AS c, * FROM work('now'); COMMIT;
SELECT publish('u', 1);
WITH m AS MATERIALIZED (SELECT * FROM idem_fetch('u')), w AS (INSERT INTO done SELECT 'u', id FROM m)
SELECT id, idem_ack('u', batch) FROM m;

-- wait
SELECT publish('u', 1);
BEGIN; SELECT id, payload FROM idem_fetch('u', wait => '10 s'); SELECT idem_ack('u', 8); COMMIT;
SELECT * FROM idem_fetch('u', wait => '5 ms');
SET statement_timeout = '20 ms';
SELECT * FROM idem_fetch('u', wait => '1 min') :fails
RESET statement_timeout;
SELECT * FROM idem_fetch('u', wait => '1 s'), done :fails
INSERT INTO done SELECT 'u', id FROM idem_fetch('u', wait => '1 s') :fails
SELECT * FROM idem_fetch('u', wait => '61 s') :fails
SELECT * FROM idem_fetch('u', wait => '-1 s') :fails
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM idem_fetch('u', wait => '1 ms') :fails
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM work('now'); COMMIT;

-- seek goes back and forth
SELECT count(*) FROM done WHERE consumer = 'earliest';
SELECT idem_seek('earliest', '-infinity');
SELECT depth = (SELECT count(*) FROM idem_outbox) AS all_again FROM idem_consumers WHERE consumer = 'earliest';
SELECT idem_seek('earliest', (SELECT created_at FROM idem_outbox WHERE id = 4));
SELECT * FROM work('earliest', 3);
SELECT idem_seek('earliest', 'infinity');
SELECT * FROM work('earliest');
SELECT consumer, state FROM idem_delivered(7);
-- a message of a transaction that was running is passed over with the others of its time
SELECT publish('u', 1);
SELECT * FROM work('earliest');

-- repeats and re-creation
SELECT idem_subscribe('u', '{u,v}'), idem_subscribe('now', start => 'earliest');
SELECT depth FROM idem_consumers WHERE consumer = 'now';
SELECT idem_subscribe('u') :fails
SELECT idem_subscribe('u', '{u}') :fails
SELECT idem_subscribe('now', '{u}') :fails
SELECT idem_unsubscribe('u');
SELECT idem_fetch('u') :fails
SELECT idem_subscribe('u', start => 'earliest');
SELECT ids[1:3] FROM work('u');
BEGIN; SELECT idem_unsubscribe('u'), idem_subscribe('u', '{t}'); SELECT * FROM work('u'); COMMIT;
BEGIN; SELECT idem_unsubscribe('u'); ROLLBACK;
SELECT consumer, topics FROM idem_subscriptions ORDER BY 1;

-- bad input
SELECT * FROM idem_fetch('nobody') :fails
SELECT idem_seek('nobody', now()) :fails
SELECT idem_unsubscribe('nobody') :fails
SELECT idem_ack('nobody', 1) :fails
SELECT * FROM idem_fetch(NULL) :fails
SELECT * FROM idem_fetch('') :fails
SELECT * FROM idem_fetch('u', 0) :fails
SELECT * FROM idem_fetch('u', -1) :fails
SELECT * FROM idem_fetch('u', 100001) :fails
SELECT * FROM idem_fetch('u', NULL) :fails
SELECT * FROM idem_fetch('u', lane => 1) :fails
SELECT idem_ack('u', NULL) :fails
SELECT idem_ack('u', 1) :fails
SELECT idem_seek('u', NULL) :fails
SELECT idem_subscribe(NULL) :fails
SELECT idem_subscribe(repeat('x', 256)) :fails
SELECT idem_subscribe('v', '{}') :fails
SELECT idem_subscribe('v', '{{a},{b}}') :fails
SELECT idem_subscribe('v', '{a,NULL}') :fails
SELECT idem_subscribe('v', ARRAY['a', repeat('x', 256)]) :fails
SELECT idem_subscribe('v', lanes => 0) :fails
SELECT idem_subscribe('v', lanes => 257) :fails
SELECT idem_subscribe('v', start => 'yesterday') :fails
SELECT idem_subscribe('v', external => NULL) :fails
BEGIN READ ONLY;
SELECT * FROM idem_fetch('now') :fails
ROLLBACK;
SELECT * FROM idem_verify();

-- the ring: what a consumer has not had stays, whatever its age
CREATE PROCEDURE pass(t interval) LANGUAGE sql AS $$
	UPDATE idem_ring SET opened_at = opened_at - t,
		ends_at = ARRAY(SELECT e - t FROM unnest(ends_at) WITH ORDINALITY AS u (e, i) ORDER BY i) $$;
CREATE VIEW kept AS SELECT topic, min(id), max(id) FROM idem_outbox GROUP BY topic ORDER BY topic;
SELECT 'now' AS c, ids IS NULL AS nothing FROM work('now');
SELECT idem_unsubscribe('earliest'), idem_unsubscribe('u'), idem_subscribe('other', '{other}'), idem_subscribe('dead', '{dead}');
SELECT publish('t', 1), publish('dead', 1);
SELECT 'now' AS c, ids FROM work('now');
SELECT * FROM kept;
CALL pass('100 days'); CALL idem_maintain(); CALL pass('100 days'); CALL idem_maintain();
SELECT * FROM kept;
SELECT consumer, depth FROM idem_consumers ORDER BY 1;
SELECT publish('t', 1), publish('dead', 1);
SELECT idem_unsubscribe('dead');
CALL pass('100 days'); CALL idem_maintain();
SELECT 'now' AS c, ids IS NOT NULL AS something FROM work('now');
CALL pass('100 days'); CALL idem_maintain();
SELECT * FROM kept;
SELECT * FROM idem_verify();
\set VERBOSITY terse
SELECT idem_seek('now', '2000-01-01') :fails
\set VERBOSITY default
SELECT idem_seek('now', now());
SELECT idem_subscribe('late', start => 'earliest');
SELECT publish('t', 2);
SELECT 'now' AS c, count(ids), cardinality(max(ids)) FROM work('now');

-- positions turn too: the latest are carried along, the others go
DO $$ BEGIN FOR i IN 1..1000 LOOP PERFORM publish('t', 1); PERFORM work('now'); COMMIT; END LOOP; END $$;
SELECT depth FROM idem_consumers WHERE consumer = 'now';
-- as if that had been much
INSERT INTO idem_positions_0 SELECT 'filler ' || i, 0, 1 FROM generate_series(1, 300000) AS i;
SELECT pg_relation_size('idem_positions_0') >= 16 * 1024 * 1024 AS much;
CALL pass('1 min'); CALL idem_maintain(); CALL pass('1 hour'); CALL idem_maintain();
SELECT pg_relation_size('idem_positions_0') AS emptied, current FROM idem_ring WHERE store = 'positions';
SELECT consumer, count(*), max(n) > 1000 AS many FROM idem_positions_1 GROUP BY 1 ORDER BY 1;
SELECT publish('t', 1);
SELECT 'now' AS c, cardinality(ids) FROM work('now');
SELECT * FROM idem_verify();

-- idem_verify finds what is wrong
BEGIN;
INSERT INTO idem_outbox_2 SELECT * FROM idem_outbox_0 UNION ALL SELECT * FROM idem_outbox_1 UNION ALL SELECT * FROM idem_outbox_2 LIMIT 1;
UPDATE idem_ring SET ends_at = array_replace(ends_at, '-infinity', 'infinity') WHERE store = 'outbox';
SELECT invariant, detail FROM idem_verify();
ROLLBACK;
BEGIN;
SELECT invariant, object, regexp_replace(detail, '\d+', 'N') AS detail FROM setval('idem_outbox_ids', 1), idem_verify() WHERE object LIKE 'consumer%' ORDER BY 2;
SELECT setval('idem_outbox_ids', (SELECT max(id) FROM idem_outbox));
ROLLBACK;
BEGIN;
ALTER SEQUENCE idem_outbox_ids CACHE 10;
SELECT * FROM idem_verify();
ROLLBACK;
BEGIN;
DELETE FROM idem_positions_1;
SELECT invariant, object FROM idem_verify() ORDER BY 2;
ROLLBACK;
BEGIN;
INSERT INTO idem_positions_1 SELECT consumer, lane, n, low_era, low_floor - 1, low_from, low_to, low_running FROM idem_positions_1 WHERE consumer = 'now' LIMIT 1;
SELECT invariant, object FROM idem_verify();
ROLLBACK;
BEGIN;
UPDATE idem_outbox_0 SET xid = '999999999'; UPDATE idem_outbox_1 SET xid = '999999999'; UPDATE idem_outbox_2 SET xid = '999999999';
SELECT DISTINCT invariant FROM idem_verify() ORDER BY 1;
ROLLBACK;

-- into another cluster: its transactions are other ones, what came along is committed
SELECT idem_subscribe('moved', '{moved}');
BEGIN;
SELECT publish('moved', 2);
SELECT count(ids) FROM work('moved');
COMMIT;
SELECT ids IS NOT NULL AS something FROM work('moved', 1);
DO $$
BEGIN
	FOR i IN 0..2 LOOP
		EXECUTE format('UPDATE idem_outbox_%s SET era = 1, xid = (xid::text::bigint + 1000000)::text::xid8', i);
		EXECUTE format($f$UPDATE idem_positions_%s SET low_era = 1, low_from = (low_from::text::bigint + 1000000)::text::xid8, low_to = (low_to::text::bigint + 1000000)::text::xid8,
			low_running = ARRAY(SELECT (x::text::bigint + 1000000)::text::xid8 FROM unnest(low_running) AS x)$f$, i);
		EXECUTE format($f$UPDATE idem_positions_%s SET high_era = 1, high_from = (high_from::text::bigint + 1000000)::text::xid8, high_to = (high_to::text::bigint + 1000000)::text::xid8,
			high_running = ARRAY(SELECT (x::text::bigint + 1000000)::text::xid8 FROM unnest(high_running) AS x) WHERE high_era IS NOT NULL$f$, i);
	END LOOP;
END $$;
SELECT consumer, depth FROM idem_consumers ORDER BY 1;
SELECT publish('moved', 2);
SELECT cardinality(ids) FROM work('moved', 2);
SELECT cardinality(ids) FROM work('moved', 2);
SELECT cardinality(ids) FROM work('moved', 2);
SELECT consumer, id, count(*) FROM done WHERE consumer = 'moved' GROUP BY 1, 2 HAVING count(*) > 1;
SELECT count(*) FROM done WHERE consumer = 'moved';
SELECT * FROM idem_verify();

\c :home
DROP DATABASE regress_idem_consumer;
