--
-- Handlers: who they run as, and what neither they nor their callers can do.
-- In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_handler;
DROP ROLE IF EXISTS regress_idem_registrant, regress_idem_second, regress_idem_caller, regress_idem_dropped;
CREATE DATABASE regress_idem_handler;
\c regress_idem_handler
CREATE EXTENSION idem;
CREATE ROLE regress_idem_registrant;
CREATE ROLE regress_idem_second;
CREATE ROLE regress_idem_caller;
CREATE ROLE regress_idem_dropped;
SELECT idem_grant(r, 'app') FROM unnest('{regress_idem_registrant,regress_idem_second,regress_idem_caller,regress_idem_dropped}'::name[]) AS r;

-- the handlers' schema and table: the caller may do nothing there
CREATE SCHEMA regress_idem_h;
GRANT USAGE, CREATE ON SCHEMA regress_idem_h TO regress_idem_registrant, regress_idem_second, regress_idem_dropped;
CREATE TABLE regress_idem_h.ledger (n int GENERATED ALWAYS AS IDENTITY, what text, by text DEFAULT current_user);
GRANT INSERT ON regress_idem_h.ledger TO regress_idem_registrant, regress_idem_second;
CREATE TABLE regress_idem_h.secret (what text);

CREATE PROCEDURE register(key text, handler text, args jsonb = NULL) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key, scope => 'handler');
	PERFORM idem_compensate_with(key, handler::regprocedure, args, 'handler');
	PERFORM idem_complete(key, '1', 'handler');
END $$;
CREATE PROCEDURE register_all(VARIADIC statements text[]) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. array_length(statements, 1) LOOP
		CALL register('run ' || i, 'regress_idem_h.run(jsonb)', to_jsonb(statements[i]));
	END LOOP;
END $$;
CREATE FUNCTION cancel(key text) RETURNS text LANGUAGE sql AS $$SELECT concat_ws(' ', status, response -> 'results', response - 'results' - 'cancelled_at' - 'message') FROM idem_cancel(key, 'test', 'handler')$$;

SET SESSION AUTHORIZATION regress_idem_registrant;
CREATE FUNCTION regress_idem_h.who(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_idem_h.ledger (what) VALUES ('who');
	RETURN jsonb_build_object('current', current_user, 'session', session_user = current_user, 'path', current_setting('search_path'));
END $$;
REVOKE EXECUTE ON FUNCTION regress_idem_h.who FROM PUBLIC;
CALL register('by the caller', 'regress_idem_h.who(jsonb)');
CALL register('by a superuser', 'regress_idem_h.who(jsonb)');
CALL register('by a superuser as the registrant', 'regress_idem_h.who(jsonb)');
CALL register('two roles', 'regress_idem_h.who(jsonb)');
-- only what the registrant may execute itself
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_idem_caller;
CALL register('not executable', 'regress_idem_h.who(jsonb)') :fails
RESET SESSION AUTHORIZATION;
DO $$
BEGIN
	SET LOCAL ROLE regress_idem_caller;
	PERFORM idem_claim('not executable', scope => 'handler');
	PERFORM idem_compensate_with('not executable', (SELECT oid FROM pg_proc WHERE proname = 'who' AND pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'regress_idem_h')), '1', 'handler');
END $$ :fails

-- as the registrant, whoever calls
SET SESSION AUTHORIZATION regress_idem_caller;
SELECT cancel('by the caller');
SELECT current_user, current_setting('search_path');
RESET SESSION AUTHORIZATION;
SELECT cancel('by a superuser');
SELECT current_user = session_user AS unchanged, current_setting('search_path');
-- a superuser who plays the role is still one
SET ROLE regress_idem_registrant;
SELECT cancel('by a superuser as the registrant');
RESET ROLE;
SELECT what, by FROM regress_idem_h.ledger ORDER BY n;
TRUNCATE regress_idem_h.ledger;

-- handlers of two roles under one key: each as its own
BEGIN;
SELECT status FROM idem_claim('both', scope => 'handler');
GRANT EXECUTE ON FUNCTION regress_idem_h.who TO regress_idem_second;
SET LOCAL ROLE regress_idem_registrant;
SELECT idem_compensate_with('both', 'regress_idem_h.who(jsonb)', NULL, 'handler');
SET LOCAL ROLE regress_idem_second;
SELECT idem_compensate_with('both', 'regress_idem_h.who(jsonb)', NULL, 'handler');
SELECT idem_complete('both', '1', 'handler');
COMMIT;
SELECT cancel('both');
SELECT by FROM regress_idem_h.ledger ORDER BY n;

--
-- Escalation: the handler's author against a superuser who cancels
--
SET SESSION AUTHORIZATION regress_idem_registrant;
CREATE FUNCTION regress_idem_h.run(sql jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE sql #>> '{}' INTO answer;
	RETURN to_jsonb(answer);
END $$;
CALL register_all(
	'SET ROLE NONE',
	'SET ROLE regress_idem_caller',
	'SET SESSION AUTHORIZATION DEFAULT',
	'RESET SESSION AUTHORIZATION',
	'RESET ROLE',
	'SELECT set_config(''role'', ''none'', false)',
	'INSERT INTO regress_idem_h.secret VALUES (''stolen'') RETURNING what',
	'CREATE TEMP TABLE planted (i int)',
	'PREPARE planted AS SELECT 1',
	'DECLARE planted CURSOR WITH HOLD FOR SELECT 1',
	'LISTEN planted',
	'SELECT set_config(''search_path'', ''regress_idem_h'', false)');
RESET SESSION AUTHORIZATION;
CREATE FUNCTION attempt(key text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN cancel(key);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT i, attempt('run ' || i) FROM generate_series(1, 12) AS i ORDER BY i;
-- what the last one set is not left behind
SELECT current_user = session_user AS unchanged, current_setting('search_path');
-- nor by a superuser who plays the role, in whichever way
SET ROLE regress_idem_registrant;
SELECT i, attempt('run ' || i) FROM generate_series(1, 6) AS i ORDER BY i;
RESET ROLE;
SET SESSION AUTHORIZATION regress_idem_registrant;
SELECT i, attempt('run ' || i) FROM generate_series(1, 6) AS i ORDER BY i;
RESET SESSION AUTHORIZATION;
SELECT count(*) AS stolen FROM regress_idem_h.secret;

--
-- Escalation: a caller against the handler's role
--
SET SESSION AUTHORIZATION regress_idem_registrant;
-- careless: not a name in it is qualified, and it has no search_path
CREATE FUNCTION regress_idem_h.careless(args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN to_jsonb(lower(args #>> '{}') || (1 + 1)::text);
END $$;
-- one that trusts its search_path, which looks into pg_temp first
CREATE FUNCTION regress_idem_h.trusting(args jsonb) RETURNS void LANGUAGE sql SET search_path = regress_idem_h AS $$INSERT INTO ledger (what) VALUES ('trusting')$$;
CALL register('careless', 'regress_idem_h.careless(jsonb)', '"OK"');
CALL register('trusting', 'regress_idem_h.trusting(jsonb)');
CALL register('trusting by a superuser', 'regress_idem_h.trusting(jsonb)');
CALL register('trusting too', 'regress_idem_h.trusting(jsonb)');
CALL register('deferred', 'regress_idem_h.who(jsonb)');
RESET SESSION AUTHORIZATION;
CREATE SCHEMA regress_idem_evil AUTHORIZATION regress_idem_caller;
SET SESSION AUTHORIZATION regress_idem_caller;
CREATE TABLE regress_idem_evil.loot (how text, as_whom text DEFAULT current_user);
GRANT USAGE ON SCHEMA regress_idem_evil TO PUBLIC;
GRANT ALL ON regress_idem_evil.loot TO PUBLIC;
CREATE FUNCTION regress_idem_evil.lower(text) RETURNS text LANGUAGE sql AS $$INSERT INTO regress_idem_evil.loot VALUES ('function'); SELECT $1$$;
CREATE FUNCTION regress_idem_evil.plus(int, int) RETURNS int LANGUAGE sql AS $$INSERT INTO regress_idem_evil.loot VALUES ('operator'); SELECT 0$$;
CREATE OPERATOR regress_idem_evil.+ (FUNCTION = regress_idem_evil.plus, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION regress_idem_evil.trigger() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO regress_idem_evil.loot VALUES (TG_ARGV[0]); RETURN NEW; END $$;
-- shadowed functions and operators
SET search_path = regress_idem_evil, pg_catalog, public;
SELECT lower('X'), 1 + 1 AS shadowed;
SELECT cancel('careless');
RESET search_path;
-- its own deferred trigger fires as itself
CREATE TABLE regress_idem_evil.bait (i int);
CREATE CONSTRAINT TRIGGER bait AFTER INSERT ON regress_idem_evil.bait DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION regress_idem_evil.trigger('deferred trigger');
BEGIN;
INSERT INTO regress_idem_evil.bait VALUES (1);
SELECT cancel('deferred');
COMMIT;
-- a temporary type, table and trigger in the place of others
CREATE DOMAIN pg_temp.jsonb AS text;
CREATE TEMP TABLE ledger (what text);
GRANT ALL ON ledger TO PUBLIC;
CREATE TRIGGER ledger BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION regress_idem_evil.trigger('temporary table');
SELECT cancel('trusting') :fails
SELECT * FROM regress_idem_evil.loot ORDER BY how;
DROP TABLE ledger;
SELECT cancel('trusting') :fails
DISCARD TEMP;
SELECT cancel('trusting');
RESET SESSION AUTHORIZATION;
-- who could become the role anyway may
CREATE TEMP TABLE harmless ();
SELECT cancel('trusting by a superuser');
GRANT regress_idem_registrant TO regress_idem_caller;
SET SESSION AUTHORIZATION regress_idem_caller;
SELECT cancel('trusting too');
RESET SESSION AUTHORIZATION;
REVOKE regress_idem_registrant FROM regress_idem_caller;
DISCARD TEMP;

-- a deferred constraint cannot be met under restriction: the error says so
CREATE TABLE regress_idem_h.parent (i int PRIMARY KEY);
CREATE TABLE regress_idem_h.child (i int REFERENCES regress_idem_h.parent DEFERRABLE INITIALLY DEFERRED);
GRANT INSERT, SELECT ON regress_idem_h.child TO regress_idem_registrant;
SET SESSION AUTHORIZATION regress_idem_registrant;
CALL register('deferred constraint', 'regress_idem_h.run(jsonb)', '"INSERT INTO regress_idem_h.child VALUES (NULL) RETURNING i"');
RESET SESSION AUTHORIZATION;
SELECT cancel('deferred constraint') :fails
SELECT state FROM idem_compensations WHERE key = 'deferred constraint';
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT cancel('deferred constraint');
COMMIT;

-- SECURITY DEFINER is the author's own choice
CREATE FUNCTION regress_idem_h.definer(jsonb) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$SELECT to_jsonb(current_user <> 'regress_idem_registrant')$$;
SET SESSION AUTHORIZATION regress_idem_registrant;
CALL register('definer', 'regress_idem_h.definer(jsonb)');
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_idem_caller;
SELECT cancel('definer');
RESET SESSION AUTHORIZATION;

--
-- A handler that was dropped, changed, or lost its EXECUTE; a role that is gone
--
SET SESSION AUTHORIZATION regress_idem_registrant;
CREATE FUNCTION regress_idem_h."Odd ""name(1)"(jsonb) RETURNS void LANGUAGE sql AS '';
CALL register('changing', 'regress_idem_h."Odd ""name(1)"(jsonb)');
RESET SESSION AUTHORIZATION;
SELECT handlers -> 0 ->> 'handler' AS handler FROM idem_compensations WHERE key = 'changing';
DROP FUNCTION regress_idem_h."Odd ""name(1)";
SELECT cancel('changing') :fails
CREATE FUNCTION regress_idem_h."Odd ""name(1)"(jsonb, text = NULL) RETURNS void LANGUAGE sql AS '';
SELECT cancel('changing') :fails
CREATE PROCEDURE regress_idem_h."Odd ""name(1)"(jsonb) LANGUAGE sql AS '';
SELECT cancel('changing') :fails
DROP PROCEDURE regress_idem_h."Odd ""name(1)"(jsonb);
CREATE FUNCTION regress_idem_h."Odd ""name(1)"(jsonb) RETURNS text LANGUAGE sql AS $$SELECT ''$$;
SELECT cancel('changing') :fails
DROP FUNCTION regress_idem_h."Odd ""name(1)"(jsonb);
CREATE FUNCTION regress_idem_h."Odd ""name(1)"(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT to_jsonb(current_user)$$;
REVOKE EXECUTE ON FUNCTION regress_idem_h."Odd ""name(1)"(jsonb) FROM PUBLIC;
SELECT cancel('changing') :fails
SELECT state FROM idem_compensations WHERE key = 'changing';
GRANT EXECUTE ON FUNCTION regress_idem_h."Odd ""name(1)"(jsonb) TO regress_idem_registrant;
SELECT cancel('changing');

SET SESSION AUTHORIZATION regress_idem_dropped;
CALL register('dropped role', 'regress_idem_h.definer(jsonb)');
CALL register('dropped schema', 'regress_idem_h.definer(jsonb)');
RESET SESSION AUTHORIZATION;
UPDATE idem_pinned SET handlers = replace(handlers::text, 'regress_idem_h', 'regress_idem_gone')::jsonb WHERE key = 'dropped schema';
SELECT cancel('dropped schema') :fails
DROP OWNED BY regress_idem_dropped;
DROP ROLE regress_idem_dropped;
SELECT cancel('dropped role') :fails
SELECT state FROM idem_compensations WHERE key = 'dropped role';
-- what is stored is damaged
UPDATE idem_pinned SET handlers = '[1]' WHERE key = 'dropped role';
SELECT cancel('dropped role') :fails

SELECT * FROM idem_verify();

\c :home
DROP DATABASE regress_idem_handler;
DROP ROLE regress_idem_registrant, regress_idem_second, regress_idem_caller;
