/* idem--0.1.0.sql: see README.md and the comment of each function */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION idem" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Keys: where finished ones are kept
-- ---------------------------------------------------------------------------

-- The library writes these tables directly and knows their columns by number
-- (tables.h). Rows only come and, all at once, go: there is nothing to vacuum,
-- and an autovacuum would only stand in the way of TRUNCATE.
CREATE TABLE idem_keys_0 (
	digest pg_catalog.int8 NOT NULL,
	claimed_at pg_catalog.timestamptz NOT NULL,
	completed_at pg_catalog.timestamptz NOT NULL,
	expires_at pg_catalog.timestamptz NOT NULL,
	life pg_catalog.int4,               -- NULL: its first
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	fingerprint pg_catalog.bytea,       -- NULL: claimed without a request
	response pg_catalog.jsonb NOT NULL
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_keys_1 (LIKE idem_keys_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_keys_2 (LIKE idem_keys_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX idem_keys_0_digest ON idem_keys_0 USING hash (digest pg_catalog.int8_ops);
CREATE INDEX idem_keys_1_digest ON idem_keys_1 USING hash (digest pg_catalog.int8_ops);
CREATE INDEX idem_keys_2_digest ON idem_keys_2 USING hash (digest pg_catalog.int8_ops);

-- rows that may outlive the ring
CREATE TABLE idem_pinned (LIKE idem_keys_0) USING heap;
CREATE INDEX idem_pinned_digest ON idem_pinned USING hash (digest pg_catalog.int8_ops);
CREATE INDEX idem_pinned_expires_at ON idem_pinned USING btree (expires_at pg_catalog.timestamptz_ops);

-- One row, the state of the ring (ring.h). A dump carries it once it has
-- changed; of two rows, after a restore, the later step counts.
CREATE TABLE idem_ring (
	store pg_catalog.text NOT NULL,
	step pg_catalog.int8 NOT NULL,
	current pg_catalog.int2 NOT NULL,
	opened_at pg_catalog.timestamptz NOT NULL,
	ttl pg_catalog.int4[] NOT NULL,
	ends_at pg_catalog.timestamptz[] NOT NULL,
	emptied pg_catalog.xid8 NOT NULL
) USING heap;
INSERT INTO idem_ring VALUES
	('keys', 0, 0, pg_catalog.now(), '{86400,0,0}', '{infinity,-infinity,-infinity}', '0');

CREATE FUNCTION idem_ring_changed() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_ring_changed() FROM PUBLIC;
COMMENT ON FUNCTION idem_ring_changed() IS
$$Trigger that makes all sessions read the ring's state anew when it is written by SQL, as a restore does.$$;
CREATE TRIGGER idem_ring_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON idem_ring
FOR EACH STATEMENT EXECUTE FUNCTION idem_ring_changed();

-- deletes by direct access would otherwise trouble a FOR ALL TABLES publication
ALTER TABLE idem_keys_0 REPLICA IDENTITY FULL;
ALTER TABLE idem_keys_1 REPLICA IDENTITY FULL;
ALTER TABLE idem_keys_2 REPLICA IDENTITY FULL;
ALTER TABLE idem_pinned REPLICA IDENTITY FULL;
ALTER TABLE idem_ring REPLICA IDENTITY FULL;

SELECT pg_catalog.pg_extension_config_dump('idem_keys_0', '');
SELECT pg_catalog.pg_extension_config_dump('idem_keys_1', '');
SELECT pg_catalog.pg_extension_config_dump('idem_keys_2', '');
SELECT pg_catalog.pg_extension_config_dump('idem_pinned', '');
SELECT pg_catalog.pg_extension_config_dump('idem_ring', 'WHERE step OPERATOR(pg_catalog.>) 0');

-- ---------------------------------------------------------------------------
-- Keys: what applications call
-- ---------------------------------------------------------------------------

-- a type of its own: the executor finds its columns sooner than those of OUT arguments
CREATE TYPE idem_claim_result AS (
	status text, response jsonb, attempt integer,
	token bigint, checkpoint jsonb, cacheable_until timestamptz);
REVOKE ALL ON TYPE idem_claim_result FROM PUBLIC;
COMMENT ON TYPE idem_claim_result IS 'What idem_claim() answers.';

CREATE FUNCTION idem_claim(
	key text, request jsonb DEFAULT NULL, scope text DEFAULT '',
	wait interval DEFAULT NULL, ttl interval DEFAULT NULL, lease interval DEFAULT NULL)
RETURNS idem_claim_result
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_claim(text, jsonb, text, interval, interval, interval) FROM PUBLIC;
COMMENT ON FUNCTION idem_claim(text, jsonb, text, interval, interval, interval) IS
$$Claim an idempotency key for this transaction, before the work.

key      1 to 255 bytes; what the client sent, or derived from what the request is
request  its body; a retry with another one answers "mismatch". NULL: not compared
scope    0 to 255 bytes; separates tenants or consumers
wait     how long to wait for another transaction that holds the key: 0 asks at once, at most one hour, NULL means idem.claim_wait; a shorter lock_timeout ends it sooner
ttl      how long to remember the key once completed: at most ten years, NULL means idem.key_ttl
lease    not supported yet

status is
  claimed      this transaction owns the key: do the work, then idem_complete()
  completed    done before: response is what was stored; it may be cached until cacheable_until
  in_progress  another transaction holds the key and wait ran out
  mismatch     the key was completed with another request
  cancelled    (not given yet)
attempt is 1, token and checkpoint are NULL without a lease.
Only "claimed" permits the work. The key is locked until the transaction ends, and nothing is written; a rollback, also to a savepoint before the claim, frees it. A COMMIT or PREPARE TRANSACTION that finds the claim neither completed nor released fails with ID004.

Errors: ID002 already claimed by this transaction; ID005, ID006 invalid key or scope; ID007 ttl or wait out of range; 25006 read-only transaction or standby; 40001 above READ COMMITTED, when the key was written after the transaction's snapshot; 40P01 deadlock, when transactions claim several keys in different orders; 0A000 lease.

Cost: one lock, and one index probe for each generation of the ring, however many keys are stored.$$;

CREATE FUNCTION idem_complete(key text, response jsonb, scope text DEFAULT '', token bigint DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_complete(text, jsonb, text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_complete(text, jsonb, text, bigint) IS
$$Store the response of a key that this transaction has claimed, and answer with it as stored. It is kept if and only if the transaction commits, and every retry is answered with it, byte for byte, until the key expires: its ttl counts from here.

response  any JSON; pass 'null' for none
token     not supported yet

Errors: ID001 not claimed by this transaction; ID003 completed already; ID005, ID006 invalid key or scope; 22004 response is NULL; 25006 read-only transaction; 0A000 token.

Cost: one row and one index entry.$$;

CREATE FUNCTION idem_release(key text, scope text DEFAULT '', token bigint DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_release(text, text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_release(text, text, bigint) IS
$$Give up the claim of a key, so that a retry may run. Others still wait until this transaction ends.

Warns when the transaction has written since the claim: committing would keep the effect and lose the key. Roll back instead.

Errors: ID001 not claimed by this transaction; ID003 completed already; ID005, ID006 invalid key or scope; 0A000 token.$$;

CREATE FUNCTION idem_status(
	key text, scope text DEFAULT '',
	OUT status text, OUT response jsonb, OUT attempt integer,
	OUT claimed_at timestamptz, OUT completed_at timestamptz, OUT expires_at timestamptz,
	OUT holder_pid integer)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION idem_status(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_status(text, text) IS
$$What is known of one key at this moment, without claiming it: "completed" with its response, "in_progress" with the process that holds it (NULL for a prepared transaction), or "unknown", which includes expired. To look at, not to act upon: only idem_claim() decides.

Errors: ID005, ID006 invalid key or scope; 25006 standby; 40001 as idem_claim().

Cost: one index probe for each generation of the ring.$$;

CREATE FUNCTION idem_evict(key text, scope text DEFAULT '') RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_evict(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_evict(text, text) IS
$$Forget a completed key, so that it can be claimed anew: a DBA's verb. The work that was done under it stays done. True when there was such a key.

Errors: ID002, ID003 the key was claimed or completed by this very transaction; ID005, ID006 invalid key or scope; 55P03 another transaction held it for longer than idem.claim_wait; 25006 read-only transaction or standby; 40001 as idem_claim().$$;

CREATE FUNCTION idem_digest(key text, scope text DEFAULT '') RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
REVOKE ALL ON FUNCTION idem_digest(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_digest(text, text) IS
$$What the key tables are indexed by: the first eight bytes of SHA-256 over scope, a zero byte and key. SELECT * FROM idem_keys WHERE digest = idem_digest('some key') AND key = 'some key'.

Errors: ID005, ID006 invalid key or scope.$$;

-- ---------------------------------------------------------------------------
-- Keys: what DBAs read
-- ---------------------------------------------------------------------------

CREATE VIEW idem_keys AS
SELECT k.scope, k.key, 'completed'::pg_catalog.text AS status, 1 AS attempt, k.response,
       k.claimed_at, k.completed_at, k.expires_at, k.digest
FROM (SELECT * FROM idem_keys_0
      UNION ALL SELECT * FROM idem_keys_1
      UNION ALL SELECT * FROM idem_keys_2
      UNION ALL SELECT * FROM idem_pinned) AS k
WHERE k.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp();
COMMENT ON VIEW idem_keys IS
$$Every key that is remembered. For one key use idem_status(key), or WHERE digest = idem_digest(key): those use the indexes.$$;

CREATE VIEW idem_holders AS
SELECT l.pid, a.xact_start AS since, a.query,
       (l.classid::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32)
           OPERATOR(pg_catalog.|) l.objid::pg_catalog.int8 AS key_hash
FROM pg_catalog.pg_locks AS l
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text
  AND l.objsubid OPERATOR(pg_catalog.=) 7341::pg_catalog.int2
  AND l.database OPERATOR(pg_catalog.=)
      (SELECT d.oid FROM pg_catalog.pg_database AS d
       WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
  AND l.granted;
COMMENT ON VIEW idem_holders IS
$$Who holds keys now: process (NULL: a prepared transaction), since when its transaction runs, its latest query, and the key's idem_digest().$$;

CREATE VIEW idem_stores AS
WITH ring AS (
	SELECT * FROM idem_ring ORDER BY step USING OPERATOR(pg_catalog.>) LIMIT 1
), generation AS (
	SELECT g.generation, g.relid, g.generation OPERATOR(pg_catalog.=) r.current::pg_catalog.int4 AS is_current,
	       (r.ends_at)[g.generation OPERATOR(pg_catalog.+) 1] AS ends_at,
	       r.opened_at OPERATOR(pg_catalog.+)
	           pg_catalog.make_interval(secs => (r.ttl)[g.generation OPERATOR(pg_catalog.+) 1]) AS advance_at,
	       pg_catalog.pg_relation_size(g.relid) OPERATOR(pg_catalog.=) 0::pg_catalog.int8 AS is_empty
	FROM ring AS r,
	     (VALUES (0, 'idem_keys_0'::pg_catalog.regclass), (1, 'idem_keys_1'::pg_catalog.regclass),
	             (2, 'idem_keys_2'::pg_catalog.regclass))
	         AS g (generation, relid)
)
SELECT 'keys'::pg_catalog.text AS store, g.generation,
       pg_catalog.pg_stat_get_live_tuples(g.relid) AS rows,
       pg_catalog.pg_total_relation_size(g.relid) AS bytes,
       CASE WHEN g.is_current THEN g.advance_at
            WHEN pg_catalog.isfinite(g.ends_at) THEN g.ends_at
       END AS next_rotation,
       CASE WHEN NOT g.is_current AND NOT g.is_empty
                 AND g.ends_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()
            THEN (SELECT pg_catalog.array_agg(DISTINCT l.pid) FROM pg_catalog.pg_locks AS l
                  WHERE l.relation OPERATOR(pg_catalog.=) g.relid::pg_catalog.oid AND l.granted
                    AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid())
       END AS blocked_by
FROM generation AS g
UNION ALL
SELECT 'pinned'::pg_catalog.text, NULL,
       pg_catalog.pg_stat_get_live_tuples('idem_pinned'::pg_catalog.regclass),
       pg_catalog.pg_total_relation_size('idem_pinned'::pg_catalog.regclass), NULL, NULL;
COMMENT ON VIEW idem_stores IS
$$What takes space, and when it is freed: each generation of the ring with its rows (an estimate), its bytes, when the ring next turns there (for the current one: when another takes over; for an older one: when all its rows have expired), and which processes hold up an overdue one.$$;

CREATE PROCEDURE idem_maintain()
AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON PROCEDURE idem_maintain() FROM PUBLIC;
COMMENT ON PROCEDURE idem_maintain() IS
$$Do all upkeep that is due, in steps with a commit after each: turn the ring of generations, remove expired rows of idem_pinned. It waits for no lock; what is held up is done by the next call (idem_stores tells by whom). Run it every minute or so.

Errors: 2D000 inside a transaction block; 25006 read-only transaction or standby.$$;

CREATE FUNCTION idem_verify(OUT invariant text, OUT object text, OUT detail text)
RETURNS SETOF record LANGUAGE SQL VOLATILE PARALLEL RESTRICTED
BEGIN ATOMIC
	WITH ring AS (
		SELECT * FROM idem_ring ORDER BY step USING OPERATOR(pg_catalog.>) LIMIT 1
	), stored AS (
		SELECT 0 AS generation, * FROM idem_keys_0
		UNION ALL SELECT 1, * FROM idem_keys_1
		UNION ALL SELECT 2, * FROM idem_keys_2
		UNION ALL SELECT NULL, * FROM idem_pinned
	), live AS (
		SELECT * FROM stored WHERE expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
	)
	SELECT 'a live key has one row'::pg_catalog.text,
	       pg_catalog.format('key %L, scope %L', l.key, l.scope),
	       pg_catalog.format('%s rows, completed at %s', pg_catalog.count(*),
	                         pg_catalog.array_agg(l.completed_at))
	FROM live AS l
	GROUP BY l.digest, l.scope, l.key, l.life
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	UNION ALL
	SELECT 'a row is found by its digest', pg_catalog.format('key %L, scope %L', s.key, s.scope),
	       pg_catalog.format('digest is %s, should be %s', s.digest, idem_digest(s.key, s.scope))
	FROM stored AS s
	WHERE s.digest OPERATOR(pg_catalog.<>) idem_digest(s.key, s.scope)
	UNION ALL
	SELECT 'no row outlives its generation', pg_catalog.format('key %L, scope %L', l.key, l.scope),
	       pg_catalog.format('expires at %s, generation %s ends at %s', l.expires_at, l.generation,
	                         (r.ends_at)[l.generation OPERATOR(pg_catalog.+) 1])
	FROM live AS l, ring AS r
	WHERE l.expires_at OPERATOR(pg_catalog.>) (r.ends_at)[l.generation OPERATOR(pg_catalog.+) 1]
	UNION ALL
	SELECT 'the current generation is open', pg_catalog.format('generation %s', r.current),
	       pg_catalog.format('ends at %s', (r.ends_at)[r.current::pg_catalog.int4 OPERATOR(pg_catalog.+) 1])
	FROM ring AS r
	WHERE (r.ends_at)[r.current::pg_catalog.int4 OPERATOR(pg_catalog.+) 1]
	      OPERATOR(pg_catalog.<>) 'infinity'::pg_catalog.timestamptz
	UNION ALL
	SELECT 'every index is valid', i.indexrelid::pg_catalog.regclass::pg_catalog.text, 'it is not'
	FROM pg_catalog.pg_index AS i
	WHERE i.indrelid OPERATOR(pg_catalog.=) ANY (ARRAY[
	          'idem_keys_0'::pg_catalog.regclass::pg_catalog.oid, 'idem_keys_1'::pg_catalog.regclass::pg_catalog.oid,
	          'idem_keys_2'::pg_catalog.regclass::pg_catalog.oid, 'idem_pinned'::pg_catalog.regclass::pg_catalog.oid])
	  AND NOT i.indisvalid;
END;
REVOKE ALL ON FUNCTION idem_verify() FROM PUBLIC;
COMMENT ON FUNCTION idem_verify() IS
$$Check every invariant of what is stored; no rows means healthy. Reads all keys: minutes for hundreds of millions.$$;

CREATE FUNCTION idem_grant(role name, profile text) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_grant(name, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_grant(name, text) IS
$$Grant a role what it needs: profile "app" claims and completes keys; "dba" also reads all keys, evicts and maintains. Runs as its caller, who must be able to grant it. Undo with REVOKE.

Errors: 22004 NULL; 22023 unknown profile; 42704 no such role; 25006 read-only transaction or standby; 0A000 profile "consumer" (no outbox yet).$$;
