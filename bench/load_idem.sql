-- idem after a day and a half of even load at the default ttl of 24 h, where generations
-- change every 12 h: the current one is 6 h old, and half of the oldest one has expired.
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

SELECT pg_get_indexdef('idem_keys_0_digest'::regclass) AS index_0, pg_get_indexdef('idem_keys_1_digest'::regclass) AS index_1 \gset
DROP INDEX idem_keys_0_digest, idem_keys_1_digest;
SELECT load('idem_keys_0', :keys * 3 / 4 + 1, :keys * 5 / 4, :keys), load('idem_keys_1', :keys / 4 + 1, :keys * 3 / 4, :keys)
\g /dev/null
:index_0;
:index_1;
-- The current one's index grows row by row: what it costs to split its buckets belongs here too.
SELECT load('idem_keys_2', 1, :keys / 4, :keys)
\g /dev/null

UPDATE idem_ring
SET step = 4, current = 2, opened_at = now() - '6 h'::interval, ttl = '{86400,86400,86400,0}',
    ends_at = ARRAY[now() + '6 h', now() + '18 h', 'infinity', '-infinity']
WHERE store = 'keys';
