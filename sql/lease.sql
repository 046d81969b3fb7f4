--
-- Leases: claims whose work spans transactions.
-- In a database of its own.
--
\set VERBOSITY sqlstate
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_lease;
CREATE DATABASE regress_idem_lease;
\c regress_idem_lease
CREATE EXTENSION idem;
CREATE TABLE undone (what text);
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO undone VALUES ($1 #>> '{}')$$;
CREATE FUNCTION refused(jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN INSERT INTO undone VALUES ('not to be seen'); RAISE 'no' USING ERRCODE = 'ID012'; END $$;
-- as if the server's clock had been set forward by that much, for this key
CREATE PROCEDURE set_clock(k text, ahead interval) LANGUAGE sql AS $$
	UPDATE idem_pinned SET claimed_at = claimed_at - ahead, lease_ends_at = lease_ends_at - ahead, ttl_ends_at = ttl_ends_at - ahead, expires_at = expires_at - ahead
	WHERE key = k AND lease_ends_at IS NOT NULL
$$;
-- until the lease is just over
CREATE PROCEDURE over(k text) LANGUAGE plpgsql AS $$
DECLARE
	ahead interval := lease_ends_at - now() + interval '1 s' FROM idem_pinned WHERE key = k;
BEGIN
	CALL set_clock(k, ahead);
END $$;
-- what is stored; intervals to the minute
CREATE FUNCTION about(timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN isfinite($1) THEN (date_trunc('minute', $1 - clock_timestamp() + interval '30 s'))::text ELSE 'never' END
$$;
CREATE VIEW pg_temp.stored AS
	SELECT key, fate, attempt, token IS NOT NULL AS token, about(lease_ends_at) AS lease, about(expires_at) AS expires, about(deadline) AS deadline,
	       checkpoint, jsonb_path_query_array(handlers, '$[*].args') AS handlers, response
	FROM idem_pinned WHERE expires_at > clock_timestamp() ORDER BY key;
CREATE FUNCTION error_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', state, regexp_replace(message, '\d{6,}', 'TOKEN'),
	                 regexp_replace(regexp_replace(nullif(detail, ''), '\d{6,}', 'TOKEN'), '\d{4}-\d\d-\d\d.*', 'TIME'), nullif(hint, ''));
END $$;

-- claimed in one transaction, renewed and completed in others
SELECT status, response, attempt, token > 0 AS token, checkpoint, cacheable_until FROM idem_claim('lease', '{"a": 1}', lease => '10 min');
SELECT token AS t FROM idem_keys WHERE key = 'lease' \gset
SELECT * FROM pg_temp.stored \gx
SELECT status, response, attempt, claimed_at < clock_timestamp() AS claimed, completed_at, about(expires_at), holder_pid = pg_backend_pid() AS mine FROM idem_status('lease');
SELECT scope, key, status, attempt, response, completed_at, about(expires_at), digest = idem_digest('lease') AS digest, token = :t AS token, holder_pid = pg_backend_pid() AS mine FROM idem_keys;
-- nobody else
SELECT * FROM idem_claim('lease', wait => '0');
SELECT * FROM idem_claim('lease', wait => '0', lease => '1 h');
SELECT * FROM idem_claim('lease', '{"a": 1}', wait => '20 ms');
SELECT * FROM idem_claim('lease', '{"a": 2}');
SELECT count(*) AS locks FROM idem_holders;
-- nothing waits longer than it would for a lock
SET lock_timeout = '20 ms';
SELECT status FROM idem_claim('lease', wait => '1 h');
RESET lock_timeout;
SET statement_timeout = '50 ms';
SELECT status FROM idem_claim('lease', wait => '1 h');
RESET statement_timeout;
SELECT idem_checkpoint('lease', :t, 'begun', '{"n": 1}');
SELECT idem_checkpoint('lease', :t, 'charged', NULL);
SELECT about(idem_renew('lease', :t, '2 h'));
SELECT about(idem_renew('lease', :t, '1 h'));
SELECT fate, lease, expires, checkpoint FROM pg_temp.stored;
SELECT idem_complete('lease', '{"b": 2}', token => :t);
SELECT status, response, attempt, token, checkpoint, about(cacheable_until) FROM idem_claim('lease', '{"a": 1}');
SELECT status, response, attempt, completed_at > claimed_at AS completed, about(expires_at), holder_pid FROM idem_status('lease');
SELECT * FROM pg_temp.stored;
-- the token holds nothing any more
SELECT error_of(format('SELECT idem_complete(%L, %L, token => %s)', 'lease', 1, :t));
SELECT idem_release('lease', token => :t);
SELECT idem_renew('lease', :t, '1 h');
SELECT idem_checkpoint('lease', :t, 'late', NULL);
SELECT idem_compensate_with('lease', 'undo(jsonb)', '1', token => :t);
SELECT * FROM idem_verify();

-- a takeover: another token, one more attempt, the last checkpoint; again and again
SELECT token AS t1 FROM idem_claim('taken', '{"a": 1}', lease => '1 h', ttl => '2 h') \gset
SELECT idem_checkpoint('taken', :t1, 'one', '[1]');
CALL over('taken');
SELECT status, expires_at < clock_timestamp() AS over FROM idem_status('taken');
SELECT * FROM idem_claim('taken', '{"a": 2}', lease => '1 h');
SELECT status, attempt, token, token > :t1 AS another, checkpoint FROM idem_claim('taken', lease => '30 min') \gset
SELECT :'status' AS status, :'attempt' AS attempt, :'another' AS another, :'checkpoint' AS checkpoint;
SELECT error_of(format('SELECT idem_complete(%L, %L, token => %s)', 'taken', 1, :t1));
SELECT idem_checkpoint('taken', :token, 'two', '[2]');
CALL over('taken');
SELECT status, attempt, token, checkpoint FROM idem_claim('taken', '{"a": 1}', lease => '30 min') \gset
SELECT :'status' AS status, :'attempt' AS attempt, :'checkpoint' AS checkpoint;
SELECT idem_complete('taken', '"third time"', token => :token);
SELECT status, response, attempt, about(cacheable_until) FROM idem_claim('taken');
SELECT status, response, attempt, claimed_at > now() - interval '5 min' AS claimed_since FROM idem_status('taken');
SELECT status, response, attempt, token FROM idem_keys WHERE key = 'taken';

-- one that is over is its owner's until somebody takes it
SELECT token AS t FROM idem_claim('over', lease => '1 h') \gset
CALL over('over');
SELECT idem_checkpoint('over', :t, 'late', '1');
SELECT about(idem_renew('over', :t, '10 min'));
SELECT status FROM idem_claim('over', wait => '0');
CALL over('over');
SELECT idem_complete('over', '"late but first"', token => :t);
SELECT status, response, attempt FROM idem_claim('over', lease => '1 h');

-- taken over without a lease: the transaction owns it, and one row stays
SELECT token AS t FROM idem_claim('plain', '{"a": 1}', lease => '1 h', ttl => '2 h') \gset
SELECT idem_checkpoint('plain', :t, 'one', '[1]');
SELECT idem_compensate_with('plain', 'undo(jsonb)', '"of the lease"', token => :t);
CALL over('plain');
BEGIN;
SELECT * FROM idem_claim('plain', '{"a": 1}');
SELECT status, attempt, holder_pid = pg_backend_pid() AS mine FROM idem_status('plain');
SAVEPOINT s;
SELECT error_of(format('SELECT idem_complete(%L, %L, token => %s)', 'plain', 1, :t));
SELECT idem_renew('plain', :t, '1 h');
ROLLBACK TO s;
ROLLBACK;
BEGIN;
SELECT status, attempt FROM idem_claim('plain');
SELECT idem_release('plain');
COMMIT;
BEGIN;
SELECT status, attempt FROM idem_claim('plain');
COMMIT;
SELECT idem_checkpoint('plain', :t, 'still its owner''s', NULL);
CALL over('plain');
BEGIN;
SELECT status, attempt, token, checkpoint FROM idem_claim('plain');
SELECT idem_compensate_with('plain', 'undo(jsonb)', '"of the transaction"', deadline => '1 h');
SAVEPOINT s;
SELECT idem_complete('plain', '"rolled back"');
ROLLBACK TO s;
SELECT idem_complete('plain', '"done"');
SELECT status, response, attempt, cacheable_until FROM idem_claim('plain');
COMMIT;
SELECT key, fate, attempt, token, lease, expires, deadline, checkpoint, handlers, response FROM pg_temp.stored WHERE key = 'plain';
SELECT count(*) AS rows FROM idem_pinned WHERE key = 'plain';
SELECT count(*) AS rows FROM idem_keys WHERE key = 'plain';
SELECT status, attempt FROM idem_claim('plain', '{"a": 2}');
SELECT idem_complete('plain', '1', token => :t);
SELECT status, response -> 'results' FROM idem_cancel('plain');
TABLE undone;
TRUNCATE undone;
-- forgotten while it was taken over
SELECT token AS t FROM idem_claim('forgotten', lease => '1 h') \gset
CALL over('forgotten');
BEGIN;
SELECT status, attempt FROM idem_claim('forgotten');
UPDATE idem_pinned SET expires_at = now() - interval '1 s' WHERE key = 'forgotten';
SELECT idem_complete('forgotten', '1');
COMMIT;
SELECT key, response, attempt FROM idem_keys WHERE key = 'forgotten';
SELECT * FROM idem_verify();

-- so do idem_execute() and its like; a lease that is not over they leave alone
CREATE FUNCTION work(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT to_jsonb('worked on ' || ($1 #>> '{}'))$$;
SELECT token AS t1 FROM idem_claim('executed', '1', lease => '1 h') \gset
SELECT token AS t2 FROM idem_claim('executed too', '2', lease => '1 h') \gset
SET idem.claim_wait = 0;
SELECT status, response FROM idem_execute('work(jsonb)', 'executed', '1');
SELECT status, response FROM idem_execute('work(jsonb)', 'executed', '2');
SELECT key, status, response FROM idem_execute_many('work(jsonb)', '{executed,executed too,not leased}', '{1,3,2}');
SELECT key, status, response FROM idem_claim_many('{executed,executed too}', '{1,3}');
RESET idem.claim_wait;
CALL over('executed');
CALL over('executed too');
SELECT status, response FROM idem_execute('work(jsonb)', 'executed', '1');
SELECT key, status, response FROM idem_execute_many('work(jsonb)', '{executed,executed too}', '{1,2}');
SELECT key, attempt, response FROM idem_keys WHERE key ~ '^executed' ORDER BY key;
SELECT idem_complete('executed', '1', token => :t1);
SELECT idem_complete('executed too', '1', token => :t2);

-- released: it may be claimed anew, from the beginning
SELECT token AS t FROM idem_claim('released', '{"a": 1}', lease => '1 h') \gset
SELECT idem_checkpoint('released', :t, 'one', NULL);
CALL over('released');
SELECT token AS t FROM idem_claim('released', lease => '1 h') \gset
SELECT idem_compensate_with('released', 'undo(jsonb)', '1', token => :t, deadline => '1 h');
SELECT idem_release('released', token => :t);
SELECT idem_release('released', token => :t);
SELECT status FROM idem_status('released');
SELECT count(*) FROM idem_keys WHERE key = 'released';
SELECT status, attempt, token > :t AS another, checkpoint FROM idem_claim('released', '{"a": 2}', lease => '1 h');
SELECT fate, attempt, deadline, handlers FROM pg_temp.stored WHERE key = 'released';

-- in one transaction; what rolls back was never there
BEGIN;
SELECT token AS t FROM idem_claim('one', lease => '1 h') \gset
SAVEPOINT s;
SELECT status FROM idem_claim('one');
ROLLBACK TO s;
SELECT status FROM idem_claim('one', lease => '1 h');
ROLLBACK TO s;
SELECT status FROM idem_cancel('one');
ROLLBACK TO s;
SELECT idem_checkpoint('one', :t, 'in it', NULL), idem_renew('one', :t, '1 h') IS NOT NULL AS renewed;
SELECT idem_release('one', token => :t);
SELECT status, attempt FROM idem_claim('one', lease => '1 h');
ROLLBACK TO s;
SELECT idem_complete('one', '1', token => :t);
SELECT status, response FROM idem_claim('one');
COMMIT;
SELECT status, response FROM idem_claim('one');
BEGIN;
SELECT status FROM idem_claim('rolled back', lease => '1 h');
ROLLBACK;
SELECT status FROM idem_status('rolled back');
BEGIN;
SELECT status FROM idem_claim('mixed');
SAVEPOINT s;
SELECT status FROM idem_claim('mixed', lease => '1 h');
ROLLBACK TO s;
SELECT idem_release('mixed');
SELECT status, token IS NOT NULL AS token FROM idem_claim('mixed', lease => '1 h');
COMMIT;
-- the step's rows and its checkpoint come together, or not at all
SELECT token AS t FROM idem_claim('step', lease => '1 h') \gset
BEGIN;
INSERT INTO undone VALUES ('a step');
SELECT idem_checkpoint('step', :t, 'stepped', NULL);
ROLLBACK;
SELECT checkpoint, (SELECT count(*) FROM undone) FROM pg_temp.stored WHERE key = 'step';
-- at every isolation level
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT token AS t FROM idem_claim('serializable', lease => '1 h') \gset
SELECT idem_checkpoint('serializable', :t, 's', '1');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status, checkpoint FROM idem_claim('serializable', wait => '0');
SELECT idem_complete('serializable', '1', token => :t);
COMMIT;

-- an expired key is leased anew, and the other way round
BEGIN; SELECT status FROM idem_claim('life', ttl => '1 us'); SELECT idem_complete('life', '1'); COMMIT;
SELECT status, attempt FROM idem_claim('life', lease => '1 h', ttl => '1 us');
SELECT status FROM idem_claim('life', wait => '0');
CALL set_clock('life', '26 h');
SELECT status FROM idem_status('life');
BEGIN; SELECT status, attempt, checkpoint FROM idem_claim('life'); SELECT idem_complete('life', '2'); COMMIT;
SELECT status, response FROM idem_claim('life');

-- left alone it is remembered for idem.key_ttl, and then removed
SELECT status FROM idem_claim('alone', lease => '1 h', ttl => '1 s');
SELECT about(expires_at), about(ttl_ends_at) FROM idem_pinned WHERE key = 'alone';
CALL set_clock('alone', '25 h 1 min');
CALL idem_maintain();
SELECT count(*) FROM idem_pinned WHERE key = 'alone';

-- compensation: kept at once, under the token
SELECT token AS t FROM idem_claim('held', lease => '1 h') \gset
SELECT idem_compensate_with('held', 'undo(jsonb)', '"first"', token => :t);
SELECT fate, lease, expires, deadline, handlers FROM pg_temp.stored WHERE key = 'held';
SELECT idem_compensate_with('held', 'undo(jsonb)', '{"second": [1]}', '', '3 h', :t);
SELECT idem_compensate_with('held', 'undo(jsonb)', NULL, token => :t, deadline => '2 h');
SELECT idem_compensate_with('held', 'undo(jsonb)', '4', token => :t, deadline => '4 h');
SELECT fate, lease, expires, deadline, handlers FROM pg_temp.stored WHERE key = 'held';
SELECT key, jsonb_array_length(handlers), about(deadline), state FROM idem_compensations WHERE key = 'held';
SELECT idem_renew('held', :t, '30 min') IS NOT NULL AS renewed;
SELECT lease, expires, deadline FROM pg_temp.stored WHERE key = 'held';
-- a live lease: neither cancelled nor confirmed nor evicted
SELECT * FROM idem_cancel('held', wait => '0');
SELECT * FROM idem_cancel('held', wait => '20 ms');
SELECT error_of($$SELECT idem_confirm('held')$$);
SELECT idem_evict('held');
-- completed it is held, with the deadline that it had
SELECT idem_complete('held', '1', token => :t);
SELECT fate, token, expires, deadline, handlers FROM pg_temp.stored WHERE key = 'held';
SELECT status, response -> 'results' FROM idem_cancel('held');
SELECT count(*) FROM undone;
TRUNCATE undone;
-- taken over: what was registered stays
SELECT token AS t FROM idem_claim('handed on', lease => '1 h') \gset
SELECT idem_compensate_with('handed on', 'undo(jsonb)', '"before"', deadline => '2 h', token => :t);
CALL over('handed on');
SELECT token AS t2 FROM idem_claim('handed on', lease => '1 h') \gset
SELECT idem_compensate_with('handed on', 'undo(jsonb)', '"stale"', token => :t);
SELECT idem_compensate_with('handed on', 'undo(jsonb)', '"after"', token => :t2);
SELECT attempt, expires, deadline, handlers FROM pg_temp.stored WHERE key = 'handed on';

-- cancelled once the lease is over: compensated, or a tombstone; the late owner is told
CALL over('handed on');
SELECT status, response ->> 'reason' AS reason FROM idem_cancel('handed on', 'gave up');
TABLE undone;
TRUNCATE undone;
SELECT error_of(format('SELECT idem_complete(%L, %L, token => %s)', 'handed on', 1, :t2));
SELECT status FROM idem_cancel('handed on') UNION ALL SELECT status FROM idem_claim('handed on', lease => '1 h');
SELECT status, response ->> 'reason' AS reason, attempt, completed_at > claimed_at AS completed FROM idem_status('handed on');
SELECT token AS t FROM idem_claim('nothing', lease => '1 h') \gset
CALL over('nothing');
SELECT status FROM idem_cancel('nothing');
SELECT idem_complete('nothing', '1', token => :t);
SELECT status FROM idem_cancel('nothing') UNION ALL SELECT status FROM idem_claim('nothing');
SELECT key, fate, token, lease, expires, handlers FROM pg_temp.stored WHERE key IN ('handed on', 'nothing');
SELECT token AS t FROM idem_claim('says no', lease => '1 h') \gset
SELECT idem_compensate_with('says no', 'refused(jsonb)', '1', deadline => '1 h', token => :t);
CALL over('says no');
SELECT status, response ->> 'reason' AS reason FROM idem_cancel('says no');
SELECT fate, token, deadline FROM pg_temp.stored WHERE key = 'says no';
TABLE undone;

-- the deadline of an owner that never returned; that of a live lease waits for its end
SELECT token AS t FROM idem_claim('gone', lease => '1 h') \gset
SELECT idem_compensate_with('gone', 'undo(jsonb)', '"gone"', deadline => '1 us', token => :t);
SELECT token AS live FROM idem_claim('live', lease => '1 h') \gset
SELECT idem_compensate_with('live', 'undo(jsonb)', '"live"', deadline => '1 us', token => :live);
CALL over('gone');
UPDATE idem_pinned SET deadline = now() - interval '1 s' WHERE key = 'says no';
SELECT key, state FROM idem_compensations WHERE key IN ('gone', 'live', 'says no') ORDER BY key;
CALL idem_maintain();
SELECT key, fate, expires, deadline FROM pg_temp.stored WHERE key IN ('gone', 'live', 'says no');
SELECT key, state FROM idem_compensations WHERE key IN ('gone', 'live', 'says no') ORDER BY key;
TABLE undone;
SELECT idem_complete('gone', '1', token => :t);
SELECT idem_complete('live', '1', token => :live);
CALL idem_maintain();
SELECT key, fate, response FROM pg_temp.stored WHERE key = 'live';
-- refused by the machine it was never completed, and can be taken over
SELECT status, attempt FROM idem_claim('says no', lease => '1 h');
SELECT fate, attempt, expires, deadline, handlers FROM pg_temp.stored WHERE key = 'says no';
SELECT * FROM idem_verify();

-- evicted: the owner has lost it
SELECT token AS t FROM idem_claim('evicted', lease => '1 h') \gset
SELECT idem_evict('evicted');
SELECT error_of(format('SELECT idem_complete(%L, %L, token => %s)', 'evicted', 1, :t));
SELECT status, attempt FROM idem_claim('evicted', lease => '1 h');

-- the clock does not decide who the owner is: whichever way it is set, one token can complete
SELECT token AS t1 FROM idem_claim('clock', lease => '1 h') \gset
CALL set_clock('clock', '2 h');
SELECT token AS t2 FROM idem_claim('clock', lease => '1 h') \gset
CALL set_clock('clock', '-2 h');
SELECT status FROM idem_claim('clock', wait => '0');
SELECT idem_renew('clock', :t1, '1 h');
SELECT idem_complete('clock', '1', token => :t1);
CALL set_clock('clock', '6 h');
SELECT idem_complete('clock', '1', token => :t1);
SELECT idem_complete('clock', '2', token => :t2);
SELECT idem_complete('clock', '3', token => :t2);
SELECT status, response FROM idem_claim('clock');
-- set back before anybody has taken it: the first goes on
SELECT token AS t1 FROM idem_claim('back', lease => '1 h') \gset
CALL set_clock('back', '2 h');
CALL set_clock('back', '-3 h');
SELECT status FROM idem_claim('back', wait => '0', lease => '1 h');
SELECT about(idem_renew('back', :t1, '1 min'));
CALL set_clock('back', '2 min');
SELECT status, attempt FROM idem_claim('back', lease => '1 h');
SELECT idem_complete('back', '1', token => :t1);
-- so far that the lease was forgotten and the key claimed anew; back again, the younger life counts
SELECT token AS t1 FROM idem_claim('far', lease => '1 h') \gset
CALL set_clock('far', '9 days');
SELECT token AS t2, attempt FROM idem_claim('far', lease => '1 h') \gset
CALL set_clock('far', '-9 days');
SELECT :'attempt' AS attempt, count(*) AS rows FROM idem_pinned WHERE key = 'far';
SELECT idem_complete('far', '1', token => :t1);
SELECT idem_complete('far', '2', token => :t2);
SELECT status, response FROM idem_claim('far');

-- tokens: positive, drawn one by one, of this incarnation
SELECT count(DISTINCT token), count(DISTINCT token >> 48) AS incarnations, min(token) > 0 AS positive, max(token & ((1::bigint << 48) - 1)) <= (SELECT last_value FROM idem_tokens) AS drawn FROM idem_pinned;

-- bad input changes nothing
CREATE TABLE before AS SELECT * FROM idem_pinned;
SELECT token AS mine FROM idem_claim('mine', lease => '1 h') \gset
SELECT token AS foreign FROM idem_claim('foreign', lease => '1 h') \gset
INSERT INTO before SELECT * FROM idem_pinned WHERE key IN ('mine', 'foreign');
SET idem.claim_wait = '10 ms';
\pset format unaligned
\t on
SELECT error_of(format('SELECT idem_renew(%L, %s, %L)', 'mine', :foreign, '1 h'));
SELECT error_of(format('SELECT idem_complete(%L, %L, token => %s)', 'mine', 1, :foreign));
SELECT error_of(format('SELECT idem_complete(%L, %L, %L, %s)', 'mine', 1, 'another scope', :mine));
SELECT error_of(format('SELECT idem_complete(%L, NULL, token => %s)', 'mine', :mine));
SELECT error_of(format('SELECT idem_renew(%L, %s, NULL)', 'mine', :mine));
SELECT error_of(format('SELECT idem_renew(%L, %s, %L)', 'mine', :mine, '0'));
SELECT error_of(format('SELECT idem_renew(%L, %s, %L)', 'mine', :mine, '25 h'));
SELECT error_of(format('SELECT idem_compensate_with(%L, %L, %L, token => %s, deadline => %L)', 'mine', 'undo(jsonb)', 1, :mine, '0'));
SELECT error_of(format('SELECT idem_compensate_with(%L, %L, %L, token => %s)', 'mine', 'about(timestamptz)', 1, :mine));
SELECT error_of(format('SELECT idem_checkpoint(%L, %s, %L, %L)', 'mine', :mine, '', '1'));
SELECT error_of(format('SELECT idem_checkpoint(%L, %s, NULL, %L)', 'mine', :mine, '1'));
SELECT error_of(format('SELECT idem_checkpoint(%L, %s, %L, %L)', 'mine', :mine, repeat('x', 256), '1'));
SELECT error_of($$SELECT idem_renew('mine', NULL, '1 h')$$);
SELECT error_of($$SELECT idem_checkpoint('mine', NULL, 's', '1')$$);
SELECT error_of($$SELECT idem_renew('mine', -1, '1 h')$$);
SELECT error_of($$SELECT idem_renew('mine', 0, '1 h')$$);
SELECT error_of($$SELECT idem_release('mine', token => 9223372036854775807)$$);
SELECT error_of($$SELECT idem_renew('never', 1, '1 h')$$);
SELECT error_of($$SELECT idem_complete('mine', '1')$$);
SELECT error_of($$SELECT idem_release('mine')$$);
SELECT error_of($$SELECT idem_compensate_with('mine', 'undo(jsonb)', '1')$$);
SELECT error_of(format('SELECT idem_renew(%L, %s, %L)', '', :mine, '1 h'));
SELECT error_of(format('SELECT idem_renew(%L, %s, %L, NULL)', 'mine', :mine, '1 h'));
SELECT error_of(format('SELECT idem_checkpoint(NULL, %s, %L, %L)', :mine, 's', '1'));
\t off
\pset format aligned
RESET idem.claim_wait;
BEGIN READ ONLY;
SELECT idem_renew('mine', :mine, '1 h');
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_checkpoint('mine', :mine, 's', '1');
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_release('mine', token => :mine);
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM idem_claim('read only', lease => '1 h');
ROLLBACK;
SELECT count(*) FROM (TABLE idem_pinned EXCEPT TABLE before) AS changed;
SELECT count(*) FROM idem_holders;

-- idem_verify() finds what is wrong
SELECT * FROM idem_verify();
BEGIN;
UPDATE idem_pinned SET token = token + 1000 WHERE key = 'mine';
UPDATE idem_pinned SET lease_ends_at = NULL WHERE key = 'foreign';
UPDATE idem_pinned SET fate = NULL WHERE key = 'mixed';
UPDATE idem_pinned SET attempt = 0 WHERE key = 'step';
UPDATE idem_pinned SET deadline = now() + interval '1 h' WHERE key = 'evicted';
UPDATE idem_pinned SET token = (SELECT min(token) FROM idem_pinned), lease_ends_at = expires_at WHERE key = 'says no';
SELECT invariant, regexp_replace(object, '\d{6,}', 'TOKEN') FROM idem_verify() ORDER BY invariant COLLATE "C", object COLLATE "C";
ROLLBACK;
BEGIN;
UPDATE idem_pinned SET fate = 'leased', deadline = now() - interval '2 h', lease_ends_at = now() - interval '2 h', token = 1, holder_pid = 1 WHERE key = 'live';
SELECT invariant, object FROM idem_verify() ORDER BY invariant COLLATE "C", object COLLATE "C";
ROLLBACK;

\c :home
DROP DATABASE regress_idem_lease;
