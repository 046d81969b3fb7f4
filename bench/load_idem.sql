-- idem after two days and a half of even load at the default ttl of 24 h, where generations
-- change every 24 h: the current one is 12 h old, and half of the other one has expired.
-- Never vacuumed, as in life.
CREATE FUNCTION load(generation regclass, first bigint, last bigint, keys bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %s (digest, claimed_at, completed_at, expires_at, scope, key, response)
         SELECT idem_digest(key), at, at, at + ''24 h'', '''', key, ''{"order": 4711, "status": "created"}''
         FROM (SELECT loaded_key(i) AS key, now() - ''24 h''::interval * i / $3 AS at
               FROM (SELECT generate_series($2, $1, -1) AS i) AS n) AS r', generation)
    USING first, last, keys;
END $$;

SELECT pg_get_indexdef('idem_keys_0_digest'::regclass) AS index \gset
DROP INDEX idem_keys_0_digest;
SELECT load('idem_keys_0', :keys / 2 + 1, :keys * 3 / 2, :keys)
\g /dev/null
:index;
-- The current one's index grows row by row: what it costs to split its buckets belongs here too.
SELECT load('idem_keys_1', 1, :keys / 2, :keys)
\g /dev/null

UPDATE idem_ring
SET step = 2, current = 1, opened_at = now() - '12 h'::interval, ttl = '{86400,86400,0}',
    ends_at = ARRAY[now() + '12 h', 'infinity', '-infinity']
WHERE store = 'keys';
