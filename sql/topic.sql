--
-- Guarded topics: each key's messages follow the machine, whoever inserts them. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_topic;
CREATE DATABASE regress_idem_topic;
\c regress_idem_topic
SET client_min_messages = warning;
CREATE EXTENSION idem;
CREATE VIEW pg_temp.m AS SELECT topic, key, type, payload FROM idem_outbox WHERE topic LIKE 'topic.%' ORDER BY id;
CREATE VIEW pg_temp.s AS SELECT topic, key, state, id = (SELECT max(id) FROM idem_outbox AS o WHERE (o.topic, o.key) = (s.topic, s.key)) AS is_last,
	since <= now() AS since FROM idem_outbox_states AS s WHERE topic LIKE 'topic.%' ORDER BY topic, key;

SELECT idem_guard_topic('topic.a', 'order');
SELECT idem_guard_topic('topic.a', 'order');
SELECT idem_publish('topic.a', '1', 'k1', 'created') AS id \gset
SELECT idem_publish('topic.a', '2', 'k1', 'completed') :fails
SELECT idem_publish('topic.a', '2', 'k2', 'paid') :fails
SELECT idem_publish('topic.a', '2', 'k1', 'no such state') :fails
SELECT idem_publish('topic.a', '2', NULL, 'paid') :fails
SELECT idem_publish('topic.a', '2', 'k1') :fails
SELECT idem_publish('topic.a', '2', '', 'created') :fails
SELECT idem_publish('topic.a', '2', repeat('k', 256), 'created') :fails
SELECT idem_publish('topic.a', '2', repeat('k', 255), 'created') > 0 AS published;
INSERT INTO idem_outbox (topic, key, type, payload) VALUES ('topic.a', 'k1', 'completed', '2') :fails
INSERT INTO idem_outbox (topic, key, type, payload) VALUES ('topic.a', 'k2', 'created', '2'), ('topic.a', 'k2', 'completed', '2') :fails
COPY idem_outbox (topic, key, type, payload) FROM stdin;
topic.a	k2	paid	1
\.
-- a repeat stores nothing and answers with the first one's id
SELECT idem_publish('topic.a', '3', 'k1', 'created') = :id AS first_id;
INSERT INTO idem_outbox (topic, key, type, payload) VALUES ('topic.a', 'k1', 'created', '3') RETURNING id = :id AS first_id, created_at = (SELECT since FROM idem_outbox_states WHERE id = :id) AS first_time;
SELECT idem_publish('topic.a', '4', 'k1', 'paid') > :id AS later;
SELECT idem_publish('topic.a', '5', 'k1', 'created') :fails
SELECT * FROM pg_temp.m WHERE key LIKE 'k_';
SELECT * FROM pg_temp.s WHERE key LIKE 'k_';
-- several steps in one transaction, and in one statement
INSERT INTO idem_outbox (topic, key, type, payload) SELECT 'topic.a', k, t, '6' FROM unnest('{k3,k4}'::text[]) AS k, unnest('{created,paid,paid,completed}'::text[]) AS t;
SELECT idem_publish('topic.a', '7', 'k5', 'created') < idem_publish('topic.a', '7', 'k5', 'paid') AS in_order;
BEGIN;
SELECT idem_publish('topic.a', '8', 'k5', 'completed') > 0 AS published;
SELECT idem_publish('topic.a', '8', 'k6', 'created') > 0 AS published;
SAVEPOINT s;
SELECT idem_publish('topic.a', '8', 'k6', 'cancelled') > 0 AS published;
SELECT idem_publish('topic.a', '8', 'k5', 'paid') :fails
ROLLBACK TO s;
SELECT idem_publish('topic.a', '8', 'k6', 'paid') > 0 AS published;
COMMIT;
BEGIN; SELECT idem_publish('topic.a', '9', 'k7', 'created') > 0 AS published; ROLLBACK;
SELECT idem_publish('topic.a', '9', 'k7', 'paid') :fails
SELECT * FROM pg_temp.s WHERE key LIKE 'k_';
SELECT key, string_agg(type, ' ' ORDER BY id) FROM idem_outbox WHERE topic = 'topic.a' AND key LIKE 'k_' GROUP BY key ORDER BY key;
-- other topics are as they were
SELECT idem_publish('topic.b', '1', 'k1', 'paid') < idem_publish('topic.b', '1', 'k1', 'paid') AS both;
SELECT idem_publish('topic.b', '1') > 0 AS published;

-- to guard a topic in use
SELECT idem_guard_topic('topic.b', 'order') :fails
SELECT idem_publish('topic.c', '1', 'k1', 'created') < idem_publish('topic.c', '1', 'k2', 'anything') AS both;
SELECT idem_guard_topic('topic.c', 'order') :fails
SELECT idem_publish('topic.c', '1', 'k2', 'cancelled') < idem_publish('topic.c', '1', 'k1', 'paid') AS both;
BEGIN;
SELECT idem_publish('topic.c', '1', 'k3', 'created') > 0 AS published;
SELECT idem_guard_topic('topic.c', 'order');
SELECT idem_publish('topic.c', '1', 'k3', 'paid') > 0 AS published;
COMMIT;
SELECT * FROM pg_temp.s WHERE topic = 'topic.c';
SELECT idem_publish('topic.c', '2', 'k1', 'created') :fails
SELECT idem_publish('topic.c', '2', 'k1', 'completed') > 0 AS published;
INSERT INTO idem_transitions VALUES ('topic', NULL, 'a');
SELECT idem_guard_topic('topic.c', 'topic') :fails
DELETE FROM idem_transitions WHERE machine = 'topic';
SELECT idem_guard_topic('topic.c', 'no such machine') :fails
SELECT idem_guard_topic('topic.c', NULL) :fails
SELECT idem_guard_topic('', 'order') :fails
SELECT idem_unguard_topic('topic.b') :fails
SELECT idem_unguard_topic(NULL) :fails
BEGIN READ ONLY; SELECT idem_guard_topic('topic.b', 'order') :fails
ROLLBACK;
BEGIN; SELECT idem_unguard_topic('topic.c'); SELECT idem_publish('topic.c', '2', 'k1', 'created') > 0 AS published; ROLLBACK;
SELECT idem_publish('topic.c', '2', 'k1', 'created') :fails
SELECT idem_unguard_topic('topic.c');
SELECT * FROM pg_temp.s WHERE topic = 'topic.c';
SELECT idem_publish('topic.c', '2', 'k1', 'created') > 0 AS published;

-- final states go when their time is over, others stay
UPDATE idem_outbox_states SET since = now() - interval '25 hours' WHERE topic = 'topic.a' AND key <> 'k3';
CALL idem_maintain();
SELECT topic, key, state FROM idem_outbox_states WHERE topic LIKE 'topic.%' AND key LIKE 'k_' ORDER BY key;
SELECT * FROM idem_verify();

-- states that no machine has
UPDATE idem_outbox_states SET state = 'odd' WHERE key = 'k1' AND topic = 'topic.a';
INSERT INTO idem_outbox_states VALUES ('topic.z', 'k', 'created', 1, now());
SELECT * FROM idem_verify();
SELECT idem_publish('topic.a', '1', 'k1', 'paid') :fails
DELETE FROM idem_outbox_states WHERE topic = 'topic.z' OR state = 'odd';
-- who writes by SQL what sessions keep in memory
DELETE FROM idem_guarded_topics WHERE topic = 'topic.a';
SELECT idem_publish('topic.a', '1', 'k2', 'paid') > 0 AS published;
DELETE FROM idem_outbox_states WHERE topic = 'topic.a';
TRUNCATE idem_guarded_topics;
SELECT * FROM idem_verify();

\c :home
DROP DATABASE regress_idem_topic;
