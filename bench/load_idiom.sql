-- The hand-written idiom: a table with a primary key on the idempotency key.
-- Collation C, the quickest. The index is as full as random inserts leave one.
CREATE TABLE idiom_keys (
    key text COLLATE "C" NOT NULL,
    status text NOT NULL,
    response jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO idiom_keys
SELECT loaded_key(i), 'completed', '{"order": 4711, "status": "created"}', now() - '24 h'::interval * (i / :keys::float8)
FROM (SELECT generate_series(:keys, 1, -1) AS i) AS n;
ALTER TABLE idiom_keys ADD PRIMARY KEY (key) WITH (fillfactor = 70);
VACUUM ANALYZE idiom_keys;
