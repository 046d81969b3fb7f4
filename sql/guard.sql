--
-- Guard of a user's table: every writer and path, every type of state, rows that move, what is published. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_guard;
CREATE DATABASE regress_idem_guard;
\c regress_idem_guard
SET client_min_messages = warning;
CREATE EXTENSION idem;
CREATE SCHEMA guard;
SET search_path = guard, public;

CREATE TABLE orders (id int PRIMARY KEY, state text, note text);
SELECT idem_attach('orders', 'state', 'order');
INSERT INTO orders VALUES (1, 'created'), (2, 'created'), (3, 'created');
INSERT INTO orders VALUES (4, 'paid') :fails
INSERT INTO orders VALUES (4, 'no such state') :fails
INSERT INTO orders VALUES (4, NULL) :fails
INSERT INTO orders VALUES (5, 'created'), (6, 'completed') :fails
UPDATE orders SET state = 'paid' WHERE id = 1;
UPDATE orders SET state = 'completed' WHERE id = 2 :fails
UPDATE orders SET state = 'created' WHERE id = 1 :fails
UPDATE orders SET state = NULL WHERE id = 1 :fails
UPDATE orders SET state = 'lost' WHERE id = 1 :fails
UPDATE orders SET state = 'Paid' WHERE id = 2 :fails
-- a retry does no harm, nor does another column
UPDATE orders SET state = 'paid' WHERE id = 1;
UPDATE orders SET note = 'x', state = state;
UPDATE orders SET state = 'completed' WHERE id = 1;
UPDATE orders SET state = 'cancelled' WHERE id = 1 :fails
UPDATE orders SET state = 'cancelled' WHERE id IN (2, 3);
UPDATE orders SET state = 'created' :fails
TABLE orders ORDER BY id;
-- a DELETE is not guarded, and what comes after it begins anew
DELETE FROM orders WHERE id = 1;
INSERT INTO orders VALUES (1, 'created');

-- every writer
INSERT INTO orders VALUES (1, 'created') ON CONFLICT (id) DO UPDATE SET state = 'paid';
INSERT INTO orders VALUES (1, 'created') ON CONFLICT (id) DO UPDATE SET state = excluded.state :fails
INSERT INTO orders VALUES (1, 'completed') ON CONFLICT (id) DO NOTHING;
INSERT INTO orders VALUES (7, 'completed') ON CONFLICT (id) DO UPDATE SET state = 'paid' :fails
MERGE INTO orders AS o USING (VALUES (1, 'completed'), (7, 'created')) AS v (id, state) ON o.id = v.id
WHEN MATCHED THEN UPDATE SET state = v.state WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.state);
MERGE INTO orders AS o USING (VALUES (7, 'completed')) AS v (id, state) ON o.id = v.id WHEN MATCHED THEN UPDATE SET state = v.state :fails
MERGE INTO orders AS o USING (VALUES (8, 'paid')) AS v (id, state) ON o.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.state) :fails
COPY orders FROM stdin;
8	created	copied
\.
COPY orders FROM stdin;
9	created	copied
10	paid	copied
\.
WITH paid AS (UPDATE orders SET state = 'paid' WHERE id = 7 RETURNING id) INSERT INTO orders SELECT id + 4, 'created' FROM paid;
WITH gone AS (DELETE FROM orders WHERE id = 7 RETURNING *) INSERT INTO orders SELECT * FROM gone :fails
DO $$ BEGIN
	UPDATE guard.orders SET state = 'paid' WHERE id = 8;
	BEGIN
		UPDATE guard.orders SET state = 'created' WHERE id = 8;
	EXCEPTION WHEN SQLSTATE 'ID012' THEN
		RAISE WARNING 'refused: % (%)', SQLERRM, SQLSTATE;
	END;
	UPDATE guard.orders SET state = 'completed' WHERE id = 8;
END $$;
BEGIN;
UPDATE orders SET state = 'completed' WHERE id = 7;
SAVEPOINT s;
UPDATE orders SET state = 'paid' WHERE id = 7 :fails
ROLLBACK TO s;
UPDATE orders SET state = 'completed' WHERE id = 7;
ROLLBACK;
TABLE orders ORDER BY id;

-- another BEFORE trigger has the last word, and is judged by it
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.state := TG_ARGV[0]; RETURN NEW; END $$;
CREATE TRIGGER zz BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION meddle('completed');
UPDATE orders SET note = 'meddled' WHERE id = 11 :fails
UPDATE orders SET state = 'created' WHERE id = 7;
SELECT state FROM orders WHERE id = 7;
DROP TRIGGER zz ON orders;
CREATE TRIGGER zz BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION meddle('paid');
INSERT INTO orders VALUES (12, 'created') :fails
DROP TRIGGER zz ON orders;

-- who writes needs no right on anything of idem, and finds no way around
CREATE ROLE regress_idem_guard;
GRANT USAGE ON SCHEMA guard TO regress_idem_guard;
GRANT SELECT (state), INSERT, UPDATE ON orders TO regress_idem_guard;
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.strcmp(text, text) RETURNS int LANGUAGE sql AS 'SELECT 0';
CREATE FUNCTION hostile.eq(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.eq);
CREATE TABLE hostile.idem_transitions AS SELECT 'order'::text AS machine, NULL::text AS from_state, 'paid'::text AS to_state, true AS enabled, true AS shipped;
GRANT USAGE ON SCHEMA hostile TO regress_idem_guard;
SET SESSION AUTHORIZATION regress_idem_guard;
SET search_path = hostile, pg_catalog;
INSERT INTO guard.orders VALUES (20, 'paid') :fails
INSERT INTO guard.orders VALUES (20, 'created');
UPDATE guard.orders SET state = 'completed' WHERE state OPERATOR(pg_catalog.=) 'created' :fails
SET session_replication_role = replica :fails
SELECT public.idem_attach('guard.orders', 'state', 'order') :fails
RESET search_path;
RESET SESSION AUTHORIZATION;
SET search_path = guard, public;
DROP SCHEMA hostile CASCADE;
SELECT * FROM idem_guards();
SELECT * FROM idem_verify();

-- to attach: once, with right arguments, to a table that fits
SET client_min_messages = notice;
SELECT idem_attach('orders', 'state', 'order');
SELECT idem_attach('orders', 'state', 'order', 'guard.orders') :fails
SELECT idem_attach('orders', 'note', 'order') :fails
SET client_min_messages = warning;
SELECT idem_detach('orders');
SELECT idem_detach('orders') :fails
UPDATE orders SET state = 'lost' WHERE id = 20;
UPDATE orders SET state = NULL WHERE id = 2;
SELECT idem_attach('orders', 'state', 'order') :fails
SELECT idem_attach('orders', 'note', 'order') :fails
UPDATE orders SET state = 'created' WHERE id = 20;
DELETE FROM orders WHERE id = 2;
SELECT idem_attach(NULL, 'state', 'order') :fails
SELECT idem_attach('orders', NULL, 'order') :fails
SELECT idem_attach('orders', 'state', NULL) :fails
SELECT idem_attach('orders', 'state', '') :fails
SELECT idem_attach('orders', 'state', 'no such machine') :fails
SELECT idem_attach('orders', 'no such column', 'order') :fails
SELECT idem_attach('orders', 'id', 'order') :fails
SELECT idem_attach('no_such_table', 'state', 'order') :fails
SELECT idem_attach(0::regclass, 'state', 'order') :fails
SELECT idem_attach('orders', 'state', 'order', '') :fails
SELECT idem_attach('orders', 'state', 'order', NULL, '{id}') :fails
SELECT idem_attach('orders', 'state', 'order', 't', '{}') :fails
SELECT idem_attach('orders', 'state', 'order', 't', '{id,NULL}') :fails
SELECT idem_attach('orders', 'state', 'order', 't', '{id,no_such_column}') :fails
SELECT idem_attach('orders', 'state', 'order', 't', '{{id},{note}}') :fails
SELECT idem_attach('orders_pkey', 'state', 'order') :fails
CREATE VIEW a_view AS SELECT id FROM orders;
SELECT idem_attach('a_view', 'state', 'order') :fails
CREATE TABLE keyless (state text);
SELECT idem_attach('keyless', 'state', 'order', 't') :fails
SELECT idem_detach(NULL) :fails
SELECT idem_detach('a_view') :fails
BEGIN READ ONLY;
SELECT idem_attach('orders', 'state', 'order') :fails
ROLLBACK;
SELECT idem_guard() :fails
CREATE TRIGGER wrong BEFORE INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION idem_guard('state', 'order', '');
INSERT INTO keyless VALUES ('created') :fails
DROP TRIGGER wrong ON keyless;
CREATE TRIGGER wrong AFTER INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION idem_guard('state');
INSERT INTO keyless VALUES ('created') :fails
DROP TRIGGER wrong ON keyless;
-- the caller's own rights count
SELECT public.idem_grant('regress_idem_guard', 'dba');
SET SESSION AUTHORIZATION regress_idem_guard;
SELECT public.idem_attach('guard.orders', 'state', 'order') :fails
RESET SESSION AUTHORIZATION;
GRANT TRIGGER ON orders TO regress_idem_guard;
SET SESSION AUTHORIZATION regress_idem_guard;
SELECT public.idem_attach('guard.orders', 'state', 'order');
SELECT public.idem_detach('guard.orders') :fails
SELECT count(*) FROM public.idem_verify();
INSERT INTO public.idem_transitions VALUES ('guard', NULL, 'x');
DELETE FROM public.idem_transitions WHERE machine = 'guard';
INSERT INTO public.idem_guarded_topics VALUES ('guard', 'order') :fails
DELETE FROM public.idem_outbox_states :fails
RESET SESSION AUTHORIZATION;
SET search_path = guard, public;
DROP OWNED BY regress_idem_guard;
DROP ROLE regress_idem_guard;

-- a row from before
SELECT idem_detach('orders');
INSERT INTO orders VALUES (30, NULL);
ALTER TABLE orders DISABLE TRIGGER USER;
UPDATE orders SET state = 'created' WHERE id = 30;
SELECT idem_attach('orders', 'state', 'order');
ALTER TABLE orders DISABLE TRIGGER idem_guard;
UPDATE orders SET state = NULL WHERE id = 30;
INSERT INTO orders VALUES (31, 'odd');
SELECT * FROM idem_verify();
ALTER TABLE orders ENABLE TRIGGER idem_guard;
SELECT * FROM idem_verify();
UPDATE orders SET note = 'y' WHERE id IN (30, 31);
UPDATE orders SET state = 'paid' WHERE id = 30 :fails
UPDATE orders SET state = 'created' WHERE id = 30;
UPDATE orders SET state = 'created' WHERE id = 31 :fails
DELETE FROM orders WHERE id = 31;
ALTER TABLE orders ENABLE REPLICA TRIGGER idem_guard;
SELECT * FROM idem_verify();
ALTER TABLE orders ENABLE ALWAYS TRIGGER idem_guard;
SET session_replication_role = replica;
UPDATE orders SET state = 'completed' WHERE id = 30 :fails
RESET session_replication_role;
SELECT * FROM idem_verify();
-- a column that goes
ALTER TABLE orders RENAME state TO condition;
UPDATE orders SET condition = 'paid' WHERE id = 30 :fails
SELECT * FROM idem_verify();
ALTER TABLE orders RENAME condition TO state;
ALTER TABLE orders ALTER state TYPE int USING 1;
INSERT INTO orders VALUES (32, 2) :fails
ALTER TABLE orders ALTER state TYPE text USING 'created';
ALTER TABLE orders ALTER state TYPE varchar(20);
UPDATE orders SET state = 'completed' WHERE id = 30 :fails
UPDATE orders SET state = 'paid' WHERE id = 30;

-- names that need quotes, a machine that needs them too
INSERT INTO idem_transitions VALUES ('it''s a \ "machine"', NULL, 'it''s "new\'), ('it''s a \ "machine"', 'it''s "new\', 'ö');
CREATE SCHEMA "odd ""schema'";
CREATE TABLE "odd ""schema'"."odd ""table'" ("odd ""key'" text PRIMARY KEY, "odd ""state'" text, "odd ""column'" text);
SELECT idem_attach('"odd ""schema''"."odd ""table''"', 'odd "state''', 'it''s a \ "machine"', 'guard it''s \ odd', '{"odd \"column''"}');
INSERT INTO "odd ""schema'"."odd ""table'" VALUES ('a "key''', 'it''s "new\', 'x');
UPDATE "odd ""schema'"."odd ""table'" SET "odd ""state'" = 'lost' :fails
UPDATE "odd ""schema'"."odd ""table'" SET "odd ""state'" = 'ö';
UPDATE "odd ""schema'"."odd ""table'" SET "odd ""state'" = 'it''s "new\' :fails
SELECT topic, key, type, payload FROM idem_outbox WHERE topic LIKE 'guard it%' ORDER BY id;
SELECT * FROM idem_guards() WHERE machine <> 'order';
SELECT idem_detach('"odd ""schema''"."odd ""table''"');
DROP SCHEMA "odd ""schema'" CASCADE;
DELETE FROM idem_transitions WHERE machine LIKE 'it%';

-- types
CREATE TYPE mood AS ENUM ('paid', 'created', 'completed');
CREATE DOMAIN state_text AS text CHECK (VALUE <> 'cancelled');
CREATE DOMAIN state_domain AS state_text;
CREATE DOMAIN mood_domain AS mood;
CREATE TABLE typed (id int PRIMARY KEY, t text, v varchar(20), n name, e mood, d state_domain, m mood_domain, c char(9));
CREATE FUNCTION try_type(col name) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text := '';
BEGIN
	DELETE FROM typed;
	PERFORM idem_attach('typed', col, 'order');
	BEGIN
		EXECUTE format('INSERT INTO typed (id, %I) VALUES (1, ''paid'')', col);
	EXCEPTION WHEN SQLSTATE 'ID012' THEN answer := answer || SQLERRM || '; ';
	END;
	EXECUTE format('INSERT INTO typed (id, %I) VALUES (1, ''created'')', col);
	BEGIN
		EXECUTE format('UPDATE typed SET %I = ''completed''', col);
	EXCEPTION WHEN SQLSTATE 'ID012' THEN answer := answer || SQLERRM || '; ';
	END;
	BEGIN
		EXECUTE format('UPDATE typed SET %I = NULL', col);
	EXCEPTION WHEN SQLSTATE 'ID012' THEN answer := answer || SQLERRM;
	END;
	EXECUTE format('UPDATE typed SET %1$I = ''created'', id = 2; UPDATE typed SET %1$I = ''paid''; UPDATE typed SET %1$I = ''completed''', col);
	PERFORM idem_detach('typed');
	RETURN answer;
END $$;
SELECT col, try_type(col) FROM unnest('{t,v,n,e,d,m}'::name[]) AS col;
SELECT try_type('c') :fails
SELECT try_type('id') :fails
-- a state longer than any name
DELETE FROM typed;
SELECT idem_attach('typed', 't', 'order');
INSERT INTO typed (id, t) VALUES (3, 'created');
UPDATE typed SET t = repeat('x', 300) WHERE id = 3 :fails
SELECT idem_detach('typed');

-- partitions, and rows that move between them
CREATE TABLE parted (id int, region text, state text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE parted_us (state text, dropped int, region text NOT NULL, id int NOT NULL);
ALTER TABLE parted_us DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION parted_us FOR VALUES IN ('us');
CREATE TABLE parted_else PARTITION OF parted DEFAULT PARTITION BY RANGE (id);
CREATE TABLE parted_else_1 PARTITION OF parted_else FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_else_2 PARTITION OF parted_else DEFAULT;
SELECT idem_attach('parted', 'state', 'order', 'guard.parted');
SELECT idem_attach('parted_eu', 'state', 'order') :fails
SELECT idem_detach('parted_eu') :fails
INSERT INTO parted VALUES (1, 'eu', 'created'), (2, 'us', 'created'), (3, 'asia', 'created');
INSERT INTO parted VALUES (4, 'us', 'paid') :fails
INSERT INTO parted_us (id, region, state) VALUES (4, 'us', 'paid') :fails
UPDATE parted SET state = 'paid' WHERE id = 2;
UPDATE parted_us SET state = 'created' WHERE id = 2 :fails
-- moves: as it is, a step on, a step back, over two steps
UPDATE parted SET region = 'us' WHERE id = 1;
UPDATE parted SET region = 'eu', state = 'paid' WHERE id = 1;
UPDATE parted SET region = 'us', state = 'created' WHERE id = 1 :fails
UPDATE parted SET region = 'eu', state = 'completed' WHERE id = 3 :fails
UPDATE parted SET region = 'mars', id = 300 WHERE id = 3;
UPDATE parted SET region = CASE region WHEN 'eu' THEN 'us' WHEN 'us' THEN 'eu' ELSE 'pluto' END, id = id + 10;
UPDATE parted SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END, state = 'completed' WHERE region IN ('us', 'eu');
SELECT tableoid::regclass, * FROM parted ORDER BY id;
SELECT key, type, payload FROM idem_outbox WHERE topic = 'guard.parted' ORDER BY id;
-- by MERGE
MERGE INTO parted AS p USING (VALUES (310, 'eu', 'cancelled')) AS v (id, region, state) ON p.id = v.id WHEN MATCHED THEN UPDATE SET region = v.region, state = v.state;
SELECT tableoid::regclass, * FROM parted WHERE id = 310;
-- a deletion and an insertion in one statement are no move
INSERT INTO parted VALUES (10, 'eu', 'created');
UPDATE parted SET state = 'paid' WHERE id = 10;
WITH gone AS (DELETE FROM parted WHERE id = 10 RETURNING *) INSERT INTO parted SELECT id, 'us', state FROM gone :fails
WITH moved AS (UPDATE parted SET region = 'us' WHERE id = 10 RETURNING *) INSERT INTO parted SELECT id + 1, 'us', 'completed' FROM moved :fails
WITH moved AS (UPDATE parted SET region = 'us' WHERE id = 10 RETURNING *), gone AS (DELETE FROM parted WHERE id = 310 RETURNING *) INSERT INTO parted SELECT 310, 'us', 'completed' FROM moved, gone :fails
SELECT tableoid::regclass, * FROM parted ORDER BY id;
-- what other triggers do between the two halves is judged on its own, and the move still ends well
CREATE TABLE log (n serial, what text);
CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 THEN
		RETURN NULL;
	END IF;
	BEGIN
		INSERT INTO guard.parted VALUES (99, 'eu', 'completed');
		INSERT INTO guard.log (what) VALUES (TG_OP || ': was not refused');
	EXCEPTION WHEN SQLSTATE 'ID012' THEN
		INSERT INTO guard.log (what) VALUES (TG_OP || ': ' || SQLERRM);
	END;
	-- a move within the move
	INSERT INTO guard.parted VALUES (98, 'us', 'created');
	UPDATE guard.parted SET state = 'paid', region = 'eu' WHERE id = 98;
	UPDATE guard.parted SET state = 'completed', region = 'us' WHERE id = 98;
	DELETE FROM guard.parted WHERE id = 98;
	RETURN NULL;
END $$;
CREATE TRIGGER zz_nested AFTER DELETE ON parted FOR EACH ROW EXECUTE FUNCTION nested();
CREATE TRIGGER aa_nested AFTER INSERT ON parted FOR EACH ROW EXECUTE FUNCTION nested();
UPDATE parted SET region = 'us' WHERE id = 10;
SELECT what FROM log ORDER BY n;
SELECT tableoid::regclass, * FROM parted WHERE id IN (10, 98, 99);
DROP TRIGGER zz_nested ON parted;
DROP TRIGGER aa_nested ON parted;
INSERT INTO parted VALUES (20, 'us', 'created');
UPDATE parted SET state = 'paid' WHERE id = 20;
-- a row that another trigger drops on its way leaves nothing that could be taken for its origin
CREATE FUNCTION dropped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER dropped BEFORE INSERT ON parted_eu FOR EACH ROW EXECUTE FUNCTION dropped();
BEGIN;
UPDATE parted SET region = 'eu' WHERE id = 10;
INSERT INTO parted VALUES (10, 'us', 'completed') :fails
ROLLBACK;
BEGIN;
UPDATE parted SET region = 'eu' WHERE id = 10;
SAVEPOINT s;
INSERT INTO parted VALUES (10, 'us', 'completed') :fails
ROLLBACK TO s;
UPDATE parted SET region = 'mars', state = 'completed' WHERE id = 20;
SELECT tableoid::regclass, * FROM parted WHERE id IN (10, 20);
ROLLBACK;
CREATE FUNCTION move_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE guard.parted SET region = 'eu' WHERE id = 10; RETURN NULL; END $$;
CREATE TRIGGER aa_move AFTER INSERT ON parted_us FOR EACH ROW EXECUTE FUNCTION move_one();
INSERT INTO parted VALUES (22, 'us', 'completed') :fails
DROP TRIGGER aa_move ON parted_us;
DROP TRIGGER dropped ON parted_eu;
-- another BEFORE trigger changes the state while it moves
CREATE TRIGGER zz BEFORE INSERT ON parted_eu FOR EACH ROW EXECUTE FUNCTION meddle('created');
UPDATE parted SET region = 'eu' WHERE id = 10 :fails
DROP TRIGGER zz ON parted_eu;
-- a partition's own trigger can be off
ALTER TABLE parted_us DISABLE TRIGGER idem_guard;
UPDATE parted_us SET state = 'odd' WHERE id = 10;
SELECT * FROM idem_verify();
UPDATE parted_us SET state = 'paid' WHERE id = 10;
ALTER TABLE parted_us ENABLE TRIGGER idem_guard;
-- partitions that come and go
CREATE TABLE parted_af PARTITION OF parted FOR VALUES IN ('af');
INSERT INTO parted VALUES (21, 'af', 'paid') :fails
ALTER TABLE parted DETACH PARTITION parted_af;
INSERT INTO parted_af VALUES (21, 'af', 'paid');
SELECT * FROM idem_verify();
DROP TABLE parted_af;
-- a large move keeps nothing in memory
INSERT INTO parted SELECT i, 'eu', 'created' FROM generate_series(1001, 6000) AS i;
BEGIN;
UPDATE parted SET region = 'us' WHERE id > 1000;
SELECT total_bytes < 100000 AS small FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext';
ROLLBACK;
SELECT idem_detach('parted');

-- what is published: each transition, once
CREATE TABLE published (id uuid PRIMARY KEY, state text, amount numeric, at timestamptz, hidden text);
SELECT idem_attach('published', 'state', 'order', 'guard.published', '{amount,state}');
INSERT INTO published VALUES ('00000000-0000-0000-0000-000000000001', 'created', 1.50);
UPDATE published SET state = 'created', amount = 2;
UPDATE published SET state = 'paid';
UPDATE published SET state = 'paid', hidden = 'x';
BEGIN; UPDATE published SET state = 'completed'; ROLLBACK;
UPDATE published SET state = 'completed';
SELECT key, type, payload, headers FROM idem_outbox WHERE topic = 'guard.published' ORDER BY id;
ALTER TABLE published DROP CONSTRAINT published_pkey;
INSERT INTO published VALUES ('00000000-0000-0000-0000-000000000002', 'created') :fails
DROP TABLE published;
-- by who has no right on anything of idem
CREATE TABLE published (id int PRIMARY KEY, state text);
SELECT idem_attach('published', 'state', 'order', 'guard.nobody');
CREATE ROLE regress_idem_guard;
GRANT USAGE ON SCHEMA guard TO regress_idem_guard;
GRANT INSERT ON published TO regress_idem_guard;
SET SESSION AUTHORIZATION regress_idem_guard;
INSERT INTO guard.published VALUES (1, 'created');
SELECT public.idem_publish('guard.nobody', '1') :fails
RESET SESSION AUTHORIZATION;
SET search_path = guard, public;
SELECT key, type, payload FROM idem_outbox WHERE topic = 'guard.nobody';
DROP OWNED BY regress_idem_guard;
DROP ROLE regress_idem_guard;
DROP TABLE published;
-- keys do not depend on a session's settings; the whole row; large values
CREATE TABLE published (at timestamptz, x interval, data bytea, state text, big text, PRIMARY KEY (at, x, data));
SELECT idem_attach('published', 'state', 'order', 'guard.keys');
SET timezone = 'Asia/Tokyo'; SET datestyle = 'german'; SET intervalstyle = 'iso_8601'; SET bytea_output = 'escape';
INSERT INTO published VALUES ('2026-01-02 03:04:05+00', '90 min', '\x00ff', 'created', repeat('y', 100000));
RESET timezone; RESET datestyle; RESET intervalstyle; RESET bytea_output;
UPDATE published SET state = 'paid';
SELECT key, type, length(payload ->> 'big') FROM idem_outbox WHERE topic = 'guard.keys' ORDER BY id;
-- the topic may be guarded as well
SELECT idem_guard_topic('guard.keys', 'order');
UPDATE published SET state = 'completed';
SELECT state FROM idem_outbox_states WHERE topic = 'guard.keys';
DELETE FROM published;
INSERT INTO published VALUES ('2026-01-02 03:04:05+00', '90 min', '\x00ff', 'created') :fails
SELECT idem_unguard_topic('guard.keys');
SELECT * FROM idem_verify();

-- the table carries its guard along, and the extension does not leave it behind
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'published'::regclass AND NOT tgisinternal;
CREATE TABLE inherits () INHERITS (orders);
INSERT INTO inherits VALUES (40, 'paid');
SELECT * FROM idem_verify();
CREATE TEMP TABLE temporary (id int PRIMARY KEY, state text);
SELECT idem_attach('temporary', 'state', 'order', 'guard.temporary');
INSERT INTO temporary VALUES (1, 'created');
INSERT INTO temporary VALUES (2, 'paid') :fails
DROP EXTENSION idem :fails
DROP TABLE temporary;
RESET search_path;
DROP SCHEMA guard CASCADE;
SELECT * FROM idem_guards();
SELECT * FROM idem_verify();

\c :home
DROP DATABASE regress_idem_guard;
