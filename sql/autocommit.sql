--
-- The first thing a newcomer types: a claim all alone, in autocommit.
--
CREATE EXTENSION idem;
\set fails '\\g \\echo :SQLSTATE'

SELECT idem_claim('k') :fails
SELECT status FROM idem_claim('k') :fails

-- completing is a statement, and a transaction, of its own then
SELECT idem_complete('k', '{}') :fails
SELECT idem_release('k') :fails

-- what the hint says works
BEGIN; SELECT status FROM idem_claim('k'); SELECT idem_complete('k', '{"order": 1}'); COMMIT;
-- and a replay needs no transaction of its own
SELECT status, response FROM idem_claim('k');

-- the other trap: one call for each column
BEGIN;
SELECT (idem_claim('star')).* :fails
ROLLBACK;
BEGIN;
SELECT (c).status, (c).attempt FROM (SELECT idem_claim('star') AS c OFFSET 0) AS s;
SELECT idem_release('star');
COMMIT;

-- several statements sent at once are one transaction
SELECT status FROM idem_claim('at once') \; SELECT idem_complete('at once', '1');
SELECT status FROM idem_claim('left open') \; SELECT 1 AS work :fails
SELECT key, response FROM idem_keys ORDER BY key;
