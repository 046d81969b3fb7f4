--
-- The ring turns: keys live until they expire, and are gone soon after. In a
-- database of its own, where time is made to pass by setting all clocks that
-- were read back.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_ring;
CREATE DATABASE regress_idem_ring;
\c regress_idem_ring
CREATE EXTENSION idem;

CREATE PROCEDURE pass(t interval) LANGUAGE plpgsql AS $$
DECLARE
	rel regclass;
BEGIN
	FOREACH rel IN ARRAY '{idem_keys_0,idem_keys_1,idem_keys_2,idem_pinned}'::regclass[] LOOP
		EXECUTE format('UPDATE %s SET claimed_at = claimed_at - $1, completed_at = completed_at - $1, expires_at = expires_at - $1', rel) USING t;
	END LOOP;
	UPDATE idem_ring SET opened_at = opened_at - t,
		ends_at = ARRAY(SELECT e - t FROM unnest(ends_at) WITH ORDINALITY AS u (e, i) ORDER BY i);
END $$;
CREATE PROCEDURE complete(key text, response jsonb, ttl interval = NULL) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key, ttl => ttl);
	PERFORM idem_complete(key, response);
END $$;
CREATE VIEW stored AS
	SELECT 0 AS generation, * FROM idem_keys_0 UNION ALL SELECT 1, * FROM idem_keys_1
	UNION ALL SELECT 2, * FROM idem_keys_2;
-- what each generation is, and the keys in it that live and that have expired
CREATE VIEW ring AS
	SELECT g AS generation,
	       CASE WHEN g = current THEN 'current' WHEN ends_at[g + 1] = 'infinity' THEN 'open'
	            WHEN ends_at[g + 1] = '-infinity' THEN 'empty' ELSE 'closed' END AS state,
	       ttl[g + 1] * interval '1 s' AS ttl,
	       (SELECT array_agg(key ORDER BY key COLLATE "C") FROM stored WHERE generation = g AND expires_at > clock_timestamp()) AS live,
	       (SELECT array_agg(key ORDER BY key COLLATE "C") FROM stored WHERE generation = g AND expires_at <= clock_timestamp()) AS expired
	FROM idem_ring, generate_series(0, 2) AS g WHERE store = 'keys' ORDER BY g;

-- nothing is due in a new ring
CALL idem_maintain();
SELECT * FROM ring;
SELECT step FROM idem_ring WHERE store = 'keys';

-- every 13 hours a key is completed, and the ring is looked after: each lives
-- in the generation of its day, for its 24 hours, and goes with it
CALL complete('at 0 h', '0');
CALL complete('at 0 h, for 1 h', '0', '1 hour');
CALL complete('at 0 h, for 30 days', '0', '30 days');
SELECT * FROM ring;
CALL pass('13 h');
CALL idem_maintain();
CALL complete('at 13 h', '13');
CALL complete('at 0 h, for 1 h', '13', '1 hour');
SELECT * FROM ring;
SELECT store, generation, date_trunc('hour', next_rotation - clock_timestamp() + '30 min') AS next_rotation, blocked_by FROM idem_stores WHERE store IN ('keys', 'pinned') ORDER BY store, generation;
SELECT key, status, response FROM unnest('{at 0 h,at 13 h,"at 0 h, for 1 h"}'::text[]) AS key, idem_claim(key);
SELECT * FROM idem_verify();
CALL pass('13 h');
CALL idem_maintain();
CALL complete('at 26 h', '26');
CALL complete('at 0 h', '26');
SELECT * FROM ring;
SELECT key, status, response FROM unnest('{at 0 h,at 13 h,at 26 h}'::text[]) AS key, idem_claim(key);
SELECT * FROM idem_verify();
CALL pass('13 h');
CALL idem_maintain();
CALL complete('at 39 h', '39');
SELECT * FROM ring;
SELECT key, status, response FROM unnest('{at 0 h,at 26 h,at 39 h}'::text[]) AS key, idem_claim(key);
SELECT status FROM idem_status('at 13 h');
SELECT * FROM idem_verify();
CALL pass('13 h');
CALL idem_maintain();
CALL complete('at 52 h', '52');
SELECT * FROM ring;
SELECT key, status, response FROM unnest('{at 39 h,at 52 h}'::text[]) AS key, idem_claim(key);
SELECT * FROM idem_verify();
-- nothing is due again before the ttl is over
CALL pass('11 h');
CALL idem_maintain();
SELECT * FROM ring;
-- the pinned one has been there all the time
SELECT status, response FROM idem_claim('at 0 h, for 30 days');

-- nobody looked after it for long: all at once, and the ring goes on
CALL pass('100 h');
SELECT * FROM ring;
SELECT status FROM idem_status('at 52 h');
CALL complete('at 163 h', '163');
SELECT * FROM idem_verify();
CALL idem_maintain();
SELECT * FROM ring;
SELECT key, status, response FROM unnest('{at 163 h,"at 0 h, for 30 days"}'::text[]) AS key, idem_claim(key);
CALL pass('13 h');
CALL idem_maintain();
CALL pass('13 h');
CALL idem_maintain();
SELECT * FROM ring;

-- keys turn with it through all lives, round and round
CREATE PROCEDURE rounds(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		CALL complete('round ' || i, to_jsonb(i));
		CALL complete('every round', to_jsonb(i), '5 hours');
		COMMIT;
		CALL pass('6 h');
		CALL idem_maintain();
		-- 24 hours are four rounds: three are remembered, one hour short of the fourth
		IF ARRAY(SELECT status FROM generate_series(greatest(i - 5, 1), i) AS j, idem_status('round ' || j) ORDER BY j DESC)
		   <> ('{completed,completed,completed,unknown,unknown,unknown}'::text[])[1:least(i, 6)] THEN
			RAISE EXCEPTION 'round %: %', i, ARRAY(SELECT status FROM generate_series(greatest(i - 5, 1), i) AS j, idem_status('round ' || j) ORDER BY j DESC);
		END IF;
		IF EXISTS (SELECT FROM idem_verify()) THEN
			RAISE EXCEPTION 'round %: idem_verify() found something', i;
		END IF;
	END LOOP;
END $$;
CALL rounds(24);
SELECT count(*) < 20 AS old_ones_are_gone, count(*) FILTER (WHERE expires_at > clock_timestamp()) AS live FROM stored;
SELECT max(life) > 1 AS lives FROM stored WHERE key = 'every round';

-- a longer idem.key_ttl is taken into the ring with the next maintenance; until then such keys are pinned
CALL pass('1000 h');
CALL idem_maintain();
SET idem.key_ttl = '48 h';
CALL complete('48 h', '1');
SELECT count(*) FROM idem_pinned WHERE key = '48 h';
CALL idem_maintain();
CALL complete('48 h too', '1');
SELECT live FROM ring WHERE state = 'current';
SELECT ttl FROM ring WHERE state = 'current';
CALL pass('23 h');
CALL idem_maintain();
CALL complete('48 h late', '1');
SELECT state, ttl, live FROM ring WHERE live IS NOT NULL OR state = 'current';
CALL pass('26 h');
CALL idem_maintain();
SELECT state, ttl, live FROM ring WHERE live IS NOT NULL OR state = 'current';
SELECT key, status FROM unnest('{"48 h too","48 h late"}'::text[]) AS key, idem_status(key);
-- a shorter one with the next generation
SET idem.key_ttl = '1 h';
CALL idem_maintain();
SELECT ttl FROM ring WHERE state = 'current';
CALL complete('1 h', '1');
CALL pass('47 h');
CALL idem_maintain();
SELECT state, ttl FROM ring WHERE state = 'current';
CALL pass('2 h');
CALL idem_maintain();
SELECT state, ttl, live FROM ring WHERE live IS NOT NULL OR state = 'current';
CALL complete('1 h too', '1');
CALL pass('35 min');
CALL idem_maintain();
SELECT status FROM idem_status('1 h too');
SELECT * FROM idem_verify();
RESET idem.key_ttl;

-- idem_verify finds what is wrong
CALL pass('1000 h');
CALL idem_maintain();
CALL complete('sound', '1');
SELECT * FROM idem_verify();
BEGIN;
INSERT INTO idem_pinned SELECT digest, claimed_at, completed_at, expires_at, life, scope, key, NULL, '2' FROM stored WHERE key = 'sound';
SELECT invariant, object, detail LIKE '2 rows, completed at %' AS detail FROM idem_verify();
ROLLBACK;
BEGIN;
INSERT INTO idem_pinned SELECT digest + 1, claimed_at, completed_at, expires_at, life, 'it''s', 'lost', NULL, '2' FROM stored WHERE key = 'sound';
SELECT invariant, object FROM idem_verify();
ROLLBACK;
BEGIN;
UPDATE idem_ring SET ends_at[current + 1] = now() WHERE store = 'keys';
SELECT invariant, regexp_replace(object, '\d', 'N') AS object FROM idem_verify() ORDER BY 1;
ROLLBACK;
BEGIN;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idem_pinned_digest'::regclass;
SELECT * FROM idem_verify();
ROLLBACK;
SELECT * FROM idem_verify();

-- damage is told, not guessed around
BEGIN;
DELETE FROM idem_ring;
SELECT status FROM idem_claim('damaged') :fails
ROLLBACK;
BEGIN;
UPDATE idem_ring SET current = 3;
SELECT status FROM idem_claim('damaged') :fails
ROLLBACK;
BEGIN;
UPDATE idem_ring SET ends_at = '{infinity}';
SELECT status FROM idem_claim('damaged') :fails
ROLLBACK;
BEGIN;
UPDATE idem_ring SET ttl = '{86400,NULL,0}';
SELECT status FROM idem_claim('damaged') :fails
ROLLBACK;
-- of two rows, as after a restore, the later step counts
SELECT status, response FROM idem_claim('sound');
INSERT INTO idem_ring VALUES ('keys', 0, 0, now(), '{86400,0,0}', '{infinity,-infinity,-infinity}', '0');
SELECT status, response FROM idem_claim('sound');
CALL pass('13 h');
CALL idem_maintain();
SELECT status, response FROM idem_claim('sound');
SELECT * FROM idem_verify();
SELECT count(*) FROM idem_stores;

\c :home
DROP DATABASE regress_idem_ring;
