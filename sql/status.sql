--
-- idem_status: what is known of a key, without claiming it.
--
\pset null '(null)'
PREPARE status (text, text) AS
	SELECT status, response, attempt, claimed_at <= completed_at AS claimed_first,
	       completed_at <= clock_timestamp() AS completed, expires_at - completed_at AS ttl,
	       holder_pid = pg_backend_pid() AS mine
	FROM idem_status($1, $2);

EXECUTE status ('status', '');
BEGIN;
EXECUTE status ('status', '');
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
SELECT status FROM idem_claim('status', ttl => '2 hours');
EXECUTE status ('status', '');
EXECUTE status ('status', 'another scope');
SELECT idem_complete('status', '{"done": true}');
EXECUTE status ('status', '');
COMMIT;
EXECUTE status ('status', '');
EXECUTE status ('status', 'another scope');

-- the same as in idem_keys
SELECT s IS NOT DISTINCT FROM (k.status, k.response, k.attempt, k.claimed_at, k.completed_at, k.expires_at, NULL::int) AS the_same
FROM idem_keys AS k, idem_status(k.key, k.scope) AS s WHERE k.key = 'status';

-- released, rolled back: unknown
BEGIN;
SELECT status FROM idem_claim('status released');
SELECT idem_release('status released');
EXECUTE status ('status released', '');
ROLLBACK;
EXECUTE status ('status released', '');

-- it claims and writes nothing
BEGIN READ ONLY;
EXECUTE status ('status', '');
EXECUTE status ('status nothing', '');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
EXECUTE status ('status', '');
COMMIT;
