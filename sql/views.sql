--
-- What DBAs read: idem_keys, idem_holders, idem_stores.
--
BEGIN;
SELECT status FROM idem_claim('view', '{"a": 1}', 'views', ttl => '1 hour');
SELECT status FROM idem_claim('view pinned', scope => 'views', ttl => '30 days');
SELECT status FROM idem_claim('view expired', scope => 'views', ttl => '1 us');
SELECT status FROM idem_claim('view open', scope => 'views');
SELECT idem_complete('view', '{"b": 2}', 'views'), idem_complete('view pinned', '1', 'views'), idem_complete('view expired', '1', 'views');
SELECT pg_sleep(0.01);

-- in the transaction's own eyes; a claim in flight is in idem_holders
SELECT scope, key, status, attempt, response, claimed_at <= completed_at AS claimed_first,
       expires_at - completed_at AS ttl, digest = idem_digest(key, scope) AS by_digest
FROM idem_keys WHERE scope = 'views' ORDER BY key;
SELECT k, pid = pg_backend_pid() AS mine, since = now() AS since_begin, query LIKE '%idem_holders%' AS query
FROM unnest('{view,view pinned,view expired,view open,another}'::text[]) AS k
LEFT JOIN idem_holders ON key_hash = idem_digest(k, 'views') ORDER BY k;
SELECT status FROM idem_claim('ks');
SELECT key_hash FROM idem_holders WHERE key_hash = idem_digest('ks');
-- the application's own advisory locks are none of ours
SELECT pg_advisory_xact_lock(idem_digest('own lock')), pg_advisory_xact_lock(7341, 7341);
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
SELECT status FROM idem_claim('own lock', wait => '0');
ROLLBACK;
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();

-- looking one key up uses the indexes
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT scope, key, response FROM idem_keys WHERE digest = idem_digest('k');
-- also with the key, for which idem_pinned has two to choose from
CREATE FUNCTION pg_temp.index_scans(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    line text;
    scans bigint := 0;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        scans := scans + (line ~ 'Index Scan using idem_(keys_[012]|pinned)_')::int;
    END LOOP;
    RETURN scans;
END $$;
SELECT pg_temp.index_scans($$SELECT scope, key, response FROM idem_keys WHERE digest = idem_digest('k') AND key = 'k'$$);
PREPARE look (text, text) AS SELECT response FROM idem_keys WHERE digest = idem_digest($1, $2);
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE look ('k', '');
RESET ALL;
EXECUTE look ('k', '');

-- the ring's generations and idem_pinned; a fresh ring has one that takes rows
SELECT s.store, generation, rows >= 0 AS rows, bytes > 0 AS bytes, next_rotation - opened_at AS next_rotation, blocked_by
FROM idem_stores AS s LEFT JOIN idem_ring USING (store) WHERE s.store <> 'watermarks' ORDER BY s.store, generation;

-- none of them is for writing
\set VERBOSITY terse
DELETE FROM idem_keys;
INSERT INTO idem_keys (key) VALUES ('k');
UPDATE idem_holders SET pid = 0;
DELETE FROM idem_stores;
