--
-- How long a key lives.
--
CREATE PROCEDURE pg_temp.complete(key text, response jsonb, ttl interval = NULL) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key, ttl => ttl, scope => 'expiry');
	PERFORM idem_complete(key, response, 'expiry');
END $$;
CREATE VIEW pg_temp.stored AS
	SELECT 'ring' AS store, * FROM idem_keys_0 WHERE scope = 'expiry'
	UNION ALL SELECT 'pinned', digest, claimed_at, completed_at, expires_at, life, scope, key, fingerprint, response FROM idem_pinned WHERE scope = 'expiry';

-- its own ttl, or idem.key_ttl; in days of 24 hours and months of 30 days
SET TimeZone = 'Europe/Berlin';
CALL pg_temp.complete('default', '1');
SHOW idem.key_ttl;
CALL pg_temp.complete('90 minutes', '1', '90 minutes');
CALL pg_temp.complete('1 day', '1', '1 day');
CALL pg_temp.complete('24 hours 1 us', '1', '24:00:00.000001');
CALL pg_temp.complete('1 month', '1', '1 month');
CALL pg_temp.complete('10 years', '1', '10 years');
SET idem.key_ttl = '1 h';
CALL pg_temp.complete('default of 1 h', '1');
SET idem.key_ttl = '25 h';
CALL pg_temp.complete('default of 25 h', '1');
RESET idem.key_ttl;
SELECT key, expires_at - completed_at AS ttl, store FROM pg_temp.stored ORDER BY 2, 1;
-- that is what may be cached
SELECT key, status, cacheable_until = expires_at AS as_long FROM pg_temp.stored, idem_claim(key, scope => 'expiry') ORDER BY expires_at - completed_at, key;
RESET TimeZone;

-- counted from the completion; the setting is that of the claim
BEGIN;
SELECT status FROM idem_claim('from completion', scope => 'expiry', ttl => '1 hour');
SELECT pg_sleep(0.01);
SELECT idem_complete('from completion', '1', 'expiry');
COMMIT;
SELECT expires_at - completed_at AS ttl, completed_at - claimed_at >= '0.01 s' AS worked
FROM idem_keys WHERE scope = 'expiry' AND key = 'from completion';
BEGIN;
SET LOCAL idem.key_ttl = '2 h';
SELECT status FROM idem_claim('from claim', scope => 'expiry');
SET LOCAL idem.key_ttl = '3 h';
SELECT idem_complete('from claim', '1', 'expiry');
COMMIT;
SELECT expires_at - completed_at AS ttl FROM idem_keys WHERE scope = 'expiry' AND key = 'from claim';

-- expired: unknown, and claimed anew, as often as one likes
CALL pg_temp.complete('short', '1', '1 ms');
SELECT pg_sleep(0.01);
SELECT status FROM idem_status('short', 'expiry');
SELECT count(*) FROM idem_keys WHERE scope = 'expiry' AND key = 'short';
BEGIN;
SELECT status, attempt FROM idem_claim('short', '{"another": "request"}', 'expiry', ttl => '1 ms');
SELECT idem_complete('short', '2', 'expiry');
COMMIT;
SELECT pg_sleep(0.01);
CALL pg_temp.complete('short', '3');
SELECT status, response FROM idem_claim('short', scope => 'expiry');
SELECT life, response FROM pg_temp.stored WHERE key = 'short' ORDER BY life NULLS FIRST;
SELECT * FROM idem_verify();
-- completed here, it answers even when its life is over already
BEGIN;
SELECT status FROM idem_claim('shortest', scope => 'expiry', ttl => '1 us');
SELECT idem_complete('shortest', '1', 'expiry');
SELECT pg_sleep(0.01);
SELECT status, response FROM idem_claim('shortest', scope => 'expiry');
COMMIT;
SELECT status FROM idem_status('shortest', 'expiry');

-- a clock set back: the younger life counts, even when an older one is said to live longer
UPDATE idem_keys_0 SET expires_at = 'infinity' WHERE scope = 'expiry' AND key = 'short' AND life = 2;
SELECT status, response FROM idem_claim('short', scope => 'expiry');
UPDATE idem_keys_0 SET expires_at = completed_at WHERE scope = 'expiry' AND key = 'short' AND life = 2;

-- long: pinned, and purged when expired
CALL pg_temp.complete('long', '1', '30 days');
UPDATE idem_pinned SET expires_at = now() - interval '1 s' WHERE scope = 'expiry' AND key = 'long';
SELECT status FROM idem_status('long', 'expiry');
CALL idem_maintain();
SELECT store, response FROM pg_temp.stored WHERE key = 'long';
SELECT count(*) FROM pg_temp.stored WHERE store = 'pinned';
-- in more than one batch
INSERT INTO idem_pinned SELECT idem_digest('purged ' || i), '-infinity', '-infinity', '-infinity', NULL, '', 'purged ' || i, NULL, '1'
FROM generate_series(1, 2500) AS i;
CALL idem_maintain();
SELECT count(*) FROM idem_pinned WHERE key LIKE 'purged %';

-- long, expired, claimed anew with the default: replays from the ring, also after the purge
CALL pg_temp.complete('long then default', '1', '30 days');
UPDATE idem_pinned SET expires_at = now() - interval '1 s' WHERE scope = 'expiry' AND key = 'long then default';
CALL pg_temp.complete('long then default', '2');
SELECT status, response FROM idem_claim('long then default', scope => 'expiry');
SELECT store, life, response FROM pg_temp.stored WHERE key = 'long then default' ORDER BY store;
CALL idem_maintain();
SELECT status, response FROM idem_claim('long then default', scope => 'expiry');
SELECT store, life, response FROM pg_temp.stored WHERE key = 'long then default' ORDER BY store;
-- and the other way round
CALL pg_temp.complete('default then long', '1', '1 us');
SELECT pg_sleep(0.01);
CALL pg_temp.complete('default then long', '2', '30 days');
SELECT status, response FROM idem_claim('default then long', scope => 'expiry');
SELECT store, life, response FROM pg_temp.stored WHERE key = 'default then long' ORDER BY store;
-- and there and back again
UPDATE idem_pinned SET expires_at = now() - interval '1 s' WHERE scope = 'expiry' AND key = 'default then long';
CALL pg_temp.complete('default then long', '3');
SELECT status, response FROM idem_claim('default then long', scope => 'expiry');
-- a life that ended at once is in the new current generation, and the next one, by who had not noticed that the ring turned, in the
-- one before: that is the one that lives
BEGIN;
UPDATE idem_ring SET current = 1, opened_at = now(), ttl = '{86400,86400,0}', ends_at = ARRAY[now() + interval '1 day', 'infinity', '-infinity'] WHERE store = 'keys';
INSERT INTO idem_keys_1 SELECT idem_digest('overtaken', 'expiry'), now(), now() - interval '2 s', now() - interval '1 s', NULL, 'expiry', 'overtaken', NULL, '1';
INSERT INTO idem_keys_0 SELECT idem_digest('overtaken', 'expiry'), now(), now(), now() + interval '1 h', 2, 'expiry', 'overtaken', NULL, '2';
SELECT status, response FROM idem_claim('overtaken', scope => 'expiry');
ROLLBACK;
SELECT * FROM idem_verify();
