-- Medians, their spread, and every figure beside its bound: printed, and written to the file :json.
CREATE TEMP VIEW settings AS
SELECT name, current_setting(name) AS value
FROM unnest('{server_version,shared_buffers,synchronous_commit,fsync,full_page_writes,wal_level,wal_compression,max_wal_size,
              checkpoint_timeout,autovacuum,maintenance_work_mem}'::text[]) AS name;

CREATE TEMP VIEW median AS
SELECT work, contestant, metric, percentile_cont(0.5) WITHIN GROUP (ORDER BY value) AS median,
       min(value) AS least, max(value) AS most, count(*) AS runs
FROM sample GROUP BY work, contestant, metric;

CREATE TEMP VIEW other AS
SELECT * FROM median WHERE work = 'expiry' OR metric NOT IN ('tps', 'wal', 'images');

-- Contestants are compared round by round, for a busy machine slows down those who run at about the same time.
CREATE TEMP VIEW paired AS
SELECT a.work, a.metric, a.contestant, b.contestant AS against,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY a.value / nullif(b.value, 0)) AS ratio
FROM sample AS a JOIN sample AS b USING (work, metric, round)
GROUP BY a.work, a.metric, a.contestant, b.contestant;

CREATE TEMP VIEW figure AS
SELECT f.nr, f.figure, p.ratio, f.bound AS at_least, f.most AS at_most,
       coalesce(p.ratio >= f.bound, p.ratio <= f.most) AS met
FROM (VALUES
    (1, 'claim + order + complete, tps: idem / hand-written idiom', 'throughput', 'tps', 'idem', 'idiom', 1.10, NULL),
    (2, 'claim + order + complete, tps: idem / floor', 'throughput', 'tps', 'idem', 'floor', 0.85, NULL),
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
SELECT f.nr, f.figure, m.median, NULL, f.most, m.median <= f.most
FROM (VALUES
    (8, 'growth of a backend by a million claims (or as many keys), bytes', 'memory', 'contexts', 0),
    (13, 'commit to delivery at 1,000 messages/s, median, ms', 'latency', 'p50_ms', 2),
    (14, 'commit to delivery at 1,000 messages/s, 99th percentile, ms', 'latency', 'p99_ms', 10),
    (15, 'an idle consumer that waits, % of a core', 'latency', 'idle_percent', 1)
) AS f (nr, figure, work, metric, most)
JOIN median AS m USING (work, metric)
UNION ALL
SELECT 20, 'idem-relay to a stream of NATS, messages/s', m.median, 20000, NULL, m.median >= 20000
FROM median AS m WHERE (m.work, m.contestant, m.metric) = ('relay', 'relay_1', 'tps')
UNION ALL
SELECT 17, 'what the guard itself costs: idem / PL/pgSQL', c.ratio, NULL, 0.25, c.ratio <= 0.25
FROM (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY (i.value - p.value) / nullif(l.value - p.value, 0)) AS ratio
      FROM sample AS i JOIN sample AS p USING (work, metric, round) JOIN sample AS l USING (work, metric, round)
      WHERE work = 'guard' AND metric = 'us'
        AND i.contestant = 'guard_idem' AND p.contestant = 'guard_plain' AND l.contestant = 'guard_plpgsql') AS c
WHERE c.ratio IS NOT NULL;

\pset footer off
\pset border 0
\pset tuples_only off
SELECT name, value FROM setup UNION ALL SELECT name, value FROM settings;

SELECT work, contestant, runs,
       round(max(median) FILTER (WHERE metric = 'tps')) AS "per second",
       max(format('%s - %s', round(least), round(most))) FILTER (WHERE metric = 'tps') AS spread,
       round(max(median) FILTER (WHERE metric = 'wal')) AS "WAL bytes each",
       round(max(median) FILTER (WHERE metric = 'images')::numeric, 3) AS "page images each"
FROM median WHERE metric IN ('tps', 'wal', 'images') AND work <> 'expiry'
GROUP BY work, contestant, runs ORDER BY work DESC, contestant;

SELECT EXISTS (SELECT FROM figure) AS figures, EXISTS (SELECT FROM other) AS others \gset
\if :others
SELECT work, contestant, metric, median AS value FROM other ORDER BY work, metric, contestant;
\endif
\if :figures

SELECT figure, round(ratio::numeric, 5) AS measured,
       coalesce('at least ' || at_least, 'at most ' || at_most) AS bound, CASE WHEN met THEN 'met' ELSE 'MISSED' END AS verdict
FROM figure ORDER BY nr;
\endif

\pset format unaligned
\pset tuples_only on
\o :json
SELECT jsonb_pretty(jsonb_build_object(
    'setup', (SELECT jsonb_object_agg(name, value) FROM setup),
    'settings', (SELECT jsonb_object_agg(name, value) FROM settings),
    'figures', (SELECT jsonb_agg(to_jsonb(f) - 'nr' ORDER BY nr) FROM figure AS f),
    'medians', (SELECT jsonb_agg(to_jsonb(m) ORDER BY work, metric, contestant) FROM median AS m)));
