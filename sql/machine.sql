--
-- State machines: the rules, what they allow, who may change them, and when. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_machine;
CREATE DATABASE regress_idem_machine;
\c regress_idem_machine
SET client_min_messages = warning;
CREATE EXTENSION idem;

-- the machine that is shipped
SELECT * FROM idem_transitions WHERE machine = 'order' ORDER BY from_state NULLS FIRST, to_state;
SELECT s AS state, (SELECT string_agg(n, ' ') FROM idem_next_states('order', s) AS n) AS next
FROM unnest('{NULL,created,paid,completed,cancelled}'::text[]) AS s;
SELECT idem_machine_dot('order') \g (format=unaligned tuples_only)
SELECT idem_next_states('order', 'shipped') :fails
SELECT idem_next_states('no such machine', NULL) :fails
SELECT idem_machine_dot('no such machine') :fails
SELECT idem_next_states(NULL, 'created') :fails
SELECT idem_machine_dot('') :fails

-- shipped rules stay: they can be disabled
UPDATE idem_transitions SET to_state = 'lost' WHERE machine = 'order' AND from_state = 'paid' :fails
UPDATE idem_transitions SET shipped = false WHERE machine = 'order' AND from_state IS NULL :fails
DELETE FROM idem_transitions WHERE machine = 'order' AND to_state = 'cancelled' :fails
DELETE FROM idem_transitions WHERE machine = 'order' AND from_state IS NULL :fails
TRUNCATE idem_transitions :fails
INSERT INTO idem_transitions (machine, from_state, to_state, shipped) VALUES ('order', 'paid', 'refunded', true) :fails
UPDATE idem_transitions SET enabled = false WHERE machine = 'order' AND to_state = 'cancelled';
SELECT idem_next_states('order', 'created');
SELECT idem_next_states('order', 'cancelled') :fails
SELECT idem_machine_dot('order') \g (format=unaligned tuples_only)
-- what a restore does: an INSERT of one that is shipped sets what it was
INSERT INTO idem_transitions VALUES ('order', 'created', 'cancelled', true, true);
SELECT idem_next_states('order', 'created');
COPY idem_transitions FROM stdin;
order	created	cancelled	f	t
order	paid	refunded	t	f
\.
SELECT s AS next FROM idem_next_states('order', 'created') AS s UNION ALL SELECT idem_next_states('order', 'paid');
INSERT INTO idem_transitions (machine, from_state, to_state) VALUES ('order', 'created', 'cancelled');
SELECT * FROM idem_transitions WHERE machine = 'order' ORDER BY from_state NULLS FIRST, to_state;
UPDATE idem_transitions SET from_state = NULL, to_state = 'created' WHERE machine = 'order' AND to_state = 'refunded' :fails
DELETE FROM idem_transitions WHERE machine = 'order' AND NOT shipped;

-- rules of one's own
INSERT INTO idem_transitions VALUES ('door "x\', NULL, 'shut'), ('door "x\', 'shut', 'open "wide\'), ('door "x\', 'open "wide\', 'shut'), ('door "x\', 'shut', 'bricked up');
SELECT idem_next_states('door "x\', 'shut');
SELECT idem_machine_dot('door "x\') \g (format=unaligned tuples_only)
INSERT INTO idem_transitions VALUES ('door "x\', NULL, 'shut') :fails
INSERT INTO idem_transitions VALUES ('door "x\', 'shut', 'shut') :fails
INSERT INTO idem_transitions VALUES ('', NULL, 'shut') :fails
INSERT INTO idem_transitions VALUES (NULL, NULL, 'shut') :fails
INSERT INTO idem_transitions VALUES ('door "x\', '', 'shut') :fails
INSERT INTO idem_transitions VALUES ('door "x\', 'shut', NULL) :fails
INSERT INTO idem_transitions VALUES ('door "x\', 'shut', repeat('x', 256)) :fails
INSERT INTO idem_transitions VALUES ('door "x\', 'shut', 'gone', NULL) :fails
UPDATE idem_transitions SET to_state = 'shut' WHERE from_state = 'shut' AND machine LIKE 'door%' :fails
UPDATE idem_transitions SET shipped = true WHERE machine LIKE 'door%' :fails
-- a change holds from the next statement on, and goes with a rollback
BEGIN;
INSERT INTO idem_transitions VALUES ('door "x\', 'bricked up', 'gone');
SELECT idem_next_states('door "x\', 'bricked up');
SAVEPOINT s;
DELETE FROM idem_transitions WHERE machine LIKE 'door%' AND from_state = 'shut';
SELECT idem_next_states('door "x\', 'shut');
ROLLBACK TO s;
SELECT idem_next_states('door "x\', 'shut');
ROLLBACK;
SELECT idem_next_states('door "x\', 'bricked up');
-- what a session keeps of them does not grow
DO $$ BEGIN
	FOR i IN 1 .. 200 LOOP
		INSERT INTO idem_transitions VALUES ('grows', NULL, 's' || i);
		PERFORM idem_next_states('grows', NULL);
	END LOOP;
	DELETE FROM idem_transitions WHERE machine = 'grows';
	PERFORM idem_next_states('order', NULL);
END $$;
SELECT name, count(*), max(total_bytes) < 10000 AS small FROM pg_backend_memory_contexts WHERE name LIKE 'idem %' GROUP BY name ORDER BY name;
-- a machine whose rules are all disabled is there
UPDATE idem_transitions SET enabled = false WHERE machine LIKE 'door%';
SELECT idem_next_states('door "x\', NULL);
SELECT idem_next_states('door "x\', 'shut') :fails
DELETE FROM idem_transitions WHERE machine LIKE 'door%';
SELECT idem_next_states('door "x\', NULL) :fails

-- a machine in use: an edit must not strand rows
CREATE SCHEMA machine;
INSERT INTO idem_transitions VALUES ('box', NULL, 'packed'), ('box', 'packed', 'sent'), ('box', 'packed', 'lost'), ('box', 'sent', 'received');
CREATE TABLE machine.box (id int PRIMARY KEY, state text) PARTITION BY RANGE (id);
CREATE TABLE machine.box_1 PARTITION OF machine.box FOR VALUES FROM (0) TO (10);
CREATE TABLE machine.box_2 PARTITION OF machine.box DEFAULT;
CREATE TABLE machine."old box" (state varchar);
CREATE TABLE machine.other (state text);
INSERT INTO machine.box SELECT i, 'packed' FROM generate_series(8, 12) AS i;
INSERT INTO machine."old box" VALUES ('packed'), ('packed');
INSERT INTO machine.other VALUES ('created');
SELECT idem_attach('machine.box', 'state', 'box'), idem_attach('machine."old box"', 'state', 'box'), idem_attach('machine.other', 'state', 'order');
SELECT idem_guard_topic('machine.box', 'box');
SELECT idem_publish('machine.box', '1', 'k', 'packed') > 0 AS published;
UPDATE machine.box SET state = 'sent' WHERE id = 8;
-- there is still a way on
DELETE FROM idem_transitions WHERE machine = 'box' AND to_state = 'lost';
-- and now there is not
DELETE FROM idem_transitions WHERE machine = 'box' AND from_state = 'packed' :fails
UPDATE idem_transitions SET enabled = false WHERE machine = 'box' AND from_state = 'packed' :fails
UPDATE idem_transitions SET from_state = 'boxed' WHERE machine = 'box' AND from_state = 'packed' :fails
DELETE FROM idem_transitions WHERE machine = 'box' :fails
DELETE FROM idem_transitions WHERE machine = 'box' AND from_state = 'sent' :fails
-- nobody is there
UPDATE idem_transitions SET to_state = 'taken' WHERE machine = 'box' AND to_state = 'received';
-- a replacement that is added first
INSERT INTO idem_transitions VALUES ('box', 'packed', 'shipped'), ('box', 'shipped', 'taken');
DELETE FROM idem_transitions WHERE machine = 'box' AND from_state = 'packed' AND to_state = 'sent';
-- forced
BEGIN;
SET LOCAL idem.strand_rows = on;
DELETE FROM idem_transitions WHERE machine = 'box' AND from_state = 'packed';
COMMIT;
SHOW idem.strand_rows;
UPDATE machine.box SET state = 'shipped' WHERE id = 9 :fails
SELECT * FROM idem_verify();
BEGIN;
SET LOCAL idem.strand_rows = on;
DELETE FROM idem_transitions WHERE machine = 'box';
COMMIT;
SELECT * FROM idem_verify();
SELECT * FROM idem_guards() ORDER BY tbl::text, state_column;
UPDATE machine.box SET state = 'shipped' WHERE id = 9 :fails
UPDATE machine.box SET id = 7 WHERE id = 9;
SELECT idem_publish('machine.box', '1', 'k', 'sent') :fails
-- the shipped machine in use
UPDATE idem_transitions SET enabled = false WHERE machine = 'order' AND from_state = 'created' :fails
UPDATE idem_transitions SET enabled = false WHERE machine = 'order' AND to_state = 'paid';
INSERT INTO idem_transitions VALUES ('order', 'created', 'cancelled', false) :fails
-- a restore is not held up
INSERT INTO idem_transitions VALUES ('order', 'created', 'cancelled', false, true);
SHOW idem.strand_rows;

SELECT idem_unguard_topic('machine.box');
DROP SCHEMA machine CASCADE;
UPDATE idem_transitions SET enabled = true WHERE machine = 'order';
SELECT * FROM idem_transitions ORDER BY machine, from_state NULLS FIRST, to_state;
SELECT * FROM idem_verify();
-- one that is missing
SET session_replication_role = replica;
DELETE FROM idem_transitions WHERE from_state = 'paid';
SELECT idem_next_states('order', 'paid') :fails
RESET session_replication_role;
SELECT * FROM idem_verify();
INSERT INTO idem_transitions VALUES ('order', 'paid', 'completed');
SELECT * FROM idem_verify();
SELECT idem_transition_check() :fails
SELECT idem_transition_strands() :fails
CREATE TEMP TABLE other (id int);
CREATE TRIGGER other BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION idem_transition_check();
INSERT INTO other VALUES (1) :fails

\c :home
DROP DATABASE regress_idem_machine;
