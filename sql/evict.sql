--
-- idem_evict: forget a completed key.
--
\set fails '\\g \\echo :SQLSTATE'
CREATE PROCEDURE pg_temp.complete(key text, response jsonb, ttl interval = NULL) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key, ttl => ttl);
	PERFORM idem_complete(key, response);
END $$;

SELECT idem_evict('evict');
CALL pg_temp.complete('evict', '1');
SELECT idem_evict('evict', 'another scope');
SELECT idem_evict('evict');
SELECT idem_evict('evict');
SELECT status FROM idem_status('evict');
SELECT count(*) FROM idem_keys WHERE key = 'evict';

-- it can be claimed anew, and evicted again
BEGIN;
SELECT status, attempt FROM idem_claim('evict');
SELECT idem_complete('evict', '2');
COMMIT;
SELECT status, response FROM idem_claim('evict');
SELECT idem_evict('evict');
CALL pg_temp.complete('evict', '3');
SELECT status, response FROM idem_claim('evict');

-- rolled back
BEGIN;
SELECT idem_evict('evict');
SELECT status FROM idem_status('evict');
ROLLBACK;
SELECT status, response FROM idem_claim('evict');
BEGIN;
SAVEPOINT s;
SELECT idem_evict('evict');
ROLLBACK TO s;
SELECT status, response FROM idem_claim('evict');
COMMIT;

-- evicted and claimed in one transaction
BEGIN;
SELECT idem_evict('evict');
SELECT status FROM idem_claim('evict');
SELECT idem_complete('evict', '4');
COMMIT;
SELECT status, response FROM idem_claim('evict');
-- the lock is held to the end
BEGIN;
SELECT idem_evict('evict');
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid() AND key_hash = idem_digest('evict');
ROLLBACK;
-- but not when there was nothing to evict
BEGIN;
SELECT idem_evict('no such key');
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
SELECT pg_current_xact_id_if_assigned() IS NULL AS nothing_written;
COMMIT;

-- not by the transaction that claimed it
BEGIN;
SELECT status FROM idem_claim('evict own');
SELECT idem_evict('evict own') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('evict own');
SELECT idem_complete('evict own', '1');
SELECT idem_evict('evict own') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('evict own');
SELECT idem_release('evict own');
SELECT idem_evict('evict own') :fails
ROLLBACK;

-- with a ttl of its own
CALL pg_temp.complete('evict pinned', '1', '30 days');
SELECT idem_evict('evict pinned');
SELECT status FROM idem_status('evict pinned');
CALL pg_temp.complete('evict pinned', '2', '30 days');
SELECT status, response FROM idem_claim('evict pinned');
CALL idem_maintain();
SELECT status, response FROM idem_claim('evict pinned');
-- expired: nothing to evict
CALL pg_temp.complete('evict expired', '1', '1 us');
SELECT pg_sleep(0.01);
SELECT idem_evict('evict expired');

-- at every isolation level
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT idem_evict('evict');
SELECT status FROM idem_claim('evict');
SELECT idem_complete('evict', '5');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT idem_evict('evict');
COMMIT;

SELECT key, response FROM idem_keys WHERE key LIKE 'evict%' ORDER BY key;
SELECT * FROM idem_verify();
