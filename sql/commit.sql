--
-- A claim left open is an error at COMMIT, wherever the commit comes from.
--
\set fails '\\g \\echo :SQLSTATE'
\set SHOW_CONTEXT never
CREATE TABLE commit_work (id int);

-- nothing of the transaction is kept
BEGIN;
SELECT status FROM idem_claim('left open');
INSERT INTO commit_work VALUES (1);
COMMIT :fails
SELECT count(*) FROM commit_work;
SELECT status FROM idem_status('left open');
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
-- and the session is as good as new
BEGIN;
SELECT status FROM idem_claim('left open');
SELECT idem_complete('left open', '1');
COMMIT;

-- one of several; several
BEGIN;
SELECT count(*) FROM generate_series(1, 3) AS i, idem_claim('open ' || i);
SELECT idem_complete('open 1', '1'), idem_release('open 3');
COMMIT :fails
BEGIN;
SELECT count(*) FROM generate_series(1, 3) AS i, idem_claim('same', scope => i::text);
COMMIT :fails
SELECT count(*) FROM idem_keys WHERE key IN ('open 1', 'same');

-- COMMIT AND CHAIN
BEGIN;
SELECT status FROM idem_claim('chained');
COMMIT AND CHAIN :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('chained');
SELECT idem_complete('chained', '1');
COMMIT AND CHAIN;
SELECT idem_complete('chained', '2') :fails
ROLLBACK;

-- a failed transaction has no claims: COMMIT is a rollback
BEGIN;
SELECT status FROM idem_claim('failed');
SELECT 1/0;
COMMIT;
SELECT status FROM idem_status('failed');

-- made by a deferred constraint trigger, at COMMIT itself
CREATE FUNCTION commit_claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim('deferred');
	IF NEW.id > 1 THEN
		PERFORM idem_complete('deferred', to_jsonb(NEW.id));
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER commit_claim AFTER INSERT ON commit_work
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION commit_claim();
BEGIN;
INSERT INTO commit_work VALUES (1);
COMMIT :fails
INSERT INTO commit_work VALUES (1) :fails
BEGIN;
INSERT INTO commit_work VALUES (2);
COMMIT;
SELECT status, response FROM idem_status('deferred');
SELECT * FROM commit_work;
DROP TABLE commit_work;
DROP FUNCTION commit_claim;

-- completed by a deferred trigger: in time
CREATE TABLE commit_late (key text);
CREATE FUNCTION commit_complete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_complete(NEW.key, '"late"');
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER commit_complete AFTER INSERT ON commit_late
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION commit_complete();
BEGIN;
SELECT status FROM idem_claim('late');
INSERT INTO commit_late VALUES ('late');
COMMIT;
SELECT status, response FROM idem_claim('late');
DROP TABLE commit_late;
DROP FUNCTION commit_complete;

-- DO
DO $$ BEGIN PERFORM idem_claim('do'); END $$ :fails
DO $$ BEGIN PERFORM idem_claim('do'); PERFORM idem_complete('do', '1'); END $$ :fails
-- an exception block is a savepoint
DO $$
BEGIN
	BEGIN
		PERFORM idem_claim('in block');
		RAISE EXCEPTION 'undo';
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
END $$ :fails
DO $$
BEGIN
	BEGIN
		PERFORM idem_claim('in block');
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
END $$ :fails
-- it can catch what a claim raises, but not what COMMIT does
DO $$
BEGIN
	PERFORM idem_claim('in block');
	BEGIN
		PERFORM idem_claim('in block');
	EXCEPTION WHEN SQLSTATE 'ID002' THEN
		PERFORM idem_complete('in block', '"once"');
	END;
END $$ :fails
SELECT response FROM idem_claim('in block');

-- a procedure that commits
CREATE PROCEDURE commit_step(key text, finish boolean) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key);
	IF finish THEN
		PERFORM idem_complete(key, '"committed within"');
	END IF;
	COMMIT;
	PERFORM idem_claim(key || ' after');
	PERFORM idem_complete(key || ' after', '"committed after"');
END $$;
CALL commit_step('step', true) :fails
CALL commit_step('open step', false) :fails
SELECT key, response FROM idem_keys WHERE key LIKE '%step%' ORDER BY key;
-- and one that rolls back
CREATE PROCEDURE commit_undo() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim('undone');
	ROLLBACK;
	PERFORM idem_complete('undone', '1');
END $$;
CALL commit_undo() :fails
DROP PROCEDURE commit_step, commit_undo;

-- a superuser may turn the guard off: a warning instead
SHOW idem.require_completion;
SET idem.require_completion = off;
BEGIN;
SELECT status FROM idem_claim('unguarded');
COMMIT :fails
SELECT status FROM idem_claim('unguarded') :fails
SELECT status FROM idem_status('unguarded');
RESET idem.require_completion;
-- what counts is the setting at COMMIT
BEGIN;
SET LOCAL idem.require_completion = off;
SELECT status FROM idem_claim('unguarded');
SET LOCAL idem.require_completion = on;
COMMIT :fails
SELECT count(*) FROM idem_keys WHERE key = 'unguarded';
