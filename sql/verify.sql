--
-- idem_verify: what is planted is found, and nothing else. The invariants of
-- keys are in ring, those of parked messages in parked, of guards in guard.
--
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_verify;
CREATE DATABASE regress_idem_verify;
\c regress_idem_verify
CREATE EXTENSION idem;
SELECT idem_subscribe('c', lanes => 2), idem_subscribe('t', '{t}'), idem_subscribe('x', external => true);
SELECT count(*) FROM (SELECT idem_publish('t', '1', 'k' || i) FROM generate_series(1, 10) AS i) AS m;
-- each lane has a position in the middle of a window
BEGIN;
SELECT batch AS b0 FROM idem_fetch('c', 1, lane => 0) \gset
SELECT idem_ack('c', :b0);
SELECT batch AS b1 FROM idem_fetch('c', 1, lane => 1) \gset
SELECT idem_ack('c', :b1);
COMMIT;
SELECT count(*) FROM idem_fetch('x');
SELECT * FROM idem_verify();

-- positions and attempt marks of nobody
BEGIN;
DELETE FROM idem_subscriptions WHERE consumer = 't';
INSERT INTO idem_attempts VALUES ('t', 0, 1, 1, 1, '', now());
SELECT * FROM idem_verify();
ROLLBACK;
BEGIN;
UPDATE idem_subscriptions SET lanes = 1 WHERE consumer = 'c';
INSERT INTO idem_attempts VALUES ('c', 0, 1, 1, 1, '', now()), ('c', 1, 1, 1, 2, '', now()), ('c', -1, 1, 1, 3, '', now());
SELECT * FROM idem_verify() ORDER BY 1, 2;
ROLLBACK;
-- who has unsubscribed left no orphan
BEGIN;
SELECT idem_unsubscribe('t');
SELECT * FROM idem_verify();
ROLLBACK;

-- a lane's latest in a generation that is about to go, or gone for its reader
BEGIN;
INSERT INTO idem_positions_2 SELECT * FROM idem_positions_0 WHERE consumer = 't';
SELECT * FROM idem_verify();
UPDATE idem_positions_2 SET n = n + 7;
SELECT * FROM idem_verify();
ROLLBACK;
BEGIN;
SELECT idem_consume_seq('elsewhere', 0, 1);
INSERT INTO idem_watermarks_1 VALUES ('elsewhere', 0, 1), ('elsewhere', 1, 1);
SELECT * FROM idem_verify();
ROLLBACK;
BEGIN;
SELECT idem_unsubscribe('t');
INSERT INTO idem_positions_1 SELECT * FROM idem_positions_0 WHERE consumer = 't' AND low_floor IS NOT NULL;
SELECT * FROM idem_verify();
ROLLBACK;

-- marks of transactions to come
BEGIN;
UPDATE idem_positions_0 SET low_to = '1000000000000' WHERE consumer = 't';
SELECT * FROM idem_verify();
ROLLBACK;
BEGIN;
UPDATE idem_positions_0 SET high_to = '1000000000001' WHERE consumer = 'c' AND lane = 1 AND last_id IS NOT NULL;
SELECT * FROM idem_verify();
ROLLBACK;
BEGIN;
UPDATE idem_positions_0 SET low_to = idem_next_xid() WHERE consumer = 't';
SELECT * FROM idem_verify();
UPDATE idem_positions_0 SET low_to = (idem_next_xid()::text::bigint + 1000)::text::xid8 WHERE consumer = 't';
SELECT invariant, object FROM idem_verify();
-- of another cluster they mean nothing
UPDATE idem_positions_0 SET low_era = 1 WHERE consumer = 't';
SELECT * FROM idem_verify();
ROLLBACK;
BEGIN;
UPDATE idem_positions_0 SET last_id = high_floor WHERE consumer = 'c' AND lane = 0;
SELECT * FROM idem_verify();
UPDATE idem_positions_0 SET last_id = high_floor + 1 WHERE consumer = 'c' AND lane = 0;
SELECT * FROM idem_verify();
ROLLBACK;

-- what is due and nobody fetches
BEGIN;
SELECT batch AS b, min(id) AS id FROM idem_fetch('c', 1, lane => 0) GROUP BY 1 \gset
SELECT idem_nack('c', :b, :id, 'bad'), idem_ack('c', :b);
UPDATE idem_parked SET due_at = now() - interval '59 min';
SELECT * FROM idem_verify();
UPDATE idem_parked SET due_at = now() - interval '61 min';
SELECT invariant, object, detail LIKE '1 are due for an hour, the first since %' AS detail FROM idem_verify();
UPDATE idem_parked SET state = 'dead';
SELECT * FROM idem_verify();
ROLLBACK;

-- states of a topic that no machine guards
BEGIN;
INSERT INTO idem_outbox_states VALUES ('t', 'a', 'paid', 1, now()), ('t', 'b', 'no such state', 2, now());
SELECT * FROM idem_verify();
INSERT INTO idem_guarded_topics VALUES ('t', 'order');
SELECT * FROM idem_verify();
ROLLBACK;
SELECT * FROM idem_verify();

\c :home
DROP DATABASE regress_idem_verify;
