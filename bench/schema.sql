-- What all contestants share, and where the figures are collected.
CREATE EXTENSION idem;
CREATE EXTENSION pg_prewarm;

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer bigint NOT NULL,
    item text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Loaded key number i: 36 bytes as a UUID has, different from the first on, and easily
-- computed by pgbench too. Number 1 is the youngest, number :keys will expire in a moment.
CREATE FUNCTION loaded_key(i bigint) RETURNS text LANGUAGE SQL IMMUTABLE PARALLEL SAFE
RETURN (100000000000000 + i * 59604644783 % 900000000000000)::text || '-4e1d-91b7-c2a60f3-ld';

-- Keys number last down to first, evenly over 24 hours, :keys in all.
CREATE FUNCTION load_generation(generation regclass, first bigint, last bigint, keys bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %s (digest, claimed_at, completed_at, expires_at, scope, key, response)
         SELECT idem_digest(key), at, at, at + ''24 h'', '''', key, ''{"order": 4711, "status": "created"}''
         FROM (SELECT loaded_key(i) AS key, now() - ''24 h''::interval * (i / $3::float8) AS at
               FROM (SELECT generate_series($2, $1, -1) AS i) AS n) AS r', generation)
    USING first, last, keys;
END $$;

CREATE TABLE loaded (keys bigint NOT NULL, files text NOT NULL);
CREATE TABLE setup (name text NOT NULL, value text NOT NULL);
CREATE TABLE sample (
    work text NOT NULL,
    contestant text NOT NULL,
    round int NOT NULL,
    metric text NOT NULL,
    value float8 NOT NULL,
    at float8 NOT NULL DEFAULT 0 -- where on the axis of what grows
);
