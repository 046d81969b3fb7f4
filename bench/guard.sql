-- The same table three times: unguarded, guarded by idem, and by a trigger in PL/pgSQL that reads the same rules.
-- Rows go back and forth between two states, so that every UPDATE is one that the machine allows.
INSERT INTO idem_transitions VALUES ('bench', NULL, 'a'), ('bench', 'a', 'b'), ('bench', 'b', 'a');

CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state IS DISTINCT FROM OLD.state AND NOT EXISTS (
        SELECT FROM idem_transitions
        WHERE machine = TG_ARGV[0] AND from_state = OLD.state AND to_state = NEW.state AND enabled)
    THEN
        RAISE EXCEPTION 'machine "%" does not go from "%" to "%"', TG_ARGV[0], OLD.state, NEW.state;
    END IF;
    RETURN NULL;
END $$;

CREATE TABLE guard_plain (
    id bigint PRIMARY KEY,
    state text NOT NULL,
    customer bigint NOT NULL,
    item text NOT NULL,
    amount numeric(12, 2) NOT NULL
) WITH (fillfactor = 50);
INSERT INTO guard_plain SELECT i, 'a', i, 'white hanging heart', 15.30 FROM generate_series(1, 100000) AS i;
CREATE TABLE guard_idem (LIKE guard_plain INCLUDING ALL) WITH (fillfactor = 50);
INSERT INTO guard_idem TABLE guard_plain;
CREATE TABLE guard_plpgsql (LIKE guard_plain INCLUDING ALL) WITH (fillfactor = 50);
INSERT INTO guard_plpgsql TABLE guard_plain;
SELECT idem_attach('guard_idem', 'state', 'bench') \g /dev/null
CREATE TRIGGER guard AFTER UPDATE ON guard_plpgsql FOR EACH ROW EXECUTE FUNCTION guard('bench');
VACUUM ANALYZE;

-- One statement that updates every row: microseconds a row.
CREATE FUNCTION update_all(tbl regclass) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
    rows bigint;
BEGIN
    EXECUTE format('UPDATE %s SET state = CASE state WHEN ''a'' THEN ''b'' ELSE ''a'' END', tbl);
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN extract(epoch FROM clock_timestamp() - began) * 1e6 / rows;
END $$;
