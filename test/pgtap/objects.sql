-- What the extension consists of, and what a dump carries.
BEGIN;
SELECT plan(11);

CREATE VIEW pg_temp.member AS
	SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) COLLATE "default" AS object
	FROM pg_depend AS d
	WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem')
	  -- newer servers also count the types of tables and of arrays
	  AND NOT EXISTS (SELECT FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
		WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid AND (t.typcategory = 'A' OR c.relkind <> 'c'));

SELECT set_eq('SELECT object FROM pg_temp.member', ARRAY[
	'function idem_claim(text,jsonb,text,interval,interval,interval)', 'type idem_claim_result',
	'function idem_complete(text,jsonb,text,bigint)',
	'function idem_release(text,text,bigint)',
	'function idem_renew(text,bigint,interval,text)', 'function idem_checkpoint(text,bigint,text,jsonb,text)', 'sequence idem_tokens',
	'function idem_status(text,text)',
	'function idem_evict(text,text)',
	'function idem_digest(text,text)',
	'function idem_execute(regprocedure,text,jsonb,text,interval)', 'type idem_execute_result',
	'function idem_execute_many(regprocedure,text[],jsonb[],text)', 'function idem_execute_many(regprocedure,text[],jsonb[],text[],jsonb[])', 'function idem_context()', 'type idem_many_result',
	'function idem_claim_many(text[],jsonb[],text)', 'function idem_complete_many(text[],jsonb[],text)',
	'function idem_compensate_with(text,regprocedure,jsonb,text,interval,bigint)',
	'function idem_confirm(text,text)',
	'function idem_cancel(text,text,text,interval)', 'type idem_cancel_result', 'view idem_compensations',
	'view idem_keys', 'view idem_holders', 'view idem_stores',
	'function idem_counters()', 'view idem_stats', 'function idem_stats_reset()',
	'function idem_suspects(interval)', 'function idem_next_xid()',
	'function idem_export(text,text,integer)', 'function idem_import(jsonb)', 'table idem_scopes',
	'function idem_maintain()',
	'function idem_verify()',
	'function idem_grant(name,text)',
	'function idem_publish(text,jsonb,text,text,jsonb)',
	'function idem_subscribe(text,text[],integer,text,boolean)',
	'function idem_fetch(text,integer,interval,bigint)', 'type idem_message',
	'function idem_nack(text,bigint,bigint,text,interval)',
	'function idem_redrive(text,bigint)', 'view idem_dead_letters',
	'function idem_incarnation()',
	'table idem_parked', 'table idem_attempts',
	'function idem_ack(text,bigint)',
	'function idem_seek(text,timestamp with time zone)',
	'function idem_unsubscribe(text)',
	'function idem_pending(text)',
	'function idem_is_past(text,bigint,xid8,integer,bigint)',
	'function idem_delivered(bigint)',
	'function idem_consume(text,text)',
	'function idem_consume_seq(text,bigint,bigint)',
	'view idem_outbox', 'view idem_consumers', 'function idem_outbox_insert()', 'function idem_outbox_refuse()', 'function idem_outbox_default()',
	'sequence idem_outbox_ids', 'table idem_subscriptions',
	'table idem_keys_0', 'table idem_keys_1', 'table idem_keys_2',
	'table idem_inbox_0', 'table idem_inbox_1', 'table idem_inbox_2',
	'table idem_outbox_0', 'table idem_outbox_1', 'table idem_outbox_2',
	'table idem_positions_0', 'table idem_positions_1', 'table idem_positions_2',
	'table idem_watermarks_0', 'table idem_watermarks_1', 'table idem_watermarks_2',
	'table idem_pinned', 'function idem_handlers_check()', 'table idem_ring', 'function idem_table_changed()', 'function idem_replicated()',
	'table idem_transitions', 'table idem_guarded_topics', 'table idem_outbox_states',
	'function idem_transition_check()', 'function idem_transition_strands()', 'function idem_guard()', 'function idem_guards()',
	'function idem_attach(regclass,name,text,text,name[])', 'function idem_detach(regclass)',
	'function idem_guard_topic(text,text)', 'function idem_unguard_topic(text)',
	'function idem_next_states(text,text)', 'function idem_machine_dot(text)'
], 'the extension''s objects');
SELECT is_empty($$SELECT object FROM pg_temp.member WHERE object !~ '^\w+ idem_'$$, 'all are called idem_something');
SELECT set_eq($$SELECT tgname::text || ' on ' || tgrelid::regclass FROM pg_trigger WHERE tgrelid IN (SELECT objid FROM pg_temp.member)$$,
	'{idem_handlers_check on idem_pinned,idem_ring_changed on idem_ring,idem_scopes_changed on idem_scopes,idem_outbox_insert on idem_outbox,idem_outbox_refuse on idem_outbox,idem_outbox_refuse_row on idem_outbox,idem_transition_check on idem_transitions,idem_transition_truncate on idem_transitions,idem_transition_strands on idem_transitions,idem_transitions_changed on idem_transitions,idem_guarded_topics_changed on idem_guarded_topics,idem_replicated on idem_ring,idem_replicated on idem_pinned,idem_replicated on idem_outbox_0,idem_replicated on idem_outbox_1,idem_replicated on idem_outbox_2,idem_replicated on idem_positions_0,idem_replicated on idem_positions_1,idem_replicated on idem_positions_2}'::text[], 'and its triggers');
SELECT set_eq($$SELECT DISTINCT tgname::text FROM pg_trigger WHERE tgrelid IN (SELECT objid FROM pg_temp.member) AND tgenabled = 'R'$$,
	'{idem_replicated}'::text[], 'one of them for replicas alone');
SELECT set_eq($$SELECT tgname::text FROM pg_trigger WHERE tgrelid IN (SELECT objid FROM pg_temp.member) AND tgenabled = 'A'$$,
	'{idem_transitions_changed,idem_guarded_topics_changed}'::text[], 'two of them for replicas too');
SELECT set_eq($$SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'idem'$$,
	$$SELECT objid::regclass::text FROM pg_temp.member JOIN pg_class ON oid = objid WHERE relkind IN ('r', 'S') AND relname <> 'idem_attempts'$$,
	'a dump carries every table and sequence, but for the marks of clients that were lost');
SELECT set_eq($$SELECT t::regclass::text, c FROM pg_extension, unnest(extconfig, extcondition) AS u (t, c) WHERE extname = 'idem' AND c <> ''$$,
	$$VALUES ('idem_ring', 'WHERE step OPERATOR(pg_catalog.>) 0'), ('idem_transitions', 'WHERE NOT shipped OR NOT enabled')$$,
	'with all rows but the ring''s first and the rules that are as shipped');
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
	('idem_inbox_0', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_inbox_1', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_inbox_2', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_outbox_0', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_outbox_1', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_outbox_2', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_positions_0', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_positions_1', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_positions_2', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_watermarks_0', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_watermarks_1', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_watermarks_2', 'f', 'p', '{autovacuum_enabled=off}', '{autovacuum_enabled=off}'),
	('idem_subscriptions', 'f', 'p', NULL, NULL),
	('idem_transitions', 'f', 'p', NULL, NULL),
	('idem_guarded_topics', 'f', 'p', NULL, NULL),
	('idem_outbox_states', 'i', 'p', '{fillfactor=70}', NULL),
	('idem_parked', 'f', 'p', NULL, NULL),
	('idem_attempts', 'f', 'p', NULL, NULL),
	('idem_pinned', 'f', 'p', NULL, NULL),
	('idem_scopes', 'f', 'p', NULL, NULL),
	('idem_ring', 'f', 'p', NULL, NULL)
$$, 'tables: autovacuum off in the ring, replica identity full but where there are many changes');
SELECT set_eq($$
	SELECT pg_get_indexdef(indexrelid) COLLATE "default" FROM pg_index WHERE indrelid IN (SELECT objid FROM pg_temp.member)
$$, $$
	SELECT format('CREATE INDEX %1$s_%2$s_%3$s ON %4$I.%1$s_%2$s USING %5$s', t, g, suffix, n.nspname, keys)
	FROM (VALUES ('idem_keys', 'digest', 'btree (digest) WITH (deduplicate_items=off)'),
	             ('idem_inbox', 'digest', 'btree (digest) WITH (deduplicate_items=off)'),
	             ('idem_outbox', 'id', 'btree (id, slot)'), ('idem_outbox', 'xid', 'btree (xid, id)'),
	             ('idem_positions', 'n', 'btree (consumer, lane, n)'), ('idem_watermarks', 'seq', 'btree (source, lane, seq)')) AS i (t, suffix, keys),
	     generate_series(0, 2) AS g, pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace
	WHERE extname = 'idem'
	UNION ALL
	SELECT format(index, n.nspname)
	FROM unnest(ARRAY['CREATE INDEX idem_pinned_digest ON %I.idem_pinned USING btree (digest) WITH (deduplicate_items=off)',
	                  'CREATE INDEX idem_pinned_deadline ON %I.idem_pinned USING btree (fate, deadline)',
	                  'CREATE INDEX idem_pinned_key ON %I.idem_pinned USING hash (key)',
	                  'CREATE INDEX idem_pinned_expires_at ON %I.idem_pinned USING btree (expires_at)',
	                  'CREATE INDEX idem_parked_id ON %I.idem_parked USING btree (consumer, slot, id)',
	                  'CREATE INDEX idem_parked_due ON %I.idem_parked USING btree (consumer, due_at)',
	                  'CREATE INDEX idem_attempts_batch ON %I.idem_attempts USING btree (consumer, lane, batch)',
	                  'CREATE UNIQUE INDEX idem_scopes_scope ON %I.idem_scopes USING btree (scope)',
	                  'CREATE UNIQUE INDEX idem_subscriptions_consumer ON %I.idem_subscriptions USING btree (consumer)',
	                  'CREATE UNIQUE INDEX idem_transitions_rule ON %I.idem_transitions USING btree (machine, from_state, to_state) NULLS NOT DISTINCT WHERE (NOT shipped)',
	                  'CREATE UNIQUE INDEX idem_guarded_topics_topic ON %I.idem_guarded_topics USING btree (topic)',
	                  'CREATE UNIQUE INDEX idem_outbox_states_key ON %I.idem_outbox_states USING btree (topic, key)']) AS index,
	     pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace
	WHERE extname = 'idem'
$$, 'indexes');

SELECT * FROM finish();
ROLLBACK;
