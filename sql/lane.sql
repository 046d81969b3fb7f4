--
-- Lanes: which lane a message is in, lanes that are added. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_lane;
CREATE DATABASE regress_idem_lane ENCODING 'UTF8' TEMPLATE template0;
\c regress_idem_lane
CREATE EXTENSION idem;
CREATE TABLE done (consumer text, batch bigint, lane bigint, id bigint, key text, at serial);
-- what a worker does in a transaction
CREATE FUNCTION work(c text, n int = 100, l bigint = NULL) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	b bigint; had int;
BEGIN
	WITH f AS (SELECT * FROM idem_fetch(c, n, lane => l) WITH ORDINALITY),
	     w AS (INSERT INTO done SELECT c, batch, lane, id, key FROM f ORDER BY ordinality)
	SELECT max(batch), count(*) INTO b, had FROM f;
	IF b IS NOT NULL THEN PERFORM idem_ack(c, b); END IF;
	RETURN had;
END $$;
-- all there is, in each lane
CREATE PROCEDURE drain(c text, n int = 100) LANGUAGE plpgsql AS $$
DECLARE
	lane int;
BEGIN
	FOR lane IN 0 .. (SELECT lanes - 1 FROM idem_subscriptions WHERE consumer = c) LOOP
		WHILE work(c, n, lane) > 0 LOOP COMMIT; END LOOP;
		COMMIT;
	END LOOP;
END $$;
-- messages that were not had exactly once, and those that came after a later one of their key
CREATE FUNCTION wrong(c text) RETURNS TABLE (what text, n bigint) LANGUAGE sql AS $$
	SELECT 'not had', count(*) FROM idem_outbox AS m WHERE NOT EXISTS (SELECT FROM done AS d WHERE d.consumer = c AND d.id = m.id)
	UNION ALL
	SELECT 'had more than once', count(*) FROM (SELECT FROM done WHERE consumer = c GROUP BY id HAVING count(*) > 1) AS d
	UNION ALL
	SELECT 'after a later one of its key', count(*)
	FROM (SELECT id < max(id) OVER (PARTITION BY key ORDER BY at) AS late FROM done WHERE consumer = c AND key IS NOT NULL) AS d WHERE late
$$;

-- what decides is stored with the message, and may never change
CREATE TABLE known (key text, slot int);
INSERT INTO known (key, slot) VALUES
	('a', 444641715), ('b', 46424626), ('', 725515275), ('order-1', 302013084), ('order-2', 2010665664),
	('7b7e0c5e-9e0c-4f0e-8d4e-2f3f0f8f8c11', 2031847487), ('Zahlung 漢字', 1148637946), (repeat('x', 255), 364276906);
SELECT idem_subscribe('by ' || n, lanes => n) FROM unnest('{1,2,3,4,5,6,7,8,100,256}'::int[]) AS n;
SELECT count(idem_publish('known', '1', key)) FROM known;
SELECT left(key, 40) AS key, o.slot, o.slot = k.slot AS as_ever FROM known AS k JOIN idem_outbox_0 AS o USING (key) ORDER BY id;
-- the lane, of so many
DO $$
DECLARE
	n int;
BEGIN
	FOREACH n IN ARRAY '{1,2,3,4,5,6,7,8,100,256}'::int[] LOOP
		FOR lane IN 0 .. n - 1 LOOP PERFORM work('by ' || n, l => lane); END LOOP;
	END LOOP;
END $$;
SELECT left(key, 10) AS key, string_agg(lane::text, ' ' ORDER BY substr(consumer, 4)::int) AS "lane of 1 to 8, 100, 256"
FROM done GROUP BY key ORDER BY min(id);
-- by the definition: the slot's highest bits, the other way round; those of lanes that are not there yet go where they were
CREATE FUNCTION lane_of(slot int, lanes int) RETURNS bigint LANGUAGE sql AS $$
	SELECT CASE WHEN lane < lanes THEN lane ELSE lane - (1 << (bits - 1)) END
	FROM (SELECT bits, coalesce(reverse((slot >> (31 - bits))::bit(32)::text)::bit(32)::bigint >> (32 - bits), 0) AS lane
	      FROM (SELECT count(*)::int AS bits FROM generate_series(0, 7) AS i WHERE 1 << i < lanes) AS b) AS l
$$;
SELECT count(*), bool_and(d.lane = lane_of(o.slot, substr(consumer, 4)::int)) AS by_definition FROM done AS d JOIN idem_outbox_0 AS o USING (id);
SELECT count(idem_unsubscribe(consumer)) FROM idem_subscriptions;
TRUNCATE done;

-- keys are spread, and messages without one; each lane has its own, in order
SELECT idem_subscribe('spread', lanes => 8);
SELECT count(idem_publish('t', '1', 'key ' || i % 1000)), count(idem_publish('t', '1')) FROM generate_series(1, 2000) AS i;
SELECT count(*) AS lanes, sum(depth), min(depth) > 350 AND max(depth) < 650 AS spread, count(oldest_age) AS oldest FROM idem_consumers;
CALL drain('spread', 70);
SELECT count(DISTINCT lane) AS lanes, count(*) FROM done;
SELECT * FROM wrong('spread') WHERE what <> 'not had';
SELECT count(*) AS not_had FROM idem_outbox WHERE topic = 't' AND id NOT IN (SELECT id FROM done);
SELECT bool_and(lane = lane_of(o.slot, 8)) AS by_definition FROM done AS d JOIN idem_outbox_0 AS o USING (id);
SELECT bool_and(depth = 0) AND count(oldest_age) = 0 AS drained FROM idem_consumers;
SELECT state, count(*) FROM (SELECT (idem_delivered(id)).* FROM idem_outbox WHERE topic = 't') AS d GROUP BY state;

-- a lane reads its own messages, and of the others the index entries at most
SELECT count(idem_publish('t', '1', 'key ' || i)) FROM generate_series(1, 2000) AS i;
CREATE VIEW fetched AS SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'idem_outbox_0';
BEGIN;
SELECT idx_tup_fetch AS before FROM fetched \gset
SELECT sum(work('spread', 100000, lane)) FROM generate_series(0, 7) AS lane;
SELECT idx_tup_fetch - :before AS fetched FROM fetched;
COMMIT;

-- one at a time in a transaction; the next fetch looks into the next lane; an argument says which
SELECT count(idem_publish('t', '1', 'key ' || i)) FROM generate_series(1, 200) AS i;
BEGIN;
SELECT count(DISTINCT lane) AS lanes, count(DISTINCT batch) AS batches FROM idem_fetch('spread', 3, lane => 0);
SELECT * FROM idem_fetch('spread', 3) :fails
ROLLBACK;
BEGIN;
SELECT work('spread', 3) FROM generate_series(1, 8);
SELECT count(DISTINCT lane) AS lanes, count(*) FROM (SELECT * FROM done ORDER BY at DESC LIMIT 24) AS d;
SELECT count(held_by) AS held, bool_and(held_by = pg_backend_pid()) AS by_me FROM idem_consumers;
ROLLBACK;
BEGIN;
SELECT DISTINCT lane FROM idem_fetch('spread', lane => 5);
SELECT lane FROM idem_consumers WHERE held_by IS NOT NULL;
ROLLBACK;
CALL drain('spread');
SELECT * FROM idem_fetch('spread', lane => 5);

-- lanes are added to a consumer at work, in the midst of what it was at
SELECT idem_subscribe('grows', '{g}');
CREATE PROCEDURE publish_some(n int) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_publish('g', to_jsonb(i), 'key ' || i % 50), CASE WHEN i % 3 = 0 THEN idem_publish('g', '0') END FROM generate_series(1, n) AS i;
END $$;
CALL publish_some(300);
SELECT work('grows', 40);
SELECT idem_subscribe('grows', '{g}', lanes => 2);
SELECT lane, depth > 100 AS many FROM idem_consumers WHERE consumer = 'grows' ORDER BY lane;
SELECT sum(depth) FROM idem_consumers WHERE consumer = 'grows';
CALL publish_some(100);
SELECT work('grows', 30, 1), work('grows', 20, 0);
SELECT idem_subscribe('grows', '{g}', 3);
CALL publish_some(30);
SELECT work('grows', 10, lane), work('grows', 10, lane) FROM generate_series(0, 2) AS lane;
SELECT idem_subscribe('grows', '{g}', 5);
SELECT work('grows', 5, lane) FROM generate_series(4, 1, -1) AS lane;
-- undone
BEGIN; SELECT idem_subscribe('grows', '{g}', 64); SELECT count(*) FROM idem_consumers WHERE consumer = 'grows'; ROLLBACK;
-- twice at once
SELECT idem_subscribe('grows', '{g}', 7), idem_subscribe('grows', '{g}', 8);
CALL publish_some(60);
SELECT count(*), sum(depth) AS depth FROM idem_consumers WHERE consumer = 'grows';
SELECT count(*) FROM done WHERE consumer = 'grows';
CALL drain('grows', 13);
SELECT count(DISTINCT lane) AS lanes, count(*) FROM done WHERE consumer = 'grows';
SELECT * FROM wrong('grows') WHERE what <> 'not had';
SELECT count(*) AS not_had FROM idem_outbox WHERE topic = 'g' AND id NOT IN (SELECT id FROM done);
-- fewer, or as many: nothing changes
SELECT idem_subscribe('grows', '{g}'), idem_subscribe('grows', '{g}', 8), idem_subscribe('grows', '{g}', 3);
SELECT consumer, lanes, external FROM idem_subscriptions ORDER BY consumer;
-- a batch in hand is of the lanes as they are
CALL publish_some(10);
BEGIN;
SELECT count(*) > 0 AS some FROM idem_fetch('grows', lane => 0);
SELECT idem_subscribe('grows', '{g}', 8);
SELECT idem_subscribe('grows', '{g}', 9) :fails
ROLLBACK;
BEGIN;
SELECT work('grows') > 0 AS some;
SELECT idem_subscribe('grows', '{g}', 9);
COMMIT;
CALL drain('grows');
SELECT * FROM wrong('grows') WHERE what <> 'not had';
SELECT * FROM idem_verify();

-- set back, all lanes are
TRUNCATE done;
SELECT idem_seek('grows', '-infinity');
CALL drain('grows', 50);
SELECT * FROM wrong('grows') WHERE what <> 'not had';
SELECT count(*) AS not_had FROM idem_outbox WHERE topic = 'g' AND id NOT IN (SELECT id FROM done);
SELECT idem_seek('grows', 'infinity');
SELECT sum(depth) FROM idem_consumers WHERE consumer = 'grows';

-- another one of that name, with fewer lanes, then with more
SELECT idem_unsubscribe('grows');
SELECT idem_subscribe('grows', '{g}', 2);
SELECT * FROM idem_fetch('grows', lane => 2) :fails
CALL publish_some(30);
SELECT work('grows', 5, 0), work('grows', 5, 1);
SELECT idem_subscribe('grows', '{g}', 6);
CALL drain('grows');
SELECT count(DISTINCT lane) AS lanes, count(*) FROM done WHERE consumer = 'grows' AND id > (SELECT max(id) - 40 FROM idem_outbox);
SELECT * FROM wrong('grows') WHERE what <> 'not had';
-- no number of a batch is given twice
SELECT lane, n FROM idem_positions_0 WHERE consumer = 'grows' GROUP BY lane, n HAVING count(*) > 1;
SELECT * FROM idem_verify();

-- as many as there may be
SELECT idem_subscribe('most', '{t}', 256, 'earliest');
SELECT count(*), sum(depth) = (SELECT count(*) FROM idem_outbox WHERE topic = 't') AS all FROM idem_consumers WHERE consumer = 'most';
CALL drain('most');
SELECT count(DISTINCT lane) AS lanes FROM done WHERE consumer = 'most';
SELECT * FROM wrong('most') WHERE what <> 'not had';
SELECT count(*) AS not_had FROM idem_outbox WHERE topic = 't' AND id NOT IN (SELECT id FROM done WHERE consumer = 'most');

-- bad input
SELECT * FROM idem_fetch('most', lane => 256) :fails
SELECT * FROM idem_fetch('spread', lane => 8) :fails
SELECT idem_subscribe('one');
SELECT * FROM idem_fetch('one', lane => 1) :fails
SELECT * FROM idem_fetch('one', lane => 9223372036854775807) :fails
SELECT * FROM idem_fetch('one', lane => -1) :fails
SELECT idem_subscribe('one', lanes => 257) :fails
SELECT idem_subscribe('one', lanes => 0) :fails
SELECT idem_subscribe('one', lanes => -1) :fails
SELECT idem_subscribe('one', lanes => NULL) :fails
SELECT idem_subscribe('one', '{u}', 2) :fails
SELECT consumer, lanes FROM idem_subscriptions ORDER BY consumer;

-- idem_verify finds what is wrong
BEGIN;
DELETE FROM idem_positions_0 WHERE consumer = 'spread' AND lane = 5;
SELECT * FROM idem_verify() WHERE invariant NOT LIKE '%retired%';
ROLLBACK;
BEGIN;
UPDATE idem_subscriptions SET lanes = 9 WHERE consumer = 'spread';
SELECT * FROM idem_verify();
SELECT * FROM idem_fetch('spread', lane => 8) :fails
ROLLBACK;

\c :home
DROP DATABASE regress_idem_lane;
