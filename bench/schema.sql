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
RETURN (100000000000000 + i * 87178291199 % 900000000000000)::text || '-4e1d-91b7-c2a60f3-ld';

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
