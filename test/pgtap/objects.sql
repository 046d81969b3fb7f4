-- What the extension consists of, and what a dump carries.
BEGIN;
SELECT plan(9);

CREATE VIEW pg_temp.member AS
	SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) COLLATE "default" AS object
	FROM pg_depend AS d
	WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem');

SELECT set_eq('SELECT object FROM pg_temp.member', ARRAY[
	'function idem_claim(text,jsonb,text,interval,interval,interval)', 'type idem_claim_result',
	'function idem_complete(text,jsonb,text,bigint)',
	'function idem_release(text,text,bigint)',
	'function idem_status(text,text)',
	'function idem_evict(text,text)',
	'function idem_digest(text,text)',
	'view idem_keys', 'view idem_holders', 'view idem_stores',
	'function idem_maintain()',
	'function idem_verify()',
	'function idem_grant(name,text)',
	'table idem_keys_0', 'table idem_keys_1', 'table idem_keys_2',
	'table idem_pinned', 'table idem_ring', 'function idem_ring_changed()'
], 'the extension''s objects');
SELECT is_empty($$SELECT object FROM pg_temp.member WHERE object !~ '^\w+ idem_'$$, 'all are called idem_something');
SELECT set_eq($$SELECT tgname::text || ' on ' || tgrelid::regclass FROM pg_trigger WHERE tgrelid IN (SELECT objid FROM pg_temp.member)$$,
	'{idem_ring_changed on idem_ring}'::text[], 'and its triggers');
SELECT set_eq($$SELECT extconfig::regclass[]::text[] FROM pg_extension WHERE extname = 'idem'$$,
	$$SELECT array_agg(objid::regclass::text ORDER BY objid::regclass::text COLLATE "C") FROM pg_temp.member JOIN pg_class ON oid = objid WHERE relkind = 'r'$$,
	'a dump carries every table');
SELECT is(extcondition, '{"","","","","WHERE step OPERATOR(pg_catalog.>) 0"}', 'with all rows but the ring''s first')
	FROM pg_extension WHERE extname = 'idem';
SELECT is(extrelocatable, false, 'it stays in its schema') FROM pg_extension WHERE extname = 'idem';
SELECT set_eq($$SELECT name FROM pg_available_extensions WHERE name = 'idem' AND default_version = installed_version$$,
	'{idem}'::name[], 'it is of the default version');

-- storage that nobody can see but that much depends on
SELECT set_eq($$
	SELECT c.relname::text, c.relreplident::text, c.relpersistence::text, c.reloptions::text, t.reloptions::text AS toast_options
	FROM pg_temp.member JOIN pg_class AS c ON c.oid = objid AND c.relkind = 'r' LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
$$, $$VALUES
	('idem_keys_0', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_keys_1', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_keys_2', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_pinned', 'f', 'p', NULL, NULL),
	('idem_ring', 'f', 'p', NULL, NULL)
$$, 'tables: autovacuum off in the ring, replica identity full everywhere');
SELECT set_eq($$
	SELECT pg_get_indexdef(indexrelid) COLLATE "default" FROM pg_index WHERE indrelid IN (SELECT objid FROM pg_temp.member)
$$, $$
	SELECT format('CREATE INDEX %s_digest ON %I.%1$s USING hash (digest)', t, n.nspname)
	FROM unnest('{idem_keys_0,idem_keys_1,idem_keys_2,idem_pinned}'::text[]) AS t, pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace
	WHERE extname = 'idem'
	UNION ALL
	SELECT format('CREATE INDEX idem_pinned_expires_at ON %I.idem_pinned USING btree (expires_at)', n.nspname)
	FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace WHERE extname = 'idem'
$$, 'indexes: by digest everywhere, by expiry where rows are removed one by one');

SELECT * FROM finish();
ROLLBACK;
