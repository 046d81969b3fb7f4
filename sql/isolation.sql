--
-- One session at every isolation level. Races are in test/isolation.
--
\set fails '\\g \\echo :SQLSTATE'
CREATE TABLE isolation_work (id int PRIMARY KEY);

BEGIN ISOLATION LEVEL READ UNCOMMITTED;
SELECT status FROM idem_claim('read uncommitted');
SELECT idem_complete('read uncommitted', '1');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM idem_claim('repeatable read');
INSERT INTO isolation_work VALUES (1);
SELECT idem_complete('repeatable read', '1');
-- seen by the one who wrote it
SELECT status, response FROM idem_claim('repeatable read');
SELECT status, response FROM idem_status('repeatable read');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT status FROM idem_claim('serializable');
INSERT INTO isolation_work VALUES (2);
SELECT idem_complete('serializable', '1');
SELECT status, response FROM idem_claim('serializable');
COMMIT;

-- replays, mismatches, releases, savepoints
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM isolation_work;
SELECT status, response FROM idem_claim('read uncommitted');
SELECT status, response FROM idem_claim('serializable');
SELECT status FROM idem_claim('isolation released');
SELECT idem_release('isolation released');
SAVEPOINT s;
SELECT status FROM idem_claim('isolation savepoint');
SELECT idem_complete('isolation savepoint', '1');
ROLLBACK TO s;
SELECT status FROM idem_claim('isolation savepoint');
SELECT idem_complete('isolation savepoint', '2');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT status, response FROM idem_claim('isolation savepoint', '{}');
COMMIT;

-- no predicate locks: a claim brings no conflicts of its own
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT status FROM idem_claim('isolation predicate');
SELECT status FROM idem_claim('serializable');
SELECT idem_complete('isolation predicate', '1');
SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock' AND pid = pg_backend_pid() AND relation::regclass::text LIKE 'idem%';
COMMIT;

-- a claim left open, and a read-only one
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT status FROM idem_claim('isolation open');
COMMIT :fails
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT status FROM idem_claim('isolation read only') :fails
ROLLBACK;

-- an expired key
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM idem_claim('isolation expired', ttl => '1 us');
SELECT idem_complete('isolation expired', '1');
COMMIT;
SELECT pg_sleep(0.01);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM idem_claim('isolation expired');
SELECT idem_complete('isolation expired', '2');
COMMIT;
SELECT status, response FROM idem_claim('isolation expired');
SELECT * FROM isolation_work ORDER BY id;
DROP TABLE isolation_work;
