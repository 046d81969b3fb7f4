-- A generation full of keys that is the next to go, and one that takes claims.
SELECT pg_get_indexdef('idem_keys_0_digest'::regclass) AS index \gset
DROP INDEX idem_keys_0_digest;
INSERT INTO idem_keys_0 (digest, claimed_at, completed_at, expires_at, scope, key, response)
SELECT idem_digest(key), now(), now(), now() + '1 h', '', key, '{"order": 4711, "status": "created"}'
FROM (SELECT loaded_key(i) AS key FROM generate_series(1, :keys) AS i) AS r;
:index;
UPDATE idem_ring
SET step = 2, current = 1, opened_at = now(), ttl = '{86400,86400,0}', ends_at = ARRAY[now() + '12 h', 'infinity', '-infinity']
WHERE store = 'keys';
