--
-- Claims, completions and releases follow their savepoints.
--
\set fails '\\g \\echo :SQLSTATE'
-- what this session knows of a key; whether its lock is held
PREPARE state (text) AS
	SELECT status, holder_pid IS NOT DISTINCT FROM pg_backend_pid() AS mine,
	       EXISTS (SELECT FROM idem_holders WHERE pid = pg_backend_pid() AND key_hash = idem_digest($1)) AS locked
	FROM idem_status($1);

-- a claim, rolled back: free at once, and may be claimed again
BEGIN;
SAVEPOINT a;
SELECT status FROM idem_claim('sp');
EXECUTE state ('sp');
ROLLBACK TO a;
EXECUTE state ('sp');
SELECT status FROM idem_claim('sp');
ROLLBACK TO a;
SELECT idem_complete('sp', '1') :fails
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT status FROM idem_claim('sp');
ROLLBACK TO a;
COMMIT;

-- a claim, its savepoint released: stays
BEGIN;
SAVEPOINT a;
SELECT status FROM idem_claim('sp');
RELEASE a;
EXECUTE state ('sp');
SELECT status FROM idem_claim('sp') :fails
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT status FROM idem_claim('sp');
RELEASE a;
COMMIT :fails

-- a completion, rolled back: the claim is open again
BEGIN;
SELECT status FROM idem_claim('sp');
SAVEPOINT a;
SELECT idem_complete('sp', '"first try"');
EXECUTE state ('sp');
ROLLBACK TO a;
EXECUTE state ('sp');
SAVEPOINT b;
SELECT status FROM idem_claim('sp') :fails
ROLLBACK TO b;
SELECT idem_complete('sp', '"second try"');
COMMIT;
SELECT status, response FROM idem_claim('sp');
SELECT count(*) FROM idem_keys WHERE key = 'sp';

-- and is refused at COMMIT when left so
BEGIN;
SELECT status FROM idem_claim('sp open');
SAVEPOINT a;
SELECT idem_complete('sp open', '1');
ROLLBACK TO a;
COMMIT :fails

-- claim and completion, rolled back together
BEGIN;
SAVEPOINT a;
SELECT status FROM idem_claim('sp both');
SELECT idem_complete('sp both', '1');
ROLLBACK TO a;
EXECUTE state ('sp both');
COMMIT;
EXECUTE state ('sp both');

-- a release, rolled back: the claim is open again
BEGIN;
SELECT status FROM idem_claim('sp release');
SAVEPOINT a;
SELECT idem_release('sp release');
ROLLBACK TO a;
SELECT idem_complete('sp release', '"not given up"');
COMMIT;
SELECT status, response FROM idem_claim('sp release');

-- released and claimed again within, then rolled back
BEGIN;
SELECT status FROM idem_claim('sp again');
SAVEPOINT a;
SELECT idem_release('sp again');
SELECT status FROM idem_claim('sp again');
SELECT idem_complete('sp again', '"within"');
ROLLBACK TO a;
SELECT idem_complete('sp again', '"without"');
COMMIT;
SELECT status, response FROM idem_claim('sp again');

-- nested: the inner is released into the outer, which is rolled back
BEGIN;
SELECT status FROM idem_claim('sp 0');
SAVEPOINT a;
SELECT status FROM idem_claim('sp 1');
SAVEPOINT b;
SELECT status FROM idem_claim('sp 2');
SELECT idem_complete('sp 0', '0');
SELECT idem_complete('sp 1', '1');
SELECT idem_complete('sp 2', '2');
RELEASE b;
SELECT k, status FROM generate_series(0, 2) AS k, idem_status('sp ' || k);
ROLLBACK TO a;
SELECT k, status FROM generate_series(0, 2) AS k, idem_status('sp ' || k);
SELECT idem_complete('sp 0', '"outer"');
COMMIT;
SELECT k, status, response FROM generate_series(0, 2) AS k, idem_status('sp ' || k);

-- nested: the inner is rolled back, the outer released
BEGIN;
SAVEPOINT a;
SELECT status FROM idem_claim('sp outer');
SAVEPOINT b;
SELECT status FROM idem_claim('sp inner');
SELECT idem_complete('sp outer', '"inner"');
SAVEPOINT c;
SELECT idem_complete('sp inner', '"innermost"');
RELEASE c;
ROLLBACK TO b;
SELECT idem_complete('sp outer', '"outer"');
RELEASE a;
COMMIT;
SELECT k, status, response FROM unnest('{outer,inner}'::text[]) AS k, idem_status('sp ' || k);

-- a savepoint of the same name again, over and over
BEGIN;
SELECT status FROM idem_claim('sp loop');
DO $$
BEGIN
	FOR i IN 1..20 LOOP
		BEGIN
			PERFORM idem_complete('sp loop', to_jsonb(i));
			RAISE EXCEPTION 'undo' USING ERRCODE = 'P9999';
		EXCEPTION WHEN SQLSTATE 'P9999' THEN
			NULL;
		END;
	END LOOP;
	PERFORM idem_complete('sp loop', '"last"');
END $$;
COMMIT;
SELECT status, response FROM idem_claim('sp loop');

-- an error in a savepoint: the claim outside is untouched
BEGIN;
SELECT status FROM idem_claim('sp error');
SAVEPOINT a;
SELECT idem_complete('sp error', NULL) :fails
ROLLBACK TO a;
SELECT idem_complete('sp error', '"recovered"');
COMMIT;
SELECT status, response FROM idem_claim('sp error');

SELECT key, response FROM idem_keys WHERE key LIKE 'sp%' ORDER BY key;
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
