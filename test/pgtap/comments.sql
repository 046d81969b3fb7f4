-- Every comment is there, and names the errors: it is the manual at hand.
BEGIN;
SELECT plan(50);

-- SQLSTATEs in the comment, in order
CREATE FUNCTION pg_temp.named(comment text) RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(DISTINCT m[1] ORDER BY m[1])
	FROM regexp_matches(comment, '\m(ID\d{3}|[0-9][0-9A-Z]\d\d\d|\d\dP\d\d)\M', 'g') AS m
$$;
CREATE FUNCTION pg_temp.errors(function text) RETURNS text[] LANGUAGE sql AS $$
	SELECT pg_temp.named(obj_description(CASE WHEN function ~ '\(' THEN function::regprocedure ELSE function::regproc END, 'pg_proc'))
$$;

SELECT is_empty($$
	SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
	WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem')
	  AND (classid = 'pg_proc'::regclass OR (SELECT relkind = 'v' FROM pg_class WHERE oid = objid))
	  AND coalesce(length(obj_description(objid, classid::regclass::name)), 0) < 20
$$, 'every function, procedure and view has a comment');
SELECT isnt(obj_description(oid, 'pg_extension'), NULL, 'and the extension') FROM pg_extension WHERE extname = 'idem';
SELECT is_empty($$
	SELECT proname, name FROM pg_proc AS p, unnest(proargnames[:pronargs]) AS name
	WHERE proname IN ('idem_claim', 'idem_complete', 'idem_renew', 'idem_checkpoint', 'idem_execute', 'idem_execute_many', 'idem_claim_many', 'idem_complete_many', 'idem_compensate_with', 'idem_cancel', 'idem_publish', 'idem_subscribe', 'idem_fetch', 'idem_ack', 'idem_nack', 'idem_redrive', 'idem_seek', 'idem_consume', 'idem_consume_seq', 'idem_attach', 'idem_detach', 'idem_guard_topic', 'idem_unguard_topic', 'idem_next_states', 'idem_machine_dot', 'idem_export', 'idem_import') AND obj_description(p.oid, 'pg_proc') !~ ('\m' || name || '\M')
$$, 'every argument of what applications call is spoken of');
SELECT is_empty($$
	SELECT status FROM unnest('{claimed,completed,in_progress,mismatch,cancelled}'::text[]) AS status
	WHERE obj_description('idem_claim'::regproc, 'pg_proc') !~ ('\n *' || status || ' ')
$$, 'every status of idem_claim');
SELECT is_empty($$
	SELECT status FROM unnest('{executed,completed,in_progress,mismatch,cancelled}'::text[]) AS status
	WHERE obj_description('idem_execute'::regproc, 'pg_proc') !~ ('\n *' || status || ' ')
$$, 'every status of idem_execute');
SELECT is_empty($$
	SELECT status FROM unnest('{compensated,already,tombstoned,refused,in_progress}'::text[]) AS status
	WHERE obj_description('idem_cancel'::regproc, 'pg_proc') !~ ('\n *' || status || ' ')
$$, 'every status of idem_cancel');
SELECT is_empty($$
	SELECT status FROM unnest('{completed,cancelled,in_progress,unknown}'::text[]) AS status
	WHERE strpos(obj_description('idem_status'::regproc, 'pg_proc'), '"' || status || '"') = 0
$$, 'every status of idem_status');
SELECT is_empty($$
	SELECT setting FROM unnest('{idem.claim_wait,idem.key_ttl}'::text[]) AS setting
	WHERE strpos(obj_description('idem_claim'::regproc, 'pg_proc'), setting) = 0
$$, 'every setting that is a default');

SELECT is_empty($$
	SELECT attname FROM pg_attribute WHERE attrelid = 'idem_message'::regclass AND attnum > 0
	  AND attname NOT IN ('id', 'topic', 'key', 'type', 'headers', 'created_at')
	  AND obj_description('idem_fetch'::regproc, 'pg_proc') !~ ('\m' || attname || '\M')
$$, 'every column of idem_fetch that is not a publisher''s');
SELECT is(pg_temp.errors('idem_claim'), '{25006,40001,40P01,ID002,ID004,ID005,ID006,ID007,ID018}', 'errors of idem_claim');
SELECT is(pg_temp.errors('idem_complete'), '{22004,25006,40001,40P01,55P03,ID001,ID002,ID003,ID005,ID006,ID017,ID018}', 'of idem_complete');
SELECT is(pg_temp.errors('idem_release'), '{25006,40001,40P01,55P03,ID001,ID002,ID003,ID005,ID006,ID017,ID018}', 'of idem_release');
SELECT is(pg_temp.errors('idem_renew'), '{22004,25006,40001,40P01,55P03,ID002,ID005,ID006,ID007,ID017,ID018}', 'of idem_renew');
SELECT is(pg_temp.errors('idem_checkpoint'), '{22004,25006,40001,40P01,55P03,ID002,ID005,ID006,ID011,ID017,ID018}', 'of idem_checkpoint');
SELECT is(pg_temp.errors('idem_status'), '{25006,40001,ID005,ID006,ID018}', 'of idem_status');
SELECT is(pg_temp.errors('idem_evict'), '{25006,40001,40P01,55000,55P03,ID002,ID003,ID005,ID006,ID018}', 'of idem_evict');
SELECT is(pg_temp.errors('idem_digest'), '{ID005,ID006}', 'of idem_digest');
SELECT is(pg_temp.errors('idem_execute'), '{22004,25006,40001,40P01,ID002,ID005,ID006,ID007,ID015,ID018}', 'of idem_execute');
SELECT is(pg_temp.errors('idem_execute_many(regprocedure,text[],jsonb[],text)'), '{22004,22023,25006,40001,53200,ID002,ID005,ID006,ID015,ID018}', 'of idem_execute_many');
SELECT is(pg_temp.errors('idem_execute_many(regprocedure,text[],jsonb[],text[],jsonb[])'), '{22004,22023,25006,40001,53200,ID002,ID005,ID006,ID015,ID018}', 'of idem_execute_many with scopes');
SELECT is(pg_temp.errors('idem_claim_many'), '{22004,22023,25006,40001,53200,ID002,ID004,ID005,ID006,ID018}', 'of idem_claim_many');
SELECT is(pg_temp.errors('idem_complete_many'), '{22004,22023,25006,ID001,ID003,ID005,ID006,ID018}', 'of idem_complete_many');
SELECT is(pg_temp.errors('idem_compensate_with'), '{22004,25006,40001,40P01,55P03,ID001,ID002,ID003,ID005,ID006,ID007,ID015,ID017,ID018}', 'of idem_compensate_with');
SELECT is(pg_temp.errors('idem_confirm'), '{25006,40001,40P01,55P03,ID005,ID006,ID013,ID014,ID018}', 'of idem_confirm');
SELECT is(pg_temp.errors('idem_cancel'), '{25006,40001,40P01,ID002,ID005,ID006,ID007,ID015,ID018}', 'of idem_cancel');
SELECT is(pg_temp.errors('idem_publish'), '{22004,22023,25006,40001,40P01,55P03,ID011,ID012}', 'of idem_publish');
SELECT is(pg_temp.errors('idem_subscribe'), '{22004,22023,25006,40P01,42710,55P03,ID008,ID011}', 'of idem_subscribe');
SELECT is(pg_temp.errors('idem_fetch'), '{0A000,22023,25006,40001,42704,55000,ID007,ID008,ID011}', 'of idem_fetch');
SELECT is(pg_temp.errors('idem_ack'), '{22004,25006,ID009,ID010,ID011}', 'of idem_ack');
SELECT is(pg_temp.errors('idem_nack'), '{22004,25006,ID007,ID009,ID010,ID011,ID016}', 'of idem_nack');
SELECT is(pg_temp.errors('idem_redrive'), '{22004,25006,42704,ID011}', 'of idem_redrive');
SELECT is(pg_temp.errors('idem_incarnation'), '{25006}', 'of idem_incarnation');
SELECT is(pg_temp.errors('idem_seek'), '{22004,22023,25006,40P01,42704,55P03,ID008,ID011}', 'of idem_seek');
SELECT is(pg_temp.errors('idem_unsubscribe'), '{25006,40P01,42704,55P03,ID008,ID011}', 'of idem_unsubscribe');
SELECT is(pg_temp.errors('idem_consume'), '{25006,40001,40P01,55P03,ID011}', 'of idem_consume');
SELECT is(pg_temp.errors('idem_consume_seq'), '{22004,22023,25006,40001,40P01,55P03,ID011}', 'of idem_consume_seq');
SELECT is(pg_temp.errors('idem_attach'), '{22004,22023,23514,25006,42501,42703,42704,42710,42804,42809,55000,ID011}', 'of idem_attach');
SELECT is(pg_temp.errors('idem_detach'), '{22004,25006,42501,42704,42809}', 'of idem_detach');
SELECT is(pg_temp.errors('idem_guard'), '{42703,42704,42804,55000,ID012}', 'of idem_guard');
SELECT is(pg_temp.errors('idem_guard_topic'), '{23514,25006,42704,42710,ID011}', 'of idem_guard_topic');
SELECT is(pg_temp.errors('idem_unguard_topic'), '{25006,42704,ID011}', 'of idem_unguard_topic');
SELECT is(pg_temp.errors('idem_next_states'), '{22023,42704,ID011}', 'of idem_next_states');
SELECT is(pg_temp.errors('idem_export'), '{22023,25001,25006,55000,ID006,ID018}', 'of idem_export');
SELECT is(pg_temp.errors('idem_import'), '{22004,22023,25001,25006,42501,55000,ID006,ID018,ID019}', 'of idem_import');
SELECT is(pg_temp.errors('idem_maintain'), '{25006,2D000}', 'of idem_maintain');
SELECT is(pg_temp.errors('idem_grant'), '{22004,22023,25006,42704}', 'of idem_grant');
SELECT is(pg_temp.errors('idem_stats_reset'), '{55000}', 'of idem_stats_reset');
SELECT is(pg_temp.errors('idem_verify'), NULL, 'none of idem_verify');
SELECT is_empty($$
	SELECT attname FROM pg_attribute WHERE attrelid = 'idem_stats'::regclass AND attnum > 0 AND attname <> 'since'
	  AND obj_description(attrelid, 'pg_class') !~ ('(\n|, )' || attname || '\M')
$$, 'every column of idem_stats is spoken of');
SELECT is(pg_temp.named('ID001 or 2D000, 40P01; 0A000 (not 255 bytes, 12345678 or 3 hours)'), '{0A000,2D000,40P01,ID001}', 'as this test reads them');

SELECT * FROM finish();
ROLLBACK;
