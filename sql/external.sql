--
-- External consumers: bounds first, numbers without holes, tombstones. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_external;
CREATE DATABASE regress_idem_external;
\c regress_idem_external
CREATE EXTENSION idem;
-- the other side: what came, and what it made of it
CREATE TABLE came (source text, lane bigint, seq bigint, id bigint, key text, tombstone boolean, attempt int, verdict text, applied boolean, at serial);
-- what a relay does in a transaction, and what the receiver does; failing: what the broker refuses
CREATE FUNCTION relay(c text, n int = 100, l bigint = NULL, failing bigint[] = '{}', retry_in interval = '1 hour', wait interval = '0') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m record; b bigint; skip bigint[] = '{}'; said text = ''; verdict text; applied boolean;
BEGIN
	FOR m IN SELECT * FROM idem_fetch(c, n, wait, l) LOOP
		b = m.batch;
		CONTINUE WHEN m.id = ANY (skip);
		IF m.id = ANY (failing) THEN
			skip = idem_nack(c, b, m.id, 'refused', retry_in);
			said = format('%s !%s:%s(%s)', said, m.seq, m.id, cardinality(skip));
			CONTINUE;
		END IF;
		verdict = idem_consume_seq(m.source, m.lane, m.seq);
		applied = verdict = 'first' AND m.payload IS NOT NULL AND idem_consume('receiver of ' || c, m.message_id);
		INSERT INTO came VALUES (m.source, m.lane, m.seq, m.id, m.key, m.payload IS NULL, m.attempt, verdict, applied);
		said = format('%s %s:%s%s', said, m.seq, m.id, CASE WHEN m.payload IS NULL THEN '+' END);
	END LOOP;
	IF b IS NOT NULL THEN PERFORM idem_ack(c, b); END IF;
	RETURN ltrim(said);
END $$;
-- each in a transaction, until twice there is nothing
CREATE PROCEDURE drain(c text, n int = 100, l bigint = NULL) LANGUAGE plpgsql AS $$
DECLARE
	nothing int = 0;
BEGIN
	WHILE nothing < 2 LOOP
		nothing = CASE WHEN relay(c, n, l) = '' THEN nothing + 1 ELSE 0 END;
		COMMIT;
	END LOOP;
END $$;
CREATE FUNCTION publish(VARIADIC keys text[]) RETURNS bigint[] LANGUAGE sql AS $$
	SELECT array_agg(idem_publish('t', to_jsonb(i), k)) FROM unnest(keys) WITH ORDINALITY AS u (k, i) $$;
-- sources by their last number
CREATE VIEW arrived AS SELECT regexp_replace(source, '@.*\.', '@incarnation.') AS source, lane, seq, id, key, tombstone, attempt, verdict, applied FROM came ORDER BY at;

-- the first fetch only fixes what is to come; COMMIT; then it comes
SELECT idem_subscribe('x', external => true);
SELECT relay('x');
SELECT publish('a', 'b', 'a');
SELECT consumer, lane, depth, parked, dead FROM idem_consumers;
SELECT count(*) FROM idem_fetch('x');
SELECT publish('b');
BEGIN;
SELECT batch, seq, id, topic, key, type, payload, headers, attempt, lane,
       source = 'x@' || idem_incarnation() || '.1' AS source, message_id = idem_incarnation() || '.' || id AS message_id FROM idem_fetch('x');
ROLLBACK;
-- the same again, whatever was published meanwhile; in parts too
BEGIN; SELECT seq, id FROM idem_fetch('x'); ROLLBACK;
BEGIN; SELECT seq, id FROM idem_fetch('x', 2); ROLLBACK;
SELECT relay('x', 2);
BEGIN; SELECT seq, id FROM idem_fetch('x', 2); ROLLBACK;
SELECT id, consumer, state FROM generate_series(1, 4) AS id, idem_delivered(id);
SELECT relay('x', 2);
SELECT relay('x', 2);
SELECT relay('x', 2);
SELECT relay('x', 2);
SELECT relay('x', 2);
SELECT * FROM arrived;
SELECT consumer, lane, depth, parked, dead FROM idem_consumers;
SELECT * FROM idem_verify();
-- undone, it is not fixed
SELECT publish('a');
BEGIN; SELECT count(*) FROM idem_fetch('x'); ROLLBACK;
SELECT count(*) FROM idem_fetch('x');
-- one batch, or what fixes one, in a transaction
BEGIN;
SELECT relay('x');
SELECT publish('a', 'b');
SELECT relay('x');
SELECT * FROM idem_fetch('x', wait => '10 s');
COMMIT;
BEGIN; SELECT relay('x'); SELECT relay('x'); SELECT relay('x'); COMMIT;
-- a wait ends with the first that there is, and does not wait once it is fixed
BEGIN; SELECT relay('x', wait => '20 s'); COMMIT;
SELECT relay('x', wait => '10 ms');
SELECT publish('c');
SELECT relay('x', wait => '20 s');
SELECT relay('x', wait => '20 s');
-- not acked
SELECT publish('c');
SELECT relay('x');
SELECT id FROM idem_fetch('x') :fails
SELECT relay('x');
TRUNCATE came;

-- what is refused stops its lane, and what came before it is done
CREATE FUNCTION pass() RETURNS bigint LANGUAGE sql AS $$
	WITH u AS (UPDATE idem_parked SET due_at = due_at - interval '10 days' WHERE due_at IS NOT NULL RETURNING 1) SELECT count(*) FROM u $$;
CREATE VIEW parked AS SELECT consumer, id, key, state, attempts, due_at <= clock_timestamp() AS due, error FROM idem_parked ORDER BY consumer, id, state;
SELECT publish('a', 'b', 'c', 'd', 'e');
SELECT relay('x');
SELECT relay('x', failing => '{12}');
SELECT * FROM parked;
SELECT id, consumer, state FROM generate_series(10, 14) AS id, idem_delivered(id);
SELECT relay('x');
SELECT publish('f');
SELECT relay('x', wait => '10 ms');
SELECT consumer, depth, parked, dead FROM idem_consumers;
SELECT * FROM idem_verify();
-- due: under its number, and what comes after it
SELECT pass();
SELECT relay('x', failing => '{12}');
SELECT pass();
BEGIN; SELECT seq, id, attempt FROM idem_fetch('x', 2); ROLLBACK;
SELECT relay('x', 2, failing => '{13}');
SELECT * FROM parked;
SELECT relay('x', 2);
-- the first one is refused: nothing is done
SELECT pass();
SELECT relay('x', failing => '{13}', retry_in => '0');
SELECT relay('x', failing => '{14}', retry_in => '0');
SELECT relay('x', retry_in => NULL, failing => '{14}');
SELECT attempts, due_at - failed_at > '1.9 s' AND due_at - failed_at < '2.1 s' AS after_2_s FROM idem_parked;
SELECT pass();
-- a wait lasts until it is due
BEGIN;
SELECT max(batch) AS batch, max(id) AS id FROM idem_fetch('x') \gset
SELECT idem_nack('x', :batch, :id, 'x', '100 ms'), idem_ack('x', :batch);
COMMIT;
SELECT relay('x', wait => '20 s');
CALL drain('x');
SELECT * FROM parked;
-- given up: a tombstone has its number; then it is a dead letter
SELECT publish('a', 'b', 'c');
SELECT relay('x');
SET idem.max_attempts = 2;
SELECT relay('x', failing => '{17}', retry_in => '0');
SELECT relay('x', failing => '{17}');
SELECT * FROM parked;
SELECT consumer, state FROM idem_delivered(17);
SELECT count(*) FROM idem_dead_letters;
BEGIN; SELECT seq, id, key, type, payload, headers, attempt FROM idem_fetch('x'); ROLLBACK;
-- the tombstone is refused as well
SELECT relay('x', failing => '{17}');
SELECT * FROM parked;
SELECT relay('x');
SELECT pass();
SELECT relay('x');
RESET idem.max_attempts;
SELECT consumer, id, key, payload, attempts, error FROM idem_dead_letters;
SELECT consumer, state FROM idem_delivered(17);
SELECT consumer, depth, parked, dead FROM idem_consumers;
-- redriven: a new number, after what is fixed
SELECT publish('a', 'b');
SELECT relay('x');
SELECT idem_redrive('x', 17);
SELECT * FROM parked;
SELECT relay('x', 1);
SELECT relay('x', 1);
SELECT relay('x');
SELECT relay('x', failing => '{17}', retry_in => '0');
SELECT * FROM parked;
SELECT publish('a');
BEGIN; SELECT seq, id, payload, attempt FROM idem_fetch('x'); ROLLBACK;
SELECT relay('x', failing => '{17}');
SELECT relay('x');
SELECT consumer, state FROM idem_delivered(17);
-- set elsewhere, it is a dead letter again
SELECT idem_seek('x', now());
SELECT * FROM parked;
SELECT idem_redrive('x', 17);
CALL drain('x');
SELECT * FROM parked;
-- at once given up
SET idem.max_attempts = 1;
SELECT publish('z', 'a');
SELECT relay('x');
SELECT relay('x', failing => '{22}');
RESET idem.max_attempts;
CALL drain('x');
SELECT * FROM parked;
SELECT source, array_agg(seq || ':' || id || CASE WHEN tombstone THEN '+' ELSE '' END || CASE WHEN applied THEN '' ELSE '-' END ORDER BY seq) FROM arrived GROUP BY source ORDER BY source;
SELECT verdict, count(*) FROM came GROUP BY 1;
SELECT * FROM idem_verify();

-- delivered, and then the acknowledgement is lost: the receiver knows it by its number
CREATE FUNCTION receive(c text, source text, lane bigint, seq bigint, id bigint, message_id text, tombstone boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	verdict text = idem_consume_seq(source, lane, seq);
	applied boolean = verdict = 'first' AND NOT tombstone AND idem_consume('receiver of ' || c, message_id);
BEGIN
	INSERT INTO came VALUES (source, lane, seq, id, NULL, tombstone, NULL, verdict, applied);
	RETURN format('%s:%s %s%s', seq, id, verdict, CASE WHEN NOT applied THEN ', not applied' END);
END $$;
-- :deliver \gset has the receiver's calls of a batch in :calls
\set deliver 'SELECT string_agg(format(''receive(%L, %L, %s, %s, %s, %L, %L)'', :\'c\', source, lane, seq, id, message_id, payload IS NULL), '', '') AS calls FROM idem_fetch(:\'c\')'
\set c x
SELECT publish('a', 'b');
SELECT relay('x');
BEGIN; :deliver \gset
ROLLBACK; SELECT :calls;
SELECT publish('c');
SELECT relay('x');
SELECT verdict, applied, count(*) FROM came GROUP BY 1, 2 ORDER BY 1, 2;
SELECT relay('x');
BEGIN; :deliver \gset
ROLLBACK; SELECT :calls;
-- and what is set elsewhere meanwhile has another source, so that nothing is taken for what it is not
SELECT idem_seek('x', 'infinity');
SELECT publish('a', 'b', 'c');
CALL drain('x');
SELECT idem_seek('x', created_at) FROM idem_outbox WHERE id = 26;
CALL drain('x');
SELECT publish('d');
SELECT relay('x');
BEGIN; :deliver \gset
ROLLBACK; SELECT :calls;
SELECT idem_unsubscribe('x');
SELECT idem_subscribe('x', external => true);
SELECT publish('e');
CALL drain('x');
SELECT DISTINCT source FROM arrived ORDER BY 1;
SELECT id FROM idem_outbox WHERE id > 22 AND id NOT IN (SELECT id FROM came WHERE applied) ORDER BY id;
SELECT id, count(*) FROM came WHERE applied GROUP BY id HAVING count(*) > 1;
-- also if it was no external one in between
SELECT idem_unsubscribe('x');
SELECT idem_subscribe('x');
SELECT publish('f');
SELECT seq, id, source, message_id, idem_ack('x', batch) FROM idem_fetch('x');
SELECT idem_unsubscribe('x');
SELECT idem_subscribe('x', '{t}', external => true);
SELECT publish('g'), idem_publish('u', '1');
CALL drain('x');
SELECT source, seq, id FROM arrived ORDER BY source DESC LIMIT 1;
-- what is redriven is gone from idem_parked when its turn comes: its number may have been given out
SET idem.max_attempts = 1;
SELECT publish('h', 'i');
SELECT relay('x');
SELECT relay('x', failing => ARRAY[(SELECT max(id) - 1 FROM idem_outbox)]);
CALL drain('x');
RESET idem.max_attempts;
SELECT idem_redrive('x', id) FROM idem_dead_letters WHERE key = 'h';
SELECT relay('x');
BEGIN; :deliver \gset
ROLLBACK; SELECT :calls;
DELETE FROM idem_parked WHERE key = 'h';
SELECT publish('j');
SELECT relay('x');
CALL drain('x');
SELECT source, seq, key, verdict, applied FROM arrived ORDER BY source DESC, seq LIMIT 1;
SELECT * FROM idem_verify();

-- lanes: each has its numbers; and lanes that are added wait for what is fixed
SELECT idem_subscribe('n', '{n}', 2, external => true);
CREATE PROCEDURE publish_some(n int) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_publish('n', to_jsonb(i), 'key ' || i % 20), CASE WHEN i % 4 = 0 THEN idem_publish('n', '0') END FROM generate_series(1, n) AS i;
END $$;
TRUNCATE came;
CALL publish_some(100);
SELECT relay('n', 5, 0), relay('n', 5, 1);
SELECT array_length(string_to_array(relay('n', 5, 0), ' '), 1), array_length(string_to_array(relay('n', 7, 1), ' '), 1);
SELECT lane, depth > 30 AS many FROM idem_consumers WHERE consumer = 'n' ORDER BY 1;
SELECT idem_subscribe('n', '{n}', 3, external => true);
CALL publish_some(50);
SELECT lane, depth > 0 AS some FROM idem_consumers WHERE consumer = 'n' ORDER BY 1;
SELECT d.state, count(*) FROM idem_outbox AS o, idem_delivered(o.id) AS d WHERE topic = 'n' AND d.consumer = 'n' GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM came;
-- the new one waits
SELECT relay('n', 5, 2), relay('n', 5, 2);
SELECT idem_subscribe('n', '{n}', 7, external => true);
SELECT relay('n', 5, lane) || relay('n', 5, lane) AS relay FROM generate_series(2, 6) AS lane;
-- the others go on; then so does it
SELECT array_length(string_to_array(relay('n', 1000, 0), ' '), 1) > 20 AS all_fixed;
SELECT relay('n', 5, 2), relay('n', 5, 4), relay('n', 5, 6), relay('n', 5, 3), relay('n', 5, 5), relay('n', 5, 1) <> '' AS its_own;
SELECT sum(depth) + (SELECT count(*) FROM came) = (SELECT count(*) FROM idem_outbox WHERE topic = 'n') AS sum FROM idem_consumers WHERE consumer = 'n';
CALL publish_some(30);
SELECT idem_subscribe('n', '{n}', 8, external => true);
DO $$ BEGIN FOR round IN 1..40 LOOP FOR lane IN REVERSE 7..0 LOOP PERFORM relay('n', 6, lane); COMMIT; END LOOP; END LOOP; END $$;
SELECT count(DISTINCT lane) AS lanes, count(*), bool_and(applied) AS applied, count(DISTINCT source) AS sources FROM came;
SELECT count(*) AS not_had FROM idem_outbox WHERE topic = 'n' AND id NOT IN (SELECT id FROM came);
SELECT count(*) AS late FROM (SELECT id < max(id) OVER (PARTITION BY key ORDER BY at) AS late FROM came WHERE key IS NOT NULL) AS d WHERE late;
SELECT lane AS lanes_with_holes FROM came GROUP BY lane HAVING count(*) <> max(seq) OR min(seq) <> 1;
SELECT * FROM idem_verify();
-- any that is free: a fetch that has fixed something is followed by one of the same
CALL publish_some(50);
TRUNCATE came;
DO $$ BEGIN FOR i IN 1..16 LOOP
	IF (relay('n') = '') <> (i % 2 = 1) THEN RAISE EXCEPTION 'out of turn: %', i; END IF;
	COMMIT;
END LOOP; END $$;
SELECT count(DISTINCT lane) AS lanes, count(*) FROM came;
SELECT relay('n'), relay('n');
-- a lane stands still, others do not
CALL publish_some(60);
SELECT id AS bad FROM idem_outbox_0 WHERE topic = 'n' AND slot < 1 << 28 ORDER BY id DESC LIMIT 1 \gset
SELECT relay('n', l => 0);
SELECT relay('n', l => 0, failing => ARRAY[:bad]) LIKE '%!%' AS refused;
DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM relay('n'); COMMIT; END LOOP; END $$;
SELECT lane, depth > 0 AS stands, parked, dead FROM idem_consumers WHERE consumer = 'n' ORDER BY 1;
-- also for what was one lane: the one it was fixed for delivers it, redriven too
SELECT idem_subscribe('p', '{p}', external => true);
SET idem.max_attempts = 1;
SELECT idem_publish('p', '1', 'order-2') AS bad, idem_publish('p', '1', 'a') \gset
SELECT relay('p');
SELECT relay('p', failing => ARRAY[:bad]) LIKE '!1:%' AS refused;
RESET idem.max_attempts;
CALL drain('p');
SELECT idem_redrive('p', id) FROM idem_dead_letters WHERE consumer = 'p';
SELECT relay('p');
\set c p
BEGIN; :deliver \gset
ROLLBACK; SELECT count(*) AS delivered FROM (SELECT :calls) AS r;
SELECT idem_subscribe('p', '{p}', 2, external => true);
SELECT idem_publish('p', '1', 'order-2') \gset
SELECT relay('p', l => 1), relay('p', l => 1) AS again;
TRUNCATE came;
SELECT relay('p', l => 0) <> '' AS parent;
SELECT lane, seq, key, verdict, applied FROM came;
CALL drain('p');
SELECT lane, seq, key, verdict, applied FROM came;
SELECT * FROM parked WHERE consumer = 'p';
SELECT * FROM idem_verify();

-- what is redriven is delivered from its copy, when the outbox has it no more
CREATE PROCEDURE turn() LANGUAGE plpgsql AS $$
BEGIN
	UPDATE idem_ring SET opened_at = opened_at - interval '100 days', ends_at = ARRAY(SELECT e - interval '100 days' FROM unnest(ends_at) WITH ORDINALITY AS u (e, i) ORDER BY i);
END $$;
SELECT idem_unsubscribe('n'), idem_unsubscribe('p');
SET idem.max_attempts = 1;
SELECT idem_publish('t', '1', 'gone') AS bad \gset
SELECT relay('x');
SELECT relay('x', failing => ARRAY[:bad]) LIKE '!%' AS refused;
RESET idem.max_attempts;
-- what is fixed and not yet delivered keeps the outbox
CALL turn(); CALL idem_maintain(); CALL turn(); CALL idem_maintain();
SELECT count(*) > 0 AS kept FROM idem_outbox;
CALL drain('x');
CALL turn(); CALL idem_maintain(); CALL turn(); CALL idem_maintain();
SELECT count(*) FROM idem_outbox;
SELECT idem_redrive('x', :bad);
TRUNCATE came;
CALL drain('x');
SELECT key, verdict, applied FROM came;
SELECT * FROM idem_verify();

-- repeats and bad input
SELECT idem_subscribe('x', '{t}', external => true);
SELECT idem_subscribe('x', '{t}') :fails
SELECT idem_subscribe('x', '{t}', external => NULL) :fails
SELECT idem_subscribe('x', external => true) :fails
SELECT idem_subscribe('internal');
SELECT idem_subscribe('internal', external => true) :fails
SELECT idem_subscribe(repeat('x', 190), external => true);
SELECT idem_subscribe(repeat('x', 255), external => true) :fails
SELECT idem_publish('t', '1') IS NOT NULL AS published;
SELECT relay(repeat('x', 190));
SELECT octet_length(source) < 256 AS fits, idem_ack(repeat('x', 190), batch) FROM idem_fetch(repeat('x', 190));
CALL drain('x');
SELECT publish('a', 'b', 'c') IS NOT NULL AS published;
SELECT relay('x');
BEGIN;
SELECT max(batch) AS batch, min(id) AS first, max(id) AS last FROM idem_fetch('x') \gset
SAVEPOINT s;
\set VERBOSITY sqlstate
SELECT idem_nack('x', :batch, 1, 'not in it') :fails
ROLLBACK TO s;
SELECT cardinality(idem_nack('x', :batch, :first + 1, 'refused')) AS with_it;
SAVEPOINT s;
SELECT idem_nack('x', :batch, :last, 'waits') :fails
ROLLBACK TO s;
SELECT cardinality(idem_nack('x', :batch, :first, 'refused too')) AS with_it;
SELECT idem_ack('x', :batch);
COMMIT;
SELECT idem_redrive('x', :first) :fails
\set VERBOSITY default
SELECT state, attempts FROM parked WHERE consumer = 'x' AND state = 'retry';
SELECT pass() > 0 AS passed;
TRUNCATE came;
CALL drain('x');
SELECT key, attempt, verdict FROM came ORDER BY at;
SELECT count(*) FROM idem_attempts;
SELECT * FROM idem_verify();

-- in another life of the database, as after a failover, numbers begin anew, under another source
SELECT idem_subscribe('life', '{life}', external => true);
SELECT idem_publish('life', '1') AS first \gset
SELECT relay('life');
SELECT relay('life') = '1:' || :first AS relayed;
SELECT count(idem_publish('life', '1')) FROM generate_series(1, 2);
SELECT relay('life');
SELECT relay('life', 1) = '2:' || :first + 1 AS relayed;
UPDATE idem_positions_0 SET seq_era = 1 WHERE consumer = 'life';
UPDATE idem_positions_1 SET seq_era = 1 WHERE consumer = 'life';
UPDATE idem_positions_2 SET seq_era = 1 WHERE consumer = 'life';
SELECT relay('life');
BEGIN; SELECT seq, id = :first + 2 AS next, source = 'life@' || idem_incarnation() || '.1' AS of_this_life FROM idem_fetch('life'); ROLLBACK;
SELECT relay('life') = '1:' || :first + 2 AS relayed;
SELECT * FROM idem_verify();

-- installed anew, ids and numbers begin anew: it is another life, of other messages
SELECT idem_incarnation() AS before \gset
SET client_min_messages = warning;
DROP EXTENSION idem CASCADE;
CREATE EXTENSION idem;
SELECT idem_incarnation() = :'before' AS same, idem_incarnation() ~ '^\d+\.1\.\d+$' AS looks;

\c :home
DROP DATABASE regress_idem_external;
