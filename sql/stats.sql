--
-- What is counted, where the library is not preloaded (the other case is in
-- test/tap), and idem_suspects.
--
\set VERBOSITY verbose
\pset null -
SELECT claims, replays, retry_ratio, maintained_at, since, missing FROM idem_stats;
SELECT idem_stats_reset();
\set VERBOSITY terse
\set VERBOSITY sqlstate
SET idem.naptime = 5;
ALTER SYSTEM SET idem.naptime = 0;
\set VERBOSITY terse
SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'idem%';

-- the same request under different keys of one scope
BEGIN;
CREATE FUNCTION pg_temp.pay(k text, request jsonb, s text = 'suspects', ttl interval = NULL) RETURNS void LANGUAGE sql AS $$
	SELECT status FROM idem_claim(k, request, s, ttl => ttl);
	SELECT idem_complete(k, '1', s);
$$;
SELECT pg_temp.pay('once', '{"pay": 1}'), pg_temp.pay('b', '{"pay": 2, "to": "x"}'), pg_temp.pay('a', '{"to": "x", "pay": 2}'),
	pg_temp.pay('pinned', '{"pay": 2, "to": "x"}', ttl => '30 days'), pg_temp.pay('elsewhere', '{"pay": 2, "to": "x"}', 'suspects too'),
	pg_temp.pay('expired', '{"pay": 1}', ttl => '1 us'), pg_temp.pay('no body', NULL), pg_temp.pay('no body 2', NULL),
	pg_temp.pay('c', '{"pay": 3}'), pg_temp.pay('d', '{"pay": 3}');
SELECT pg_sleep(0.001);
CREATE VIEW pg_temp.suspects AS
SELECT s.scope, length(s.fingerprint) AS hex, s.requests, s.keys, first_at = min(completed_at) AS first, last_at = max(completed_at) AS last, first_at < last_at AS apart
FROM idem_suspects() AS s JOIN idem_keys AS k ON k.scope = s.scope AND k.key = ANY (s.keys) WHERE s.scope LIKE 'suspects%' GROUP BY s.scope, s.fingerprint, s.requests, s.keys, first_at, last_at ORDER BY s.requests DESC;
SELECT * FROM pg_temp.suspects;
SELECT DISTINCT fingerprint = encode((SELECT p.fingerprint FROM idem_pinned AS p WHERE scope = 'suspects' AND key = 'pinned'), 'hex') AS same
FROM idem_suspects() WHERE scope = 'suspects' AND keys @> '{a}';
-- within an hour, or as asked
UPDATE idem_pinned SET completed_at = completed_at - interval '61 min' WHERE scope = 'suspects';
SELECT scope, requests, keys FROM pg_temp.suspects;
SELECT requests, keys FROM idem_suspects('2 hours') WHERE scope = 'suspects' ORDER BY 1 DESC, 2;
SELECT count(*) FROM idem_suspects('0') WHERE scope = 'suspects';
-- many
SELECT count(pg_temp.pay('many ' || to_char(i, 'fm000'), '{"many": 1}')) FROM generate_series(1, 150) AS i;
SELECT requests, cardinality(keys), keys[1], keys[100] FROM idem_suspects() WHERE scope = 'suspects' AND keys @> '{many 001}';
ROLLBACK;
