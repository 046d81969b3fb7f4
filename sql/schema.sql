--
-- Any schema, any search_path, and nothing left behind. In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_schema;
DROP ROLE IF EXISTS regress_idem_schema;
CREATE DATABASE regress_idem_schema;
\c regress_idem_schema
\set SHOW_CONTEXT never

-- every verb and every view, of the schema s
\set use 'BEGIN; SELECT status FROM :s.idem_claim(''k'', ''{"a": 1}'', ttl => ''1 day''); '
\set use :use 'SELECT pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AS mine FROM :s.idem_holders; '
\set use :use 'SELECT :s.idem_complete(''k'', ''{"done": true}''); COMMIT; '
\set use :use 'SELECT status, response FROM :s.idem_claim(''k'', ''{"a": 1.0}''); SELECT status FROM :s.idem_claim(''k'', ''{"a": 2}''); '
\set use :use 'BEGIN; SELECT status FROM :s.idem_claim(''other''); SELECT :s.idem_release(''other''); COMMIT; '
\set use :use 'SELECT status, response FROM :s.idem_status(''k''); SELECT :s.idem_digest(''k''); '
\set use :use 'SELECT key, status, response FROM :s.idem_keys; SELECT pg_catalog.count(*) FROM :s.idem_stores; '
\set use :use 'SELECT :s.idem_subscribe(''c'', ARRAY[''t'']); SELECT :s.idem_publish(''t'', ''{"a": 1}''); INSERT INTO :s.idem_outbox (topic, payload) VALUES (''t'', ''2'') RETURNING id; '
\set use :use 'SELECT consumer, depth FROM :s.idem_consumers; SELECT id, payload, :s.idem_ack(''c'', batch) FROM :s.idem_fetch(''c'', 1, ''1 s''); SELECT consumer, depth FROM :s.idem_consumers; '
\set use :use 'SELECT :s.idem_consume(''s'', ''m''), :s.idem_consume_seq(''s'', 1, 1); SELECT * FROM :s.idem_delivered(1); SELECT * FROM :s.idem_delivered(2); '
\set use :use 'SELECT id, :s.idem_nack(''c'', batch, id, ''bad'', ''0''), :s.idem_ack(''c'', batch) FROM :s.idem_fetch(''c''); SELECT consumer, lane, parked, dead FROM :s.idem_consumers; SELECT * FROM :s.idem_verify(); '
\set use :use 'SET idem.max_attempts = 1; SELECT id, :s.idem_nack(''c'', batch, id, ''bad''), :s.idem_ack(''c'', batch) FROM :s.idem_fetch(''c''); RESET idem.max_attempts; '
\set use :use 'SELECT consumer, id, error FROM :s.idem_dead_letters; SELECT d.* FROM :s.idem_dead_letters AS l, :s.idem_delivered(l.id) AS d; SELECT :s.idem_redrive(''c'', id) FROM :s.idem_dead_letters; SELECT id, :s.idem_ack(''c'', batch) FROM :s.idem_fetch(''c'', lane => 0); '
\set use :use 'SELECT pg_catalog.length(:s.idem_incarnation()) OPERATOR(pg_catalog.>) 5 AS incarnation; '
\set use :use 'SELECT :s.idem_subscribe(''c'', ARRAY[''t''], lanes => 3); SELECT :s.idem_subscribe(''x'', external => true, start => ''earliest''); SELECT pg_catalog.count(*) FROM :s.idem_fetch(''x''); SELECT seq, id, :s.idem_ack(''x'', batch) FROM :s.idem_fetch(''x'', 1); SELECT consumer, lane, depth FROM :s.idem_consumers ORDER BY 1, 2; SELECT :s.idem_unsubscribe(''x''); '
\set use :use 'SELECT :s.idem_seek(''c'', ''2000-01-01''); SELECT :s.idem_unsubscribe(''c''); '
\set use :use 'CALL :s.idem_maintain(); SELECT * FROM :s.idem_verify(); SELECT :s.idem_evict(''k'');'
-- and a table and a topic that are guarded
\set guard 'CREATE TABLE :s.guarded (id pg_catalog.int4 PRIMARY KEY, state pg_catalog.text); '
\set guard :guard 'SELECT :s.idem_attach(c.oid, ''state'', ''order'', ''g'') FROM pg_catalog.pg_class AS c WHERE c.relname OPERATOR(pg_catalog.=) ''guarded''::pg_catalog.name; '
\set guard :guard 'INSERT INTO :s.guarded VALUES (1, ''created''); UPDATE :s.guarded SET state = ''completed''; SELECT :s.idem_guard_topic(''g'', ''order''); UPDATE :s.guarded SET state = ''paid''; '
\set guard :guard 'SELECT key, state FROM :s.idem_outbox_states; SELECT :s.idem_next_states(''order'', ''created''); SELECT :s.idem_publish(''g'', ''1'', ''1'', ''paid''); '
\set guard :guard 'UPDATE :s.idem_transitions SET enabled = false WHERE machine OPERATOR(pg_catalog.=) ''order''::pg_catalog.text AND to_state OPERATOR(pg_catalog.=) ''completed''::pg_catalog.text; INSERT INTO :s.idem_transitions VALUES (''order'', ''paid'', ''completed''); '
\set guard :guard 'SELECT :s.idem_unguard_topic(''g''); SELECT tbl, enabled, stray_rows FROM :s.idem_guards(); DROP TABLE :s.guarded;'

-- what the catalogs hold
CREATE FUNCTION catalogs() RETURNS TABLE (catalog regclass, rows bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR catalog IN SELECT oid FROM pg_class
		WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared AND relname NOT LIKE 'pg_statistic%'
	LOOP
		EXECUTE format('SELECT count(*) FROM %s', catalog) INTO rows;
		RETURN NEXT;
	END LOOP;
	SELECT 'pg_shdepend', count(*) INTO catalog, rows FROM pg_shdepend WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database());
	RETURN NEXT;
END $$;
CREATE SCHEMA "Odd schema-name.é $x %s ""; --";
CREATE TABLE before AS SELECT * FROM catalogs() WITH NO DATA;
CREATE TABLE dependency_before AS SELECT * FROM pg_depend WITH NO DATA;
INSERT INTO before SELECT * FROM catalogs();
INSERT INTO dependency_before SELECT * FROM pg_depend;

-- a schema with an odd name, that is not in the search_path
CREATE EXTENSION idem SCHEMA "Odd schema-name.é $x %s ""; --";
\set s '"Odd schema-name.é $x %s ""; --"'
:use
:guard
-- all of it is there and nothing elsewhere
SELECT n.nspname
FROM pg_depend AS d LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
     LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
     LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
     JOIN pg_namespace AS n ON n.oid = coalesce(c.relnamespace, p.pronamespace, t.typnamespace)
WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem')
GROUP BY n.nspname;
DROP EXTENSION idem;
-- nothing is left
SELECT catalog, a.rows - b.rows AS left_behind FROM catalogs() AS a FULL JOIN before AS b USING (catalog) WHERE a.rows IS DISTINCT FROM b.rows;
SELECT count(*) AS left_behind FROM (SELECT * FROM pg_depend EXCEPT SELECT * FROM dependency_before) AS d;
SELECT count(*) AS missing FROM (SELECT * FROM dependency_before EXCEPT SELECT * FROM pg_depend) AS d;
SELECT :s.idem_digest('k') :fails

-- the first schema of the search_path
CREATE SCHEMA first;
SET search_path = first, public;
CREATE EXTENSION idem;
SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'idem';
SELECT status FROM idem_claim('k') :fails
RESET search_path;
\set s first
:use
:guard

-- it stays where it is, but the schema may be renamed, or dropped with all that is in it
ALTER EXTENSION idem SET SCHEMA public :fails
BEGIN; SELECT status FROM first.idem_claim('renamed'); SELECT first.idem_complete('renamed', '1'); COMMIT;
ALTER SCHEMA first RENAME TO second;
SELECT status FROM second.idem_claim('renamed');
CREATE ROLE regress_idem_schema;
SELECT second.idem_grant('regress_idem_schema', 'dba');
SET ROLE regress_idem_schema;
SELECT key FROM second.idem_keys;
SELECT * FROM second.idem_verify();
RESET ROLE;
DROP TABLE second.idem_ring :fails
-- a claim that is open while the extension goes
BEGIN;
SELECT status FROM second.idem_claim('open');
DROP EXTENSION idem;
COMMIT :fails
SELECT status FROM second.idem_claim('renamed');
\set VERBOSITY terse
DROP SCHEMA second CASCADE;
\set VERBOSITY default
SELECT count(*) FROM pg_extension WHERE extname = 'idem';

-- nowhere to go
SET search_path = '';
CREATE EXTENSION idem :fails
CREATE EXTENSION idem SCHEMA no_such_schema :fails
RESET search_path;

-- traps: whatever the extension would use by its bare name is in hostile, and says so when used
CREATE SCHEMA hostile;
CREATE SCHEMA decoy;
DO $$
DECLARE
	t text; o text; f text;
BEGIN
	FOREACH t IN ARRAY '{int2,int4,int8,text,timestamptz,interval,oid,bool,name,xid8}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION hostile.trap(pg_catalog.%s, pg_catalog.%1$s) RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN RAISE ''trapped''; END $f$', t);
		FOREACH o IN ARRAY '{=,<>,<,>,<=,>=,+,-,/,|,<<}'::text[] LOOP
			EXECUTE format('CREATE OPERATOR hostile.%s (FUNCTION = hostile.trap, LEFTARG = pg_catalog.%s, RIGHTARG = pg_catalog.%2$s)', o, t);
		END LOOP;
	END LOOP;
	FOREACH f IN ARRAY '{now(),clock_timestamp(),pg_backend_pid(),current_database(),format(text\,text),format(text\,text\,text),format(text\,bigint\,bigint),format(text\,int4),count(anyelement),array_agg(anyelement),isfinite(timestamptz),make_interval(float8),pg_relation_size(regclass),pg_total_relation_size(regclass),pg_stat_get_live_tuples(oid),generate_series(int4\,int4),concat(text\,text\,text\,int4),pg_control_system(),pg_snapshot_xmax(pg_snapshot),pg_current_snapshot(),pg_current_xact_id_if_assigned()}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION hostile.%s RETURNS int4 LANGUAGE plpgsql AS $f$ BEGIN RAISE ''trapped''; END $f$', f);
	END LOOP;
	FOREACH t IN ARRAY '{int2,int4,int8,text,timestamptz,interval,jsonb,bytea,bool,name,xid8,oid,regclass,record}'::text[] LOOP
		EXECUTE format('CREATE DOMAIN hostile.%I AS pg_catalog.text CHECK (false)', t);
	END LOOP;
	FOREACH t IN ARRAY '{idem_ring,idem_keys,idem_keys_0,idem_keys_1,idem_keys_2,idem_inbox_0,idem_inbox_1,idem_inbox_2,idem_outbox_0,idem_outbox_1,idem_outbox_2,idem_positions_0,idem_positions_1,idem_positions_2,idem_watermarks_0,idem_watermarks_1,idem_watermarks_2,idem_pinned,idem_holders,idem_stores,idem_outbox,idem_outbox_ids,idem_subscriptions,idem_consumers,idem_compensations,pg_sequence,pg_depend,pg_class,pg_index,pg_locks,pg_stat_activity,pg_database,pg_extension}'::text[] LOOP
		EXECUTE format('CREATE VIEW decoy.%I AS SELECT 1/0 AS digest', t);
		EXECUTE format('CREATE TEMP VIEW %I AS SELECT 1/0 AS digest', t);
	END LOOP;
	CREATE FUNCTION decoy.idem_digest(text, text = '') RETURNS bigint LANGUAGE plpgsql AS $f$ BEGIN RAISE 'trapped'; END $f$;
END $$;
SET search_path = pg_temp, decoy, hostile, pg_catalog, public;
SELECT 1 = 1 :fails
SELECT now() :fails
CREATE EXTENSION idem SCHEMA public;
\set s public
:use
:guard
SELECT public.idem_grant('regress_idem_schema', 'dba');
SET ROLE regress_idem_schema;
:use
RESET ROLE;
DROP EXTENSION idem;
-- into the midst of them
CREATE EXTENSION idem SCHEMA hostile;
\set s hostile
:use
:guard
DROP EXTENSION idem;

\c :home
DROP DATABASE regress_idem_schema;
DROP ROLE regress_idem_schema;
