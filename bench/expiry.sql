-- Expire half of the keys: by DELETE + VACUUM, and by turning the ring.
\set now 'SELECT clock_timestamp() AS at, pg_current_wal_insert_lsn() AS lsn, f[14]::int + f[15]::int AS ticks FROM string_to_array(pg_read_file(''/proc/self/stat''), '' '') AS f'

CHECKPOINT;
:now \gset before_
DELETE FROM idiom_keys WHERE created_at < (SELECT max(created_at) FROM idiom_keys WHERE key = loaded_key(:keys / 2));
VACUUM idiom_keys;
:now \gset after_
INSERT INTO sample VALUES
    ('expiry', 'idiom', 1, 'ms', extract(epoch FROM :'after_at'::timestamptz - :'before_at') * 1000),
    ('expiry', 'idiom', 1, 'processor_ms', (:after_ticks - :before_ticks) * 10),
    ('expiry', 'idiom', 1, 'wal', :'after_lsn'::pg_lsn - :'before_lsn');

-- Its older generation has twice as many rows. It is cut down first, with pauses: a call gives it idem.naptime.
UPDATE idem_ring SET step = step + 1, ends_at[1] = now() WHERE store = 'keys';
CHECKPOINT;
:now \gset before_
DO $$ BEGIN
    FOR i IN 1..20 LOOP
        CALL idem_maintain();
        EXIT WHEN pg_relation_size('idem_keys_0') = 0;
    END LOOP;
    ASSERT pg_relation_size('idem_keys_0') = 0, 'the generation was not emptied';
END $$;
:now \gset after_
INSERT INTO sample VALUES
    ('expiry', 'idem', 1, 'ms', extract(epoch FROM :'after_at'::timestamptz - :'before_at') * 1000),
    ('expiry', 'idem', 1, 'processor_ms', (:after_ticks - :before_ticks) * 10),
    ('expiry', 'idem', 1, 'wal', :'after_lsn'::pg_lsn - :'before_lsn');
