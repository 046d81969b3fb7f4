-- What was found in one :part, into the file :json.
\ir figures.sql
\pset format unaligned
\pset tuples_only on
\o :json
SELECT jsonb_pretty(jsonb_build_object(
    'script', 'bench/run ' || :'part',
    'setup', (SELECT jsonb_object_agg(name, value) FROM setup),
    'settings', (SELECT jsonb_object_agg(name, value) FROM settings),
    'figures', (SELECT jsonb_agg(to_jsonb(f) - 'nr' - 'work' ORDER BY nr) FROM figure AS f WHERE work = :'part'),
    'medians', (SELECT jsonb_agg(to_jsonb(m) - 'work' ORDER BY metric, contestant, at) FROM median AS m WHERE work = :'part')));
