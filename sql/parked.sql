--
-- Messages that fail: parked, retried, given up, redriven. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_parked;
CREATE DATABASE regress_idem_parked;
\c regress_idem_parked
CREATE EXTENSION idem;
CREATE TABLE done (consumer text, id bigint, key text, at serial);
-- what a consumer does in a transaction, if its work fails on some messages
CREATE FUNCTION work(c text, failing bigint[] = '{}', n int = 100, retry_in interval = '1 hour')
RETURNS TABLE (had bigint[], nacked bigint[], skipped bigint[], attempts int[]) LANGUAGE plpgsql AS $$
DECLARE
	m record; b bigint;
BEGIN
	had = '{}'; nacked = '{}'; skipped = '{}';
	FOR m IN SELECT * FROM idem_fetch(c, n) LOOP
		b = m.batch;
		attempts = attempts || m.attempt;
		CONTINUE WHEN m.id = ANY (skipped);
		IF m.id = ANY (failing) THEN
			skipped = skipped || idem_nack(c, b, m.id, 'message ' || m.id || ' is bad', retry_in);
			nacked = nacked || m.id;
		ELSE
			INSERT INTO done SELECT c, m.id, m.key;
			had = had || m.id;
		END IF;
	END LOOP;
	IF b IS NOT NULL THEN PERFORM idem_ack(c, b); END IF;
	RETURN NEXT;
END $$;
CREATE VIEW parked AS
	SELECT consumer, id, key, state, attempts, due_at <= clock_timestamp() AS due, round(extract(epoch FROM due_at - failed_at)) AS backoff, error
	FROM idem_parked ORDER BY consumer, id, state;
-- as if the time had come
CREATE FUNCTION pass() RETURNS bigint LANGUAGE sql AS $$
	WITH u AS (UPDATE idem_parked SET due_at = due_at - interval '10 days', failed_at = failed_at - interval '10 days' WHERE due_at IS NOT NULL RETURNING 1) SELECT count(*) FROM u $$;
CREATE FUNCTION publish(VARIADIC keys text[]) RETURNS bigint[] LANGUAGE sql AS $$
	SELECT array_agg(idem_publish('t', to_jsonb(i), k)) FROM unnest(keys) WITH ORDINALITY AS u (k, i) $$;

-- a message that fails, those of its key in the batch wait with it, all others go on
SELECT idem_subscribe('c');
SELECT publish('a', 'b', 'a', NULL, 'a', 'b');
SELECT * FROM work('c', '{1}');
SELECT * FROM parked;
SELECT id, consumer, state FROM generate_series(1, 6) AS id, idem_delivered(id);
SELECT consumer, depth, parked, dead FROM idem_consumers;
-- not due; and what is published meanwhile waits behind it, in the order of its key
SELECT * FROM work('c');
SELECT publish('a', 'b', 'a');
SELECT * FROM work('c');
SELECT id, key, state FROM parked;
SELECT consumer, depth, parked FROM idem_consumers;
SELECT * FROM work('c');
SELECT * FROM idem_verify();
-- due: it comes alone, before the others of its key; then these, in order
SELECT pass();
SELECT * FROM work('c');
SELECT id, state, attempts, due FROM parked;
SELECT publish('a', 'c');
SELECT * FROM work('c', n => 3);
SELECT * FROM work('c', n => 3);
SELECT * FROM work('c', n => 3);
SELECT * FROM work('c', n => 3);
SELECT * FROM parked;
SELECT id, consumer, state FROM generate_series(1, 11) AS id, idem_delivered(id) WHERE state <> 'delivered';
SELECT key, array_agg(id ORDER BY at) FROM done GROUP BY key ORDER BY key;
TRUNCATE done;

-- each time twice as late, up to an hour; then it is a dead letter, and its key goes on
SELECT publish('a', 'a');
SET idem.max_attempts = 14;
SELECT * FROM work('c', '{12}', retry_in => NULL);
CREATE TABLE tried (attempt int, nacked bigint[], waited_s numeric);
DO $$ BEGIN FOR i IN 2..14 LOOP
	PERFORM pass();
	INSERT INTO tried SELECT attempts[1], nacked, (SELECT backoff FROM parked WHERE id = 12) FROM work('c', '{12}', retry_in => NULL);
END LOOP; END $$;
SELECT * FROM tried;
RESET idem.max_attempts;
SELECT consumer, id, topic, key, type, payload, headers, attempts, error, created_at < failed_at AS since FROM idem_dead_letters;
SELECT consumer, state FROM idem_delivered(12);
SELECT consumer, depth, parked, dead FROM idem_consumers;
SELECT * FROM work('c');
SELECT pass();
SELECT * FROM work('c');
-- redriven: due at once, as if it had never failed
SELECT idem_redrive('c', 12);
SELECT idem_redrive('c', 12) :fails
SELECT consumer, state FROM idem_delivered(12);
SELECT count(*) FROM idem_dead_letters;
SELECT * FROM work('c', '{12}');
SELECT * FROM parked;
SELECT pass();
SELECT * FROM work('c');
TABLE parked;
SELECT * FROM idem_verify();
-- a dead letter is forgotten by DELETE
SET idem.max_attempts = 1;
SELECT publish('a', 'a');
SELECT * FROM work('c', '{14}');
RESET idem.max_attempts;
DELETE FROM idem_dead_letters WHERE id = 14;
SELECT idem_redrive('c', 14) :fails
SELECT * FROM idem_delivered(14);

-- when to try again, said by who nacks
SELECT publish('d', 'e', 'f', 'g');
SELECT * FROM work('c', '{16}', retry_in => '0');
SELECT * FROM parked;
SELECT * FROM work('c', '{16}', retry_in => '1 day 1 s');
SELECT * FROM parked;
SELECT pass();
SELECT * FROM work('c', '{16}', retry_in => '10 years');
SELECT key, state, attempts, backoff > 300000000 AS long FROM parked;
-- at the last attempt it does not matter
SET idem.max_attempts = 4;
UPDATE idem_parked SET due_at = now();
SELECT * FROM work('c', '{16}', retry_in => '1 s');
RESET idem.max_attempts;
SELECT state, attempts, due, backoff FROM parked;
DELETE FROM idem_dead_letters;

-- without a key nothing waits; keys of one slot are told apart
\set key1 k25164
\set key2 k84014
SELECT publish(NULL, NULL, :'key1', :'key2', :'key1', :'key2');
SELECT count(DISTINCT slot) AS slots FROM idem_outbox_0 WHERE key IN (:'key1', :'key2');
SELECT * FROM work('c', '{20,22}');
SELECT publish(NULL, :'key1', :'key2');
SELECT * FROM work('c');
SELECT id, key, state FROM parked;
SELECT pass();
SELECT * FROM work('c');
SELECT * FROM work('c');
SELECT * FROM parked;
-- several are retried in one batch, as many as are asked for
SELECT publish('a', 'b', 'c', 'd');
SELECT * FROM work('c', '{29,30,31,32}', retry_in => '0');
SELECT * FROM work('c', '{30}', n => 3, retry_in => '0');
SELECT * FROM work('c', n => 3);
-- new messages and retries take turns
SELECT publish('a', 'b', 'c', 'd', 'e', 'f');
SELECT * FROM work('c', '{33,34,35}', n => 3, retry_in => '0');
SELECT * FROM work('c', n => 1);
SELECT * FROM work('c', n => 1);
SELECT * FROM work('c', n => 1);
SELECT * FROM work('c', n => 1);
SELECT * FROM work('c', n => 1);
SELECT * FROM work('c', n => 1);
SELECT * FROM work('c', n => 1);
SELECT * FROM parked;
SELECT * FROM idem_verify();

-- in a transaction: after a rollback, after a savepoint, before the next fetch
SELECT publish('a', 'b', 'a', 'b');
BEGIN; SELECT batch, array_agg(id) AS ids FROM idem_fetch('c') GROUP BY 1; ROLLBACK;
BEGIN;
SELECT batch, array_agg(id) AS ids FROM idem_fetch('c') GROUP BY 1 \gset
\echo :ids
SAVEPOINT s; SELECT idem_nack('c', :batch, 39, 'undone', '1 h'); SELECT * FROM parked; ROLLBACK TO s;
SELECT * FROM parked;
SAVEPOINT s; SELECT idem_nack('c', :batch, 40, 'kept'); RELEASE s;
SELECT idem_nack('c', :batch, 40, 'again') :fails
ROLLBACK;
BEGIN;
SELECT batch FROM idem_fetch('c', 1) \gset
SELECT idem_nack('c', :batch, 39, 'not acked');
COMMIT :fails
SELECT * FROM parked;
BEGIN;
SELECT batch, array_agg(id) AS ids FROM idem_fetch('c') GROUP BY 1 \gset
SAVEPOINT s; SELECT idem_nack('c', :batch, 39, 'undone', '1 h'); ROLLBACK TO s;
SAVEPOINT s; SELECT idem_nack('c', :batch, 40, 'one', '0'); RELEASE s;
SELECT idem_ack('c', :batch);
SELECT batch, array_agg(id) AS ids FROM idem_fetch('c') GROUP BY 1 \gset
\echo :ids
SELECT idem_nack('c', :batch, 40, 'two', '0'), idem_ack('c', :batch);
SELECT * FROM work('c');
SELECT publish('b');
SELECT * FROM work('c');
COMMIT;
SELECT * FROM parked;

-- of a key: one that waited fails, one that is nacked after a later one, one that is redriven
CREATE FUNCTION again(c text, failing bigint[] = '{}', n int = 100) RETURNS SETOF bigint[] LANGUAGE plpgsql AS $$
BEGIN FOR i IN 1..20 LOOP PERFORM pass(); RETURN QUERY SELECT had FROM work(c, failing, n) WHERE had <> '{}'; END LOOP; END $$;
TRUNCATE done;
SELECT publish('k', 'k', 'k', 'k', 'k');
SELECT * FROM work('c', '{44}');
SELECT pass();
SELECT * FROM work('c');
SELECT * FROM work('c', '{46}');
SELECT id, state, attempts FROM parked;
SELECT again('c');
SELECT publish('k', 'k', 'k', 'k');
BEGIN;
SELECT batch FROM idem_fetch('c') LIMIT 1 \gset
SELECT idem_nack('c', :batch, 51, 'the later one', '0');
SELECT idem_nack('c', :batch, 49, 'the earlier one', '1 h');
SELECT idem_ack('c', :batch);
COMMIT;
SELECT id, state, attempts, due FROM parked;
SELECT * FROM work('c');
SELECT again('c');
SET idem.max_attempts = 1;
SELECT publish('k', 'k', 'k');
SELECT * FROM work('c', '{53,54}');
RESET idem.max_attempts;
SELECT idem_redrive('c', 53);
SELECT * FROM work('c', '{53}', retry_in => '1 day');
SELECT publish('k');
SELECT * FROM work('c');
SELECT idem_redrive('c', 54);
-- what is new waits for the first one, not for the second
SELECT * FROM work('c');
SELECT id, state FROM parked;
SELECT again('c');
SELECT array_agg(id ORDER BY at) FROM done;
SELECT * FROM idem_verify();

-- a batch of retries where the last attempt fails: the next of the key is due; all in one statement
SET idem.max_attempts = 2;
SELECT publish('k', 'k', 'l');
SELECT * FROM work('c', '{57}', retry_in => '0');
WITH m AS MATERIALIZED (SELECT * FROM idem_fetch('c')), n AS MATERIALIZED (SELECT batch, idem_nack('c', batch, id, 'again') FROM m)
SELECT idem_nack, idem_ack('c', batch) FROM n;
SELECT id, state FROM parked;
SELECT id, idem_ack('c', batch) FROM idem_fetch('c');
RESET idem.max_attempts;
SELECT id, state FROM parked;
DELETE FROM idem_dead_letters;

-- a consumer that is set back has them again from the outbox, and those kept nowhere else as they are
SELECT publish('s', 's', 's', 't');
SELECT created_at AS then FROM idem_outbox WHERE id = 60 \gset
SET idem.max_attempts = 1; SELECT * FROM work('c', '{63}', n => 4); RESET idem.max_attempts;
SELECT idem_seek('c', :'then');
SELECT * FROM work('c', '{60}');
SELECT id, state FROM parked;
SELECT idem_seek('c', 'infinity');
SELECT id, state FROM parked;
SELECT again('c');
SELECT publish('s', 's');
SELECT * FROM work('c', '{64}');
SELECT idem_seek('c', :'then');
SELECT id, state FROM parked;
SELECT * FROM work('c', '{61}');
DELETE FROM idem_outbox_0 WHERE id = 62;
SELECT idem_seek('c', :'then');
SELECT id, state FROM parked;
SELECT again('c');
SELECT * FROM idem_verify();
-- one that goes loses them, but for the dead letters
SELECT publish('s', 's');
SELECT * FROM work('c', '{66}');
SELECT idem_unsubscribe('c');
SELECT id, state FROM parked;
SELECT idem_redrive('c', 63) :fails
SELECT idem_subscribe('c');
SELECT idem_redrive('c', 63);
SELECT publish('s');
SELECT again('c');

-- marks of clients that were lost: what they had comes one by one
SELECT idem_subscribe('m', '{m}');
CREATE FUNCTION lost(messages int, first bigint, times int = 1, client text = '') RETURNS void LANGUAGE sql AS $$
	INSERT INTO idem_attempts SELECT 'm', 0, (SELECT max(n) + 1 FROM idem_positions_0 WHERE consumer = 'm'), messages, first, client, clock_timestamp() FROM generate_series(1, times) $$;
CREATE FUNCTION ask() RETURNS TABLE (ids bigint[], attempts int[]) LANGUAGE sql AS 'SELECT array_agg(id), array_agg(attempt) FROM idem_fetch(''m'')';
SELECT idem_publish('m', '1', k) FROM unnest('{a,b,a,c,a}'::text[]) AS k;
SELECT lost(4, 69);
BEGIN; SELECT * FROM ask(); ROLLBACK;
SELECT * FROM work('m');
SELECT * FROM work('m');
-- it was this one
SELECT lost(1, 71, 2);
BEGIN; SELECT * FROM ask(); ROLLBACK;
SELECT lost(1, 71, 2);
-- once too often
SELECT * FROM work('m');
SELECT id, error FROM idem_dead_letters WHERE consumer = 'm';
SELECT * FROM work('m');
SELECT * FROM work('m');
SELECT count(*) FROM idem_attempts;
-- who survived is believed; a nack counts on, and so do marks of a retry
SET idem.max_attempts = 8;
SELECT idem_publish('m', '1', 'a') FROM generate_series(1, 2);
SELECT lost(1, 74, 4, 'me'), lost(1, 74, 1, 'another');
SET idem.client = 'me';
BEGIN; SELECT * FROM ask(); ROLLBACK;
SET idem.client = 'another';
BEGIN; SELECT * FROM ask(); ROLLBACK;
RESET idem.client;
BEGIN; SELECT * FROM ask(); ROLLBACK;
SELECT * FROM work('m', '{74}');
SELECT id, state, attempts FROM parked WHERE id = 74;
SELECT count(*) FROM idem_attempts;
SELECT pass();
BEGIN; SELECT * FROM ask(); ROLLBACK;
SELECT lost(1, 74);
SELECT * FROM work('m');
SELECT id, state, attempts, due, error FROM parked WHERE consumer = 'm';
SELECT count(*) FROM idem_attempts;
SELECT pass();
SELECT * FROM work('m');
SELECT * FROM work('m');
-- of several that were lost together each is tried alone, as often as there are messages
SELECT idem_publish('m', '1') FROM generate_series(1, 4);
SELECT lost(3, 76);
SELECT * FROM work('m');
SELECT * FROM work('m');
SELECT * FROM work('m');
SELECT * FROM work('m');
SELECT count(*) FROM idem_attempts;
RESET idem.max_attempts;

-- given up as a retry: those behind it go on, also one that this very fetch has found
SELECT idem_unsubscribe('m');
SELECT idem_subscribe('m', '{m}');
SET idem.max_attempts = 2;
SELECT idem_publish('m', '1', 'p');
SELECT * FROM work('m', '{80}', retry_in => '0');
SELECT idem_publish('m', '1', 'p');
SELECT lost(1, 80);
SELECT id, idem_ack('m', batch) FROM idem_fetch('m');
SELECT idem_publish('m', '1', 'p'), idem_publish('m', '1', 'q');
SELECT * FROM work('m', '{82}', retry_in => '0');
SELECT idem_publish('m', '1', 'p');
SELECT lost(1, 82);
SELECT id, idem_ack('m', batch) FROM idem_fetch('m');
RESET idem.max_attempts;
SELECT id, state FROM parked WHERE consumer = 'm';
-- marks go with the consumer, and when it is set elsewhere
SELECT lost(5, 1);
SELECT idem_seek('m', now());
SELECT count(*) FROM idem_attempts;
SELECT lost(5, 1);
SELECT idem_unsubscribe('m');
SELECT count(*) FROM idem_attempts;
-- given up by a mark: what waited behind it is due
SELECT idem_subscribe('m', '{m}');
SET idem.max_attempts = 2;
SELECT idem_publish('m', '1', 'p') AS bad \gset
SELECT * FROM work('m', ARRAY[:bad]);
SELECT idem_publish('m', '1', 'p');
SELECT * FROM work('m');
SELECT id, state, attempts, due FROM parked WHERE consumer = 'm';
SELECT pass();
SELECT lost(1, :bad);
SELECT * FROM work('m');
SELECT id, state, attempts FROM parked WHERE consumer = 'm';
RESET idem.max_attempts;
SELECT idem_unsubscribe('m');
SELECT * FROM idem_verify();

-- many keys wait, others flow
SELECT idem_subscribe('many', '{many}');
SELECT count(idem_publish('many', '1', 'key ' || i)) FROM generate_series(1, 1500) AS i;
SELECT cardinality(nacked) FROM work('many', ARRAY(SELECT id FROM idem_outbox WHERE topic = 'many'), 2000);
SELECT count(idem_publish('many', '1', 'key ' || i)), count(idem_publish('many', '1', 'other ' || i)) FROM generate_series(1, 1500) AS i;
SELECT cardinality(had) FROM work('many', n => 10000);
SELECT state, count(*) FROM parked GROUP BY 1 ORDER BY 1;
SELECT pass();
SELECT sum(cardinality(h)), count(*) FROM again('many') AS h;
SELECT pass();
SELECT cardinality(had) FROM work('many', n => 10000);
SELECT sum(cardinality(h)), count(*) > 1 AS batches FROM again('many') AS h;
SELECT * FROM again('many');
SELECT count(*) FROM parked;

-- a lane that is added takes its keys, parked or not; each retries its own
SELECT idem_subscribe('lanes', '{l}');
SELECT count(idem_publish('l', '1', k)) FROM unnest('{a,order-2,a,order-2,Zahlung 漢字}'::text[]) AS k;
SELECT cardinality(nacked), cardinality(skipped) FROM work('lanes', ARRAY(SELECT id FROM idem_outbox WHERE topic = 'l'));
SELECT idem_subscribe('lanes', '{l}', 2);
SELECT lane, depth, parked, dead FROM idem_consumers WHERE consumer = 'lanes' ORDER BY 1;
SELECT pass();
BEGIN;
SELECT lane, key FROM idem_fetch('lanes', lane => 1);
SELECT idem_ack('lanes', batch) FROM (SELECT max(n) + 1 AS batch FROM idem_positions_0 WHERE consumer = 'lanes' AND lane = 1) AS b;
SELECT lane, key FROM idem_fetch('lanes', lane => 0);
ROLLBACK;
-- due for days by now, and nobody has fetched them
SELECT invariant, object FROM idem_verify();

-- what is parked does not keep the outbox: it is delivered from its copy, large or small
CREATE PROCEDURE turn() LANGUAGE plpgsql AS $$
BEGIN
	UPDATE idem_ring SET opened_at = opened_at - interval '100 days', ends_at = ARRAY(SELECT e - interval '100 days' FROM unnest(ends_at) WITH ORDINALITY AS u (e, i) ORDER BY i);
END $$;
SELECT idem_unsubscribe(consumer) FROM idem_subscriptions;
DELETE FROM idem_dead_letters;
SELECT idem_subscribe('c', '{t}', 4);
CREATE FUNCTION fail(c text, lanes int, OUT nacked bigint, OUT skipped bigint) LANGUAGE sql AS $$
	SELECT sum(cardinality(w.nacked)), sum(cardinality(w.skipped)) FROM generate_series(1, lanes) AS l, work(c, ARRAY(SELECT id FROM idem_outbox), 100 + l) AS w $$;
CREATE TABLE large AS SELECT jsonb_object_agg(i, md5(i::text)) AS payload FROM generate_series(1, 1000) AS i;
SELECT count(idem_publish('t', payload, 'a', headers => jsonb_build_object('h', payload))) FROM large, generate_series(1, 2);
SELECT * FROM fail('c', 4);
SELECT count(idem_publish('t', payload, 'order-2', headers => jsonb_build_object('h', payload))) FROM large, generate_series(1, 2);
SET idem.max_attempts = 1;
SELECT * FROM fail('c', 4);
RESET idem.max_attempts;
SELECT lane, depth, parked, dead FROM idem_consumers ORDER BY 1;
CALL turn(); CALL idem_maintain(); CALL turn(); CALL idem_maintain();
SELECT count(*) FROM idem_outbox;
SELECT d.consumer, d.state, count(*) FROM idem_parked AS p, idem_delivered(p.id) AS d GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(idem_redrive('c', id)) FROM idem_dead_letters WHERE payload = (SELECT payload FROM large);
SELECT pass();
BEGIN;
SELECT lane, key, count(*), bool_and(m.payload = l.payload AND m.headers -> 'h' = l.payload) AS whole, max(batch) AS batch FROM idem_fetch('c', lane => 0) AS m, large AS l GROUP BY 1, 2 \gset a_
\echo :a_lane :a_key :a_count :a_whole
-- and goes back to where it was
SELECT idem_nack('c', :a_batch, min(id), 'again') FROM idem_parked WHERE key = 'a';
SELECT idem_ack('c', :a_batch);
COMMIT;
SELECT key, state, attempts, payload = (SELECT payload FROM large) AS whole FROM idem_parked ORDER BY id;
SELECT pass();
SELECT count(*) FROM again('c');
SELECT count(*) FROM parked;
SELECT * FROM idem_verify();

-- idem_verify finds what is wrong
SELECT publish('v', 'v');
SELECT * FROM fail('c', 4);
BEGIN;
DELETE FROM idem_parked WHERE state = 'retry';
SELECT invariant, regexp_replace(object, '\d+', 'N') AS object, detail FROM idem_verify() ORDER BY 2, 3;
ROLLBACK;
BEGIN;
INSERT INTO idem_parked SELECT * FROM idem_parked;
SELECT invariant, regexp_replace(object, '\d+', 'N') AS object, detail FROM idem_verify() ORDER BY 2, 3;
ROLLBACK;
BEGIN;
UPDATE idem_parked SET consumer = 'nobody';
SELECT invariant, regexp_replace(object, '\d+', 'N') AS object, detail FROM idem_verify() ORDER BY 2, 3;
ROLLBACK;

-- bad input
SELECT idem_subscribe('bad', '{bad}'), idem_subscribe('other', '{bad}');
SELECT idem_publish('bad', '1', 'k') AS first, idem_publish('bad', '1', 'k') AS second \gset
BEGIN;
SELECT batch, count(*) FROM idem_fetch('bad') GROUP BY 1 \gset
SAVEPOINT s;
\set VERBOSITY terse
SELECT idem_nack('bad', :batch, :first + 1000, 'not in the batch') :fails
ROLLBACK TO s;
SELECT idem_nack('bad', :batch, 1, 'not in the batch') :fails
ROLLBACK TO s;
\set VERBOSITY default
SELECT idem_nack('bad', :batch + 1, :first, 'no such batch') :fails
ROLLBACK TO s;
SELECT idem_nack('other', :batch, :first, 'of another') :fails
ROLLBACK TO s;
SELECT idem_nack('nobody', :batch, :first, 'of nobody') :fails
ROLLBACK TO s;
SELECT idem_nack(NULL, :batch, :first, 'x') :fails
ROLLBACK TO s;
SELECT idem_nack('', :batch, :first, 'x') :fails
ROLLBACK TO s;
SELECT idem_nack('bad', NULL, :first, 'x') :fails
ROLLBACK TO s;
SELECT idem_nack('bad', :batch, NULL, 'x') :fails
ROLLBACK TO s;
SELECT idem_nack('bad', :batch, :first, NULL) :fails
ROLLBACK TO s;
SELECT idem_nack('bad', :batch, :first, 'x', '-1 s') :fails
ROLLBACK TO s;
SELECT idem_nack('bad', :batch, :first, 'x', '11 years') :fails
ROLLBACK TO s;
SELECT idem_nack('bad', :batch, :first, '') = ARRAY[:second::bigint] AS waits;
\set VERBOSITY terse
SAVEPOINT s;
SELECT idem_redrive('bad', :first) :fails
ROLLBACK TO s;
\set VERBOSITY default
SELECT idem_ack('bad', :batch);
SAVEPOINT s;
SELECT idem_nack('bad', :batch, :second, 'too late') :fails
ROLLBACK;
SELECT idem_redrive('bad', 0) :fails
SELECT idem_redrive('bad', NULL) :fails
SELECT idem_redrive(NULL, 1) :fails
SELECT idem_redrive('', 1) :fails
SELECT idem_redrive('nobody', 1) :fails
SET idem.max_attempts = 1;
SELECT cardinality(nacked) FROM work('bad', ARRAY(SELECT id FROM idem_outbox WHERE topic = 'bad'));
RESET idem.max_attempts;
\set VERBOSITY sqlstate
SELECT idem_redrive('other', :first) :fails
BEGIN READ ONLY; SELECT idem_redrive('bad', :first) :fails
ROLLBACK;
BEGIN READ ONLY; SELECT idem_nack('bad', 1, 1, 'x') :fails
ROLLBACK;
SET idem.max_attempts = 0 :fails
SET idem.max_attempts = 1001 :fails
\set VERBOSITY default
SELECT count(*) FROM idem_dead_letters WHERE consumer = 'bad';
SELECT * FROM idem_verify();

\c :home
DROP DATABASE regress_idem_parked;
