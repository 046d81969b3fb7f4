--
-- PREPARE TRANSACTION. Where the server allows none, see prepare_1.out.
--
\set fails '\\g \\echo :SQLSTATE'

-- a claim left open is refused here, not at COMMIT PREPARED
BEGIN;
SELECT status FROM idem_claim('prepared');
PREPARE TRANSACTION 'regress_idem' :fails
SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'regress_idem';
SELECT status FROM idem_status('prepared');

-- a completed one is held by the prepared transaction
BEGIN;
SELECT status FROM idem_claim('prepared');
SELECT idem_complete('prepared', '"by two phases"');
PREPARE TRANSACTION 'regress_idem';
SELECT status, response, attempt, holder_pid FROM idem_status('prepared');
SELECT status FROM idem_claim('prepared', wait => '0');
SELECT pid, query, key_hash = idem_digest('prepared') AS this_key FROM idem_holders;
BEGIN;
SET LOCAL idem.claim_wait = 0;
SELECT idem_evict('prepared') :fails
ROLLBACK;
-- this session has no part in it any more
BEGIN;
SELECT idem_complete('prepared', '1') :fails
ROLLBACK;
-- a wait that is cancelled: the block that catches it is undone, all of it and nothing else
CREATE TABLE prepare_work (id int);
SET statement_timeout = '1 s';
DO $$
BEGIN
	INSERT INTO prepare_work VALUES (1);
	BEGIN
		INSERT INTO prepare_work VALUES (2);
		PERFORM idem_claim('prepare within');
		PERFORM idem_claim('prepared', wait => '1 hour');
	EXCEPTION WHEN query_canceled THEN
		INSERT INTO prepare_work VALUES (3);
	END;
END $$ :fails
RESET statement_timeout;
SELECT * FROM prepare_work ORDER BY id;
DROP TABLE prepare_work;
COMMIT PREPARED 'regress_idem';
SELECT status, response FROM idem_claim('prepared');

-- rolled back, it leaves no trace; a released one neither
BEGIN;
SELECT status FROM idem_claim('prepared and rolled back');
SELECT idem_complete('prepared and rolled back', '1');
PREPARE TRANSACTION 'regress_idem';
ROLLBACK PREPARED 'regress_idem';
SELECT status FROM idem_status('prepared and rolled back');
BEGIN;
SELECT status FROM idem_claim('prepared and released');
SELECT idem_release('prepared and released');
PREPARE TRANSACTION 'regress_idem';
SELECT status, holder_pid FROM idem_status('prepared and released');
COMMIT PREPARED 'regress_idem';
SELECT status FROM idem_status('prepared and released');
SELECT count(*) FROM idem_holders;
