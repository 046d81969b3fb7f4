-- How much a backend grows by a million claims, each in a transaction of its own.
CREATE OR REPLACE PROCEDURE claim_many(n bigint) LANGUAGE plpgsql AS $$
DECLARE
    k text;
BEGIN
    FOR i IN 1..n LOOP
        k := gen_random_uuid();
        PERFORM idem_claim(k);
        PERFORM idem_complete(k, '{"order": 4711, "status": "created"}');
        COMMIT;
    END LOOP;
END $$;

CREATE OR REPLACE VIEW backend_memory AS
SELECT (SELECT sum(total_bytes) FROM pg_backend_memory_contexts) AS contexts,
       1024 * substring(pg_read_file('/proc/self/status') FROM 'RssAnon:\s*(\d+)')::bigint AS private;

SET synchronous_commit = off; -- quicker, and of no weight here
SELECT least(:keys, 1000000) AS claims \gset
-- Caches fill once, those of the view too.
CALL claim_many(10000);
SELECT * FROM backend_memory \g /dev/null
CALL claim_many(10000);
SELECT contexts, private FROM backend_memory \gset before_
CALL claim_many(:claims);
SELECT contexts, private FROM backend_memory \gset after_
INSERT INTO sample VALUES
    ('memory', 'idem', 1, 'claims', :claims),
    ('memory', 'idem', 1, 'contexts', :after_contexts - :before_contexts),
    ('memory', 'idem', 1, 'private', :after_private - :before_private);
