-- The floor: one row with the key and its response, found through a hash index.
CREATE TABLE floor_keys (
    key text COLLATE "C" NOT NULL,
    response jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO floor_keys
SELECT loaded_key(i), '{"order": 4711, "status": "created"}', now() - '24 h'::interval * (i / :keys::float8)
FROM (SELECT generate_series(:keys, 1, -1) AS i) AS n;
CREATE INDEX ON floor_keys USING hash (key);
VACUUM ANALYZE floor_keys;
