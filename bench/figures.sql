-- Medians, their spread, and every figure beside its bound.
CREATE OR REPLACE VIEW settings AS
SELECT name, current_setting(name) AS value
FROM unnest('{server_version,shared_buffers,synchronous_commit,fsync,full_page_writes,wal_level,wal_compression,max_wal_size,
              checkpoint_timeout,autovacuum,maintenance_work_mem}'::text[]) AS name;

CREATE OR REPLACE VIEW median AS
SELECT work, contestant, at, metric, percentile_cont(0.5) WITHIN GROUP (ORDER BY value) AS median,
       min(value) AS least, max(value) AS most, count(*) AS runs
FROM sample GROUP BY work, contestant, at, metric;

CREATE OR REPLACE VIEW other AS
SELECT * FROM median WHERE work = 'expiry' OR metric NOT IN ('tps', 'wal', 'images');

-- Contestants are compared round by round, for a busy machine slows down those who run at about the same time.
CREATE OR REPLACE VIEW paired AS
SELECT a.work, a.metric, a.contestant, b.contestant AS against,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY a.value / nullif(b.value, 0)) AS ratio
FROM sample AS a JOIN sample AS b USING (work, metric, round, at)
GROUP BY a.work, a.metric, a.contestant, b.contestant;

CREATE OR REPLACE VIEW figure AS
SELECT f.work, f.nr, f.figure, p.ratio, f.bound AS at_least, f.most AS at_most,
       coalesce(p.ratio >= f.bound, p.ratio <= f.most) AS met
FROM (VALUES
    (1, 'claim + order + complete, tps: idem / hand-written idiom', 'throughput', 'tps', 'idem', 'idiom', 1.2, NULL),
    (1.1, 'the same, with the order''s number in the response', 'throughput', 'tps', 'idem_returning', 'idiom_returning', 1.2, NULL),
    (2, 'claim + order + complete, tps: idem / floor, the order and one plain row with the key', 'throughput', 'tps', 'idem', 'floor', 0.93, NULL),
    (2.1, 'the same: idem / the order alone, unprotected', 'throughput', 'tps', 'idem', 'bare', 0.78, NULL),
    (5.1, 'C++ loop over a link of 1 ms each way: idem / idiom from libpqxx', 'link', 'tps', 'idem', 'idiom', 1.6, NULL),
    (5.2, 'the same, the order as run''s last statement', 'link', 'tps', 'idem_last', 'idiom', 1.6, NULL),
    (12.1, '64 publishers, 16 consumers, messages/s: idem / PgQ', 'crowd', 'tps', 'idem', 'pgq', 1.2, NULL),
    (12.2, 'the same: idem, polled every 50 ms as PgQ is / PgQ', 'crowd', 'tps', 'idem_polled', 'pgq', 1.2, NULL),
    (22.1, 'the same: idem_execute_many / an unprotected set-based INSERT', 'execute', 'tps', 'execute_many', 'insert_many', 0.5, NULL),
    (25, 'claim + order + complete, tps: 100 million live keys / none', 'hundred', 'tps', 'hundred', 'none', 0.85, NULL),
    (26, 'claims, p99 under 5,000 requests/s with rotation: last sixth / first', 'steady', 'p99_us', 'last', 'first', NULL, 1.1),
    (3, 'WAL bytes a request: idem / hand-written idiom', 'wal', 'wal', 'idem', 'idiom', NULL, 0.40),
    (4, 'replay, tps: idem / primary-key SELECT', 'replay', 'tps', 'idem_replay', 'idiom_replay', 0.85, NULL),
    (5, 'C++ loop over loopback, tps: idem / plain', 'sdk', 'tps', 'idem', 'plain', 0.75, NULL),
    (6, 'expiring half of the keys, time: idem / DELETE + VACUUM', 'expiry', 'ms', 'idem', 'idiom', NULL, 0.001),
    (7, 'expiring half of the keys, WAL: idem / DELETE + VACUUM', 'expiry', 'wal', 'idem', 'idiom', NULL, 0.001),
    (9, 'order + publish, tps: idem / plain INSERT', 'publish', 'tps', 'idem_publish', 'plain_publish', 0.92, NULL),
    (10, 'order + publish, tps: idem / PgQ', 'publish', 'tps', 'idem_publish', 'pgq_publish', 1.15, NULL),
    (11, 'drain in batches of 1,000, messages/s: idem / PgQ', 'drain', 'tps', 'idem', 'pgq', 1.20, NULL),
    (12, 'drain, messages/s: idem beside an old snapshot / without', 'drain', 'tps', 'idem_held', 'idem', 0.95, NULL),
    (18, 'drain, messages/s: four lanes / one', 'lanes', 'tps', 'lanes_4', 'lanes_1', 1.5, NULL),
    (19, 'drain, messages/s: of the others, with 50 of 10,000 keys parked / none', 'lanes', 'tps', 'parked_50', 'lanes_1', 0.9, NULL),
    (21, 'claim + function + completion, requests/s: idem_execute / three statements', 'execute', 'tps', 'execute_one', 'execute_three', 1.4, NULL),
    (22, 'the same: idem_execute_many, 500 a call / one by one', 'execute', 'tps', 'execute_many', 'execute_one', 4, NULL),
    (23, 'claims, tps: counted / not', 'counters', 'tps', 'counted', 'not_counted', 0.98, NULL),
    (24, 'claims, p99: while a full generation is retired and truncated / before', 'retire', 'p99_us', 'retired', 'quiet', NULL, 1.1),
    (16, 'UPDATE of a state, tps: guarded / unguarded', 'guard', 'tps', 'guard_idem', 'guard_plain', 0.95, NULL)
) AS f (nr, figure, work, metric, contestant, against, bound, most)
JOIN paired AS p USING (work, metric, contestant, against)
UNION ALL
SELECT f.work, f.nr, f.figure, m.median, NULL, f.most, m.median <= f.most
FROM (VALUES
    (8, 'growth of a backend by a million claims (or as many keys), bytes', 'memory', 'contexts', 0),
    (13, 'commit to delivery at 1,000 messages/s, median, ms', 'latency', 'p50_ms', 2),
    (14, 'commit to delivery at 1,000 messages/s, 99th percentile, ms', 'latency', 'p99_ms', 10),
    (15, 'an idle consumer that waits, % of a core', 'latency', 'idle_percent', 1)
) AS f (nr, figure, work, metric, most)
JOIN median AS m USING (work, metric)
WHERE m.contestant = 'idem'
UNION ALL
SELECT 'relay', 20, 'idem-relay to a stream of NATS, messages/s', m.median, 20000, NULL, m.median >= 20000
FROM median AS m WHERE (m.work, m.contestant, m.metric) = ('relay', 'relay_1', 'tps')
UNION ALL
SELECT 'guard', 17, 'what the guard itself costs: idem / PL/pgSQL', c.ratio, NULL, 0.25, c.ratio <= 0.25
FROM (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY (i.value - p.value) / nullif(l.value - p.value, 0)) AS ratio
      FROM sample AS i JOIN sample AS p USING (work, metric, round) JOIN sample AS l USING (work, metric, round)
      WHERE work = 'guard' AND metric = 'us'
        AND i.contestant = 'guard_idem' AND p.contestant = 'guard_plain' AND l.contestant = 'guard_plpgsql') AS c
WHERE c.ratio IS NOT NULL
UNION ALL
SELECT 'instructions', 27, 'instructions of claim + complete / a two-column INSERT', c.ratio, NULL, 2.0, c.ratio <= 2.0
FROM (SELECT max(value - nothing) FILTER (WHERE contestant = 'claim_complete')
             / max(value - nothing) FILTER (WHERE contestant = 'two_columns') AS ratio
      FROM sample, (SELECT value FROM sample WHERE work = 'instructions' AND contestant = 'nothing') AS n (nothing)
      WHERE work = 'instructions') AS c
WHERE c.ratio IS NOT NULL;
