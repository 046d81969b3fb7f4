-- A scope moves from one database to another and back: every kind of key, page by page, and what each end refuses meanwhile.
-- times and oids change: what is refused is told by its SQLSTATE alone
\set VERBOSITY sqlstate
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_here;
DROP DATABASE IF EXISTS regress_idem_there;
RESET client_min_messages;
SELECT current_database() AS main \gset
CREATE DATABASE regress_idem_here;
CREATE DATABASE regress_idem_there;
\c regress_idem_here
CREATE EXTENSION idem;
CREATE TABLE undone (key text);
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$INSERT INTO undone VALUES ($1 ->> 'key')$$;
CREATE FUNCTION work(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION done(key text, scope text, request jsonb, response jsonb, ttl interval DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF (SELECT status FROM idem_claim(key, request, scope, ttl => ttl)) <> 'claimed' THEN
		RAISE 'not claimed';
	END IF;
	PERFORM idem_complete(key, response, scope);
END $$;
CREATE FUNCTION held(key text, scope text, deadline interval) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key, NULL, scope);
	PERFORM idem_compensate_with(key, 'undo(jsonb)', jsonb_build_object('key', key), scope, deadline);
	PERFORM idem_complete(key, '"held"', scope);
END $$;

-- one of each kind, and others beside them
SELECT done('plain', 's', '{"a": 1}', '{"n": 1.00, "z": "\u00e9 \" \\", "a": [1e2, null, {}], "": 0.10}');
SELECT done('scalar', 's', NULL, '"x"'), done('null', 's', NULL, 'null'), done('long', 's', NULL, '1', '20 days');
SELECT done('other', 't', NULL, '1'), done('plain', 't', NULL, '2'), done('plain', '', NULL, '3');
SELECT held('held', 's', '1 day'), held('confirmed', 's', NULL), held('compensated', 's', NULL);
SELECT idem_confirm('confirmed', 's');
SELECT status FROM idem_cancel('compensated', 'why', 's');
SELECT status FROM idem_cancel('tombstone', 'why', 's');
SELECT status, token FROM idem_claim('leased', '{"a": 1}', 's', lease => '1 h') \gset
SELECT idem_checkpoint('leased', :token, 'one', '{"b": 1.0}', 's');
SELECT idem_compensate_with('leased', 'undo(jsonb)', '{"key": "leased"}', 's', '1 day', :token);
SELECT done('evicted', 's', NULL, '1');
SELECT idem_evict('evicted', 's');
CREATE VIEW keys AS SELECT key, status, attempt, response, claimed_at, completed_at, expires_at, token IS NOT NULL AS leased, holder_pid IS NOT NULL AS held
	FROM idem_keys WHERE scope = 's';
SELECT md5(string_agg(concat_ws(' ', key, status, attempt, response, claimed_at, completed_at, expires_at, leased), E'\n' ORDER BY key)) AS before FROM keys \gset

-- nothing is closed by what is wrong
SELECT idem_export(NULL);
SELECT idem_export('s', max_keys => 0);
SELECT idem_export('s', 'scan');
SELECT idem_export('s', 'check');
SELECT idem_import(NULL);
SELECT idem_import('{}');
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT idem_export('s'); ROLLBACK;
BEGIN; CREATE TABLE written (); SELECT idem_export('s'); ROLLBACK;
BEGIN READ ONLY; SELECT idem_export('s'); ROLLBACK;
SELECT count(*) FROM idem_scopes;
BEGIN; SELECT idem_export('s') ->> 'position' AS position; ROLLBACK;
SELECT status FROM idem_status('plain', 's');

-- closed: a claim that was made before cannot be completed, one after it not be made; what else is asked of its keys is refused, and other scopes are not concerned
BEGIN;
SELECT status FROM idem_claim('early', NULL, 's');
SELECT idem_export('s') AS page \gset
SELECT idem_complete('early', '1', 's');
ROLLBACK;
SELECT idem_export('s') AS page \gset
SELECT :'page'::jsonb - '{move,token_number}'::text[] AS page;
SELECT idem_export('s') AS again \gset
SELECT :'page'::jsonb - 'token_number' = :'again'::jsonb - 'token_number' AS the_same;
SELECT idem_claim('plain', NULL, 's');
SELECT idem_claim('new', NULL, 's', lease => '1 h');
SELECT idem_status('plain', 's');
SELECT idem_evict('plain', 's');
SELECT idem_cancel('held', 'why', 's');
SELECT idem_cancel('never', 'why', 's');
SELECT idem_confirm('held', 's');
SELECT idem_renew('leased', :token, '1 h', 's');
SELECT idem_checkpoint('leased', :token, 'two', NULL, 's');
SELECT idem_complete('leased', '1', 's', :token);
SELECT idem_release('leased', 's', :token);
SELECT idem_compensate_with('leased', 'undo(jsonb)', NULL, 's', NULL, :token);
SELECT idem_execute_many('work(jsonb)', '{a}', '{1}', 's');
SELECT idem_execute('work(jsonb)', 'a', '1', 's');
SELECT idem_claim_many('{a}', NULL, 's');
SELECT status FROM idem_claim('plain', NULL, 't');
SELECT key, state FROM idem_compensations WHERE scope = 's' ORDER BY key;
UPDATE idem_pinned SET deadline = now() - interval '2 days' WHERE key = 'held';
CALL idem_maintain();
SELECT * FROM idem_verify();
SELECT * FROM undone;
UPDATE idem_pinned SET deadline = now() + interval '1 day' WHERE key = 'held';

-- not to where it is
SELECT idem_import(:'page');

-- the destination: the first page prepares, and may come as often as it likes
\c regress_idem_there
CREATE EXTENSION idem;
CREATE TABLE undone (key text);
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$INSERT INTO undone VALUES ($1 ->> 'key')$$;
CREATE VIEW keys AS SELECT key, status, attempt, response, claimed_at, completed_at, expires_at, token IS NOT NULL AS leased, holder_pid IS NOT NULL AS held
	FROM idem_keys WHERE scope = 's';
SELECT idem_import(jsonb_set(:'page', '{encoding}', '"LATIN1"'));
SELECT idem_import(:'page'::jsonb - 'move');
SELECT idem_import(:'page'::jsonb || '{"epoch": 1}');
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT idem_import(:'page'); ROLLBACK;
BEGIN; CREATE TABLE written (); SELECT idem_import(:'page'); ROLLBACK;
SELECT idem_import(:'page');
SELECT idem_claim('plain', NULL, 's');
SELECT idem_import(:'page');
SELECT idem_import(:'page');
SELECT state, epoch, position FROM idem_scopes;
SELECT nextval('idem_tokens') > (:'page'::jsonb ->> 'token_number')::bigint AS tokens_are_new;

-- pages: in their order, each once; one of another move is refused
\c regress_idem_here
SELECT idem_export('s', 'scan', 3) AS page1 \gset
SELECT k -> 'key' AS key, k -> 'response' AS response, :'page1'::jsonb ->> 'next' AS position FROM jsonb_array_elements(:'page1'::jsonb -> 'keys') AS k LIMIT 1 \gset
SELECT :'key' AS key, :'response' AS response;
SELECT idem_export('s', :'position', 2) AS page2 \gset
SELECT k ->> 'key' AS key FROM jsonb_array_elements(:'page2'::jsonb -> 'keys') AS k;
\c regress_idem_there
SELECT idem_import(:'page2');
SELECT idem_import(:'page1') = :'position' AS taken;
SELECT idem_import(:'page1') = :'position' AS taken_before;
SELECT idem_import(:'page') = :'position' AS goes_on;
SELECT idem_import(jsonb_set(:'page2', '{move}', '"x"'));
SELECT idem_import(:'page2'::jsonb - 'keys');
SELECT idem_import(jsonb_set(:'page2', '{keys,0,response}', '[2]')) = :'page2'::jsonb ->> 'next' AS tampered_with;
SELECT count(*) FROM keys;

-- a table that is rewritten meanwhile is read anew, and what came before is compared
\c regress_idem_here
VACUUM FULL idem_pinned;
SELECT idem_export('s', :'page2'::jsonb ->> 'next') AS page3 \gset
SELECT :'page3'::jsonb ->> 'next' AS next;
SELECT k ->> 'key' AS key FROM jsonb_array_elements(:'page3'::jsonb -> 'keys') AS k;
\c regress_idem_there
SELECT idem_import(:'page3');
UPDATE idem_pinned SET response = '1' WHERE response = '[2]';
SELECT idem_import(:'page3');
\c regress_idem_here
SELECT idem_export('s', 'check') AS page4 \gset
SELECT :'page4'::jsonb ->> 'count' AS count;
\c regress_idem_there

-- the last one compares all
SELECT idem_claim('plain', NULL, 's');
UPDATE idem_pinned SET attempt = 2 WHERE key = 'plain';
SELECT idem_import(:'page4');
UPDATE idem_pinned SET attempt = NULL WHERE key = 'plain';
UPDATE idem_pinned SET scope = 'u' WHERE key = 'scalar';
SELECT idem_import(:'page4');
UPDATE idem_pinned SET scope = 's' WHERE key = 'scalar';
SELECT idem_import(:'page4');
SELECT idem_import(:'page') IS NULL AS here, idem_import(:'page1') IS NULL AS here, idem_import(:'page4') IS NULL AS here;
SELECT state, epoch, position FROM idem_scopes;
SELECT * FROM idem_verify();

-- all is as it was
SELECT md5(string_agg(concat_ws(' ', key, status, attempt, response, claimed_at, completed_at, expires_at, leased), E'\n' ORDER BY key)) = :'before' AS the_same FROM keys;
SELECT key, status, attempt, response, leased, held FROM keys WHERE status <> 'cancelled' ORDER BY key;
SELECT key, response - 'cancelled_at' AS response FROM keys WHERE status = 'cancelled' ORDER BY key;
SELECT status, response FROM idem_claim('plain', '{"a": 1.0}', 's');
SELECT status FROM idem_claim('plain', '{"a": 2}', 's');
SELECT status FROM idem_claim('tombstone', NULL, 's');
SELECT status, attempt, holder_pid FROM idem_status('leased', 's');
SELECT idem_checkpoint('leased', :token, 'two', NULL, 's');
SELECT idem_complete('leased', '"by its token"', 's', :token);
SELECT status FROM idem_cancel('leased', NULL, 's');
SELECT status FROM idem_cancel('held', NULL, 's');
SELECT status FROM idem_cancel('confirmed', NULL, 's');
SELECT status FROM idem_cancel('compensated', NULL, 's');
SELECT key FROM undone ORDER BY key;

-- and back: what became of the keys since, and not what was left there; also one that had more lives there than here
SELECT idem_evict('scalar', 's');
BEGIN;
SELECT status FROM idem_claim('evicted', NULL, 's');
SELECT idem_complete('evicted', '"again"', 's');
COMMIT;
SELECT idem_export('s') AS page5 \gset
SELECT idem_export('s', 'scan') AS page6 \gset
SELECT idem_export('s', :'page6'::jsonb ->> 'next') AS page7 \gset
SELECT idem_export('s', 'check') AS page8 \gset
SELECT jsonb_array_length(:'page6'::jsonb -> 'keys') AS keys, jsonb_array_length(:'page7'::jsonb -> 'keys') AS keys, :'page7'::jsonb ->> 'next' AS next, :'page8'::jsonb ->> 'count' AS count;
\c regress_idem_here
SELECT idem_import(:'page4');
SELECT idem_import(:'page5');
SELECT state, epoch FROM idem_scopes;
SELECT idem_import(:'page5');
SELECT idem_import(:'page5');
SELECT idem_import(:'page5');
SELECT state, position FROM idem_scopes;
SELECT count(*) FROM keys;
SELECT idem_import(:'page6') = :'page7'::jsonb ->> 'position' AS taken;
SELECT idem_import(:'page7');
SELECT idem_import(:'page8');
SELECT state, epoch FROM idem_scopes;
SELECT * FROM idem_verify();
SELECT key, status, response FROM keys WHERE status <> 'cancelled' ORDER BY key;
SELECT status, response FROM idem_claim('evicted', NULL, 's');
BEGIN;
SELECT status FROM idem_claim('scalar', NULL, 's');
ROLLBACK;
SELECT status FROM idem_cancel('held', NULL, 's');
SELECT idem_import(:'page1');
-- pages of the first move come too late
\c regress_idem_there
SELECT state, epoch FROM idem_scopes;
SELECT idem_import(:'page');
SELECT idem_import(:'page1');

-- what has keys of its own takes none of that scope
\c regress_idem_here
SELECT idem_export('t') AS page \gset
\c regress_idem_there
INSERT INTO idem_scopes VALUES ('t', 'closed', 1, '', NULL, now());
SELECT idem_claim('plain', NULL, 't');
DELETE FROM idem_scopes WHERE scope = 't';
BEGIN;
SELECT status FROM idem_claim('own', NULL, 't');
SELECT idem_complete('own', '1', 't');
COMMIT;
SELECT idem_import(:'page');
SELECT idem_import(:'page');
SELECT state FROM idem_scopes WHERE scope = 't';
-- unless somebody says that they may be forgotten
UPDATE idem_scopes SET state = 'clearing' WHERE scope = 't';
SELECT idem_import(:'page');
SELECT idem_import(:'page');
SELECT key FROM idem_keys WHERE scope = 't';

-- who may: also what compensations run as
CREATE ROLE regress_idem_mover;
SELECT idem_grant('regress_idem_mover', 'dba');
\c regress_idem_here
SELECT held('held', 'v', '1 day');
SELECT idem_grant('regress_idem_mover', 'dba');
SET ROLE regress_idem_mover;
SELECT idem_export('v') AS page2 \gset
SELECT idem_export('v', 'scan') AS page3 \gset
RESET ROLE;
\c regress_idem_there
SET ROLE regress_idem_mover;
SELECT idem_import(jsonb_set(:'page2', '{token_number}', '"1000000"'));
SELECT idem_import(:'page2');
SELECT idem_import(:'page2');
SELECT idem_import(:'page3');
SELECT state, position FROM idem_scopes WHERE scope = 'v';
RESET ROLE;
SELECT idem_import(:'page3');
SELECT last_value >= 1000000 AS tokens_are_new FROM idem_tokens;

\c :main
DROP DATABASE regress_idem_here;
DROP DATABASE regress_idem_there;
DROP ROLE regress_idem_mover;
