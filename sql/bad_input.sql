--
-- Bad input: a clear error each time, and nothing changed.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT repeat('é', 127) || 'x' AS longest, repeat('é', 128) AS too_long \gset
SELECT char_length(:'longest') AS characters, octet_length(:'longest') AS bytes,
       char_length(:'too_long') AS too_long_characters, octet_length(:'too_long') AS too_long_bytes;

-- a function each, with its message, where that names the version
CREATE FUNCTION pg_temp.error_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', state, regexp_replace(message, '\d+\.\d+\.\d+', 'VERSION'), detail, hint);
END $$;

-- keys
SELECT * FROM idem_claim(NULL) :fails
SELECT * FROM idem_claim('') :fails
SELECT * FROM idem_claim(:'too_long') :fails
SELECT * FROM idem_claim(repeat('x', 256)) :fails
SELECT * FROM idem_claim(repeat('x', 10000000)) :fails
SELECT idem_complete(NULL, '1') :fails
SELECT idem_complete('', '1') :fails
SELECT idem_complete(:'too_long', '1') :fails
SELECT idem_release(NULL) :fails
SELECT idem_release('') :fails
SELECT idem_release(:'too_long') :fails
SELECT * FROM idem_status(NULL) :fails
SELECT * FROM idem_status('') :fails
SELECT * FROM idem_status(:'too_long') :fails
SELECT idem_evict(NULL) :fails
SELECT idem_evict('') :fails
SELECT idem_evict(:'too_long') :fails
SELECT idem_digest(NULL) :fails
SELECT idem_digest('') :fails
SELECT idem_digest(:'too_long') :fails

-- scopes
SELECT * FROM idem_claim('bad', scope => NULL) :fails
SELECT * FROM idem_claim('bad', scope => :'too_long') :fails
SELECT idem_complete('bad', '1', NULL) :fails
SELECT idem_complete('bad', '1', :'too_long') :fails
SELECT idem_release('bad', NULL) :fails
SELECT idem_release('bad', :'too_long') :fails
SELECT * FROM idem_status('bad', NULL) :fails
SELECT * FROM idem_status('bad', :'too_long') :fails
SELECT idem_evict('bad', NULL) :fails
SELECT idem_evict('bad', :'too_long') :fails
SELECT idem_digest('bad', NULL) :fails
SELECT idem_digest('bad', :'too_long') :fails

-- ttl
SELECT * FROM idem_claim('bad', ttl => '0') :fails
SELECT * FROM idem_claim('bad', ttl => '-1 us') :fails
SELECT * FROM idem_claim('bad', ttl => '-1 day') :fails
SELECT * FROM idem_claim('bad', ttl => '1 month -31 days') :fails
SELECT * FROM idem_claim('bad', ttl => '3653 days 1 us') :fails
SELECT * FROM idem_claim('bad', ttl => '87672:00:00.000001') :fails
SELECT * FROM idem_claim('bad', ttl => '11 years') :fails
SELECT * FROM idem_claim('bad', ttl => '178000000 years') :fails
SELECT * FROM idem_claim('bad', ttl => '-178000000 years') :fails
SELECT * FROM idem_claim('bad', ttl => '2147483647 months 2147483647 days') :fails
SELECT * FROM idem_claim('bad', ttl => '9223372036854775807 us') :fails
SELECT * FROM idem_claim('bad', ttl => '-9223372036854775807 us') :fails

-- wait
SELECT * FROM idem_claim('bad', wait => '-1 us') :fails
SELECT * FROM idem_claim('bad', wait => '-5 seconds') :fails
SELECT * FROM idem_claim('bad', wait => '1 hour 1 us') :fails
SELECT * FROM idem_claim('bad', wait => '1 day') :fails
SELECT * FROM idem_claim('bad', wait => '178000000 years') :fails
SELECT * FROM idem_claim('bad', wait => '9223372036854775807 us') :fails

-- lease
SELECT * FROM idem_claim('bad', lease => '0') :fails
SELECT * FROM idem_claim('bad', lease => '-1 us') :fails
SELECT * FROM idem_claim('bad', lease => '1 day 1 us') :fails
SELECT * FROM idem_claim('bad', lease => '178000000 years') :fails
SELECT * FROM idem_claim('bad', lease => '9223372036854775807 us') :fails

-- infinite: intervals can be that since PostgreSQL 17
SELECT i, a, CASE WHEN current_setting('server_version_num')::int >= 170000
                  THEN left(pg_temp.error_of(format('SELECT idem_claim(''bad'', %s => %L)', a, i)), 5)
                  ELSE 'ID007' END
FROM unnest('{infinity,-infinity}'::text[]) AS i, unnest('{ttl,wait,lease}'::text[]) AS a;

-- several at once: one of them is named
SELECT * FROM idem_claim('', scope => NULL, ttl => '-1 s', wait => '-1 s') :fails

-- NULL for a response
BEGIN;
SELECT status FROM idem_claim('bad');
SELECT idem_complete('bad', NULL) :fails
ROLLBACK;

-- a read-only transaction
BEGIN READ ONLY;
SELECT * FROM idem_claim('bad') :fails
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_complete('bad', '1') :fails
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_evict('bad') :fails
ROLLBACK;
BEGIN READ ONLY;
SELECT idem_grant('nobody', 'app') :fails
ROLLBACK;
SET default_transaction_read_only = on;
CALL idem_maintain() :fails
RESET default_transaction_read_only;
-- to look is allowed, and so is to give up
BEGIN READ ONLY;
SELECT status FROM idem_status('bad');
SELECT idem_digest('bad');
SELECT count(*) FROM idem_verify();
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('bad');
SET TRANSACTION READ ONLY;
SAVEPOINT s;
SELECT idem_complete('bad', '1') :fails
ROLLBACK TO s;
SELECT idem_release('bad');
COMMIT;

-- maintenance inside a transaction
BEGIN;
CALL idem_maintain() :fails
ROLLBACK;

-- settings; the messages are the server's
\set VERBOSITY sqlstate
SET idem.claim_wait = -1;
SET idem.claim_wait = '61 min';
SET idem.claim_wait = 'soon';
SET idem.key_ttl = 0;
SET idem.key_ttl = '3654 d';
SET idem.require_completion = 'perhaps';
SET idem.max_attempts = 0;
SET idem.max_attempts = 1001;
SET idem.max_attempts = 'many';
SET idem.no_such_setting = 1;
\set VERBOSITY default

-- nothing changed: nothing is kept or held, and the key may be claimed
SELECT count(*) FROM idem_keys WHERE key = 'bad' OR scope = 'bad';
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
BEGIN;
SELECT status FROM idem_claim('bad');
SELECT idem_complete('bad', '"good after all"');
COMMIT;

-- an error leaves what the transaction has claimed before as it was
BEGIN;
SELECT status FROM idem_claim('bad', scope => 'bad');
SAVEPOINT s;
SELECT * FROM idem_claim('bad', scope => 'bad', ttl => '-1 s') :fails
ROLLBACK TO s;
SELECT * FROM idem_claim('', scope => 'bad') :fails
ROLLBACK TO s;
SELECT idem_complete('bad', '"still ours"', 'bad');
COMMIT;
SELECT scope, key, response FROM idem_keys WHERE key = 'bad' ORDER BY scope;

-- and the limits themselves are good
BEGIN;
SELECT status FROM idem_claim(:'longest', scope => :'longest', ttl => '3653 days', wait => '1 hour');
SELECT idem_complete(:'longest', '1', :'longest');
SELECT status FROM idem_claim('x', scope => 'limits', ttl => '1 us', wait => '0');
SELECT idem_complete('x', '1', 'limits');
SELECT status FROM idem_claim('y', scope => 'limits', ttl => '-1 day 25 hours', wait => '1 us');
SELECT idem_complete('y', '1', 'limits');
COMMIT;
SELECT status FROM idem_claim(:'longest', scope => :'longest');
SELECT expires_at - completed_at AS ttl FROM idem_keys WHERE key IN (:'longest', 'y') AND scope IN (:'longest', 'limits') ORDER BY 1;
SET idem.claim_wait = '1 h';
SET idem.claim_wait = 0;
RESET idem.claim_wait;
