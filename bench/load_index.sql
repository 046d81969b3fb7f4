-- The same generations twice, with a hash and with a b-tree index on the digest.
-- Lookups and inserts are in SQL here; only the difference between the two means something.
CREATE FUNCTION load_generation(name text, method text, first bigint, last bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE %s (LIKE public.idem_keys_0) WITH (autovacuum_enabled = off)', name);
    EXECUTE format('CREATE INDEX ON %s USING %s (digest)', name, method);
    EXECUTE format(
        'INSERT INTO %s (digest, claimed_at, completed_at, expires_at, scope, key, response)
         SELECT public.idem_digest(key), now(), now(), now() + ''24 h'', '''', key, ''{"order": 4711, "status": "created"}''
         FROM (SELECT loaded_key(generate_series($2, $1, -1)) AS key) AS r', name)
    USING first, last;
END $$;

CREATE SCHEMA hash;
CREATE SCHEMA btree;
SELECT load_generation(method || '.keys_0', method, :keys * 3 / 4 + 1, :keys * 5 / 4),
       load_generation(method || '.keys_1', method, :keys / 4 + 1, :keys * 3 / 4),
       load_generation(method || '.keys_2', method, 1, :keys / 4)
FROM unnest('{hash,btree}'::text[]) AS method
\g /dev/null
