--
-- idem_release: gives the claim up, and warns where that loses protection.
--
CREATE TABLE release_work (id int PRIMARY KEY, note text);
INSERT INTO release_work VALUES (1, 'there before');

-- nothing written: no warning, and a retry may run
BEGIN;
SELECT status FROM idem_claim('release');
SELECT count(*) FROM release_work;
SELECT idem_release('release');
COMMIT;
BEGIN;
SELECT status FROM idem_claim('release');
ROLLBACK;

-- written before the claim: none either
BEGIN;
INSERT INTO release_work VALUES (2, 'before');
SELECT status FROM idem_claim('release');
SELECT idem_release('release');
COMMIT;

-- written since
BEGIN;
SELECT status FROM idem_claim('release');
INSERT INTO release_work VALUES (3, 'since');
SELECT idem_release('release');
COMMIT;
BEGIN;
INSERT INTO release_work VALUES (4, 'before');
SELECT status FROM idem_claim('release');
UPDATE release_work SET note = 'since' WHERE id = 1;
SELECT idem_release('release');
ROLLBACK;
-- since each claim for itself
BEGIN;
SELECT status FROM idem_claim('release first');
INSERT INTO release_work VALUES (4, 'between');
SELECT status FROM idem_claim('release second');
SELECT idem_release('release second');
SELECT idem_release('release first');
ROLLBACK;
-- another key's completion is a write
BEGIN;
SELECT status FROM idem_claim('release');
SELECT status FROM idem_claim('release other');
SELECT idem_complete('release other', '1');
SELECT idem_release('release');
ROLLBACK;

-- false alarms, hence a warning and no error: a row lock, a rolled-back savepoint
BEGIN;
SELECT status FROM idem_claim('release');
SELECT id FROM release_work WHERE id = 1 FOR UPDATE;
SELECT idem_release('release');
COMMIT;
BEGIN;
SELECT status FROM idem_claim('release');
SAVEPOINT s;
INSERT INTO release_work VALUES (4, 'undone');
ROLLBACK TO s;
SELECT idem_release('release');
COMMIT;

-- the lock stays until the transaction ends
BEGIN;
SELECT status FROM idem_claim('release');
SELECT idem_release('release');
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid() AND key_hash = idem_digest('release');
COMMIT;
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();

-- nothing is kept of it
SELECT count(*) FROM idem_keys WHERE key LIKE 'release%';
SELECT * FROM release_work ORDER BY id;
DROP TABLE release_work;
