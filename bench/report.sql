-- The tables that bench/run prints at its end.
\ir figures.sql
\pset footer off
\pset border 0
\pset tuples_only off
SELECT name, value FROM setup UNION ALL SELECT name, value FROM settings;

SELECT work, contestant, nullif(at, 0) AS at, runs,
       round(max(median) FILTER (WHERE metric = 'tps')) AS "per second",
       max(format('%s - %s', round(least), round(most))) FILTER (WHERE metric = 'tps') AS spread,
       round(max(median) FILTER (WHERE metric = 'wal')) AS "WAL bytes each",
       round(max(median) FILTER (WHERE metric = 'images')::numeric, 3) AS "page images each"
FROM median WHERE metric IN ('tps', 'wal', 'images') AND work <> 'expiry'
GROUP BY work, contestant, at, runs ORDER BY work DESC, contestant, at;

SELECT EXISTS (SELECT FROM figure) AS figures, EXISTS (SELECT FROM other) AS others \gset
\if :others
SELECT work, contestant, nullif(at, 0) AS at, metric, median AS value FROM other ORDER BY work, metric, contestant, at;
\endif
\if :figures

SELECT figure, round(ratio::numeric, 5) AS measured,
       coalesce('at least ' || at_least, 'at most ' || at_most) AS bound, CASE WHEN met THEN 'met' ELSE 'MISSED' END AS verdict
FROM figure ORDER BY nr;
\endif
