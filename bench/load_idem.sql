-- idem after two days and a half of even load at the default ttl of 24 h, where generations
-- change every 24 h: the current one is 12 h old (load_idem_current.sql), and half of this one has expired.
-- Never vacuumed, as in life; its index is as full as random inserts leave one.
SELECT replace(pg_get_indexdef('idem_keys_0_digest'::regclass), 'WITH (', 'WITH (fillfactor = 70, ') AS index \gset
DROP INDEX idem_keys_0_digest;
SELECT load_generation('idem_keys_0', :keys / 2 + 1, :keys * 3 / 2, :keys)
\g /dev/null
:index;
UPDATE idem_ring
SET step = 2, current = 1, opened_at = now() - '12 h'::interval, ttl = '{86400,86400,0}',
    ends_at = ARRAY[now() + '12 h', 'infinity', '-infinity']
WHERE store = 'keys';
