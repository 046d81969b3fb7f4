-- What a row of each store takes, with its index entries: psql -X -d SCRATCH -f bench/sizes.sql, in a database of its
-- own.
\set rows 100000
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE EXTENSION idem;
CREATE FUNCTION undo(args jsonb) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE fill(rows int) LANGUAGE plpgsql AS $$
DECLARE
    k text;
BEGIN
    FOR i IN 1..rows LOOP
        k := gen_random_uuid();
        PERFORM idem_claim(k, '{"item": "tea"}');
        PERFORM idem_complete(k, '{"order": 4711, "status": "created"}');
        k := gen_random_uuid();
        PERFORM idem_claim(k, '{"item": "tea"}');
        PERFORM idem_compensate_with(k, 'undo(jsonb)', '{"order": 4711}', deadline => '1 day');
        PERFORM idem_complete(k, '{"order": 4711, "status": "created"}');
        PERFORM idem_publish('orders', '{"order": 4711, "status": "created", "pence": 350, "item": "white hanging heart"}', key => k, type => 'created');
        PERFORM idem_consume('elsewhere', k);
        IF i % 1000 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$;
CALL fill(:rows);

SELECT s.what, pg_relation_size(s.tbl) / :rows AS "table", pg_indexes_size(s.tbl) / :rows AS indexes,
       (pg_relation_size(s.tbl) + pg_indexes_size(s.tbl)) / :rows AS together
FROM (VALUES (1, 'key', 'idem_keys_0'::regclass), (2, 'key with a compensation', 'idem_pinned'), (3, 'message', 'idem_outbox_0'),
             (4, 'message in the inbox', 'idem_inbox_0')) AS s (n, what, tbl)
ORDER BY n;
