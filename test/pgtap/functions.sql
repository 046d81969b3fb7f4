-- What every function is: arguments, defaults, result, and what it promises.
BEGIN;
SELECT plan(51);

CREATE FUNCTION pg_temp.contract(name text) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', '(' || pg_get_function_arguments(p.oid) || ')',
	                 '->', pg_get_function_result(p.oid), '/', upper(l.lanname),
	                 CASE provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
	                 'PARALLEL', CASE proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END,
	                 CASE prokind WHEN 'p' THEN 'PROCEDURE' END, CASE WHEN proisstrict THEN 'STRICT' END,
	                 CASE WHEN prosecdef THEN 'SECURITY DEFINER' END, CASE WHEN proleakproof THEN 'LEAKPROOF' END,
	                 proconfig::text)
	FROM pg_proc AS p JOIN pg_language AS l ON l.oid = prolang
	WHERE p.oid = CASE WHEN name ~ '\(' THEN name::regprocedure ELSE name::regproc END
$$;

SELECT is(pg_temp.contract('idem_claim'),
	'(key text, request jsonb DEFAULT NULL::jsonb, scope text DEFAULT ''''::text, '
	'wait interval DEFAULT NULL::interval, ttl interval DEFAULT NULL::interval, lease interval DEFAULT NULL::interval'
	') -> idem_claim_result / C VOLATILE PARALLEL UNSAFE', 'idem_claim');
SELECT is(string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum),
	'status text, response jsonb, attempt integer, token bigint, checkpoint jsonb, cacheable_until timestamp with time zone', 'idem_claim_result')
	FROM pg_attribute WHERE attrelid = 'idem_claim_result'::regclass;
SELECT is(pg_temp.contract('idem_complete'),
	'(key text, response jsonb, scope text DEFAULT ''''::text, token bigint DEFAULT NULL::bigint) -> jsonb / C VOLATILE PARALLEL UNSAFE', 'idem_complete');
SELECT is(pg_temp.contract('idem_release'),
	'(key text, scope text DEFAULT ''''::text, token bigint DEFAULT NULL::bigint) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_release');
SELECT is(pg_temp.contract('idem_renew'),
	'(key text, token bigint, lease interval, scope text DEFAULT ''''::text) -> timestamp with time zone / C VOLATILE PARALLEL UNSAFE', 'idem_renew');
SELECT is(pg_temp.contract('idem_checkpoint'),
	'(key text, token bigint, step text, state jsonb, scope text DEFAULT ''''::text) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_checkpoint');
SELECT is(pg_temp.contract('idem_status'),
	'(key text, scope text DEFAULT ''''::text, OUT status text, OUT response jsonb, OUT attempt integer, '
	'OUT claimed_at timestamp with time zone, OUT completed_at timestamp with time zone, '
	'OUT expires_at timestamp with time zone, OUT holder_pid integer) -> record / C VOLATILE PARALLEL RESTRICTED', 'idem_status');
SELECT is(pg_temp.contract('idem_evict'),
	'(key text, scope text DEFAULT ''''::text) -> boolean / C VOLATILE PARALLEL UNSAFE', 'idem_evict');
SELECT is(pg_temp.contract('idem_digest'),
	'(key text, scope text DEFAULT ''''::text) -> bigint / C IMMUTABLE PARALLEL SAFE', 'idem_digest');
SELECT is(pg_temp.contract('idem_execute'),
	'(handler regprocedure, key text, request jsonb, scope text DEFAULT ''''::text, ttl interval DEFAULT NULL::interval'
	') -> idem_execute_result / C VOLATILE PARALLEL UNSAFE', 'idem_execute');
SELECT is(string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum), 'status text, response jsonb, cacheable_until timestamp with time zone', 'idem_execute_result')
	FROM pg_attribute WHERE attrelid = 'idem_execute_result'::regclass;
SELECT is(pg_temp.contract('idem_execute_many(regprocedure,text[],jsonb[],text)'),
	'(handler regprocedure, keys text[], requests jsonb[], scope text DEFAULT ''''::text'
	') -> SETOF idem_many_result / C VOLATILE PARALLEL UNSAFE', 'idem_execute_many');
SELECT is(pg_temp.contract('idem_execute_many(regprocedure,text[],jsonb[],text[],jsonb[])'),
	'(handler regprocedure, keys text[], requests jsonb[], scopes text[], contexts jsonb[] DEFAULT NULL::jsonb[]) -> SETOF idem_many_result / C VOLATILE PARALLEL UNSAFE', 'with scopes');
SELECT is(string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum), 'key text, status text, response jsonb, cacheable_until timestamp with time zone', 'idem_many_result')
	FROM pg_attribute WHERE attrelid = 'idem_many_result'::regclass;
SELECT is(pg_temp.contract('idem_context'), '() -> jsonb / C VOLATILE PARALLEL RESTRICTED', 'idem_context');
SELECT is(pg_temp.contract('idem_claim_many'),
	'(keys text[], requests jsonb[] DEFAULT NULL::jsonb[], scope text DEFAULT ''''::text'
	') -> SETOF idem_many_result / C VOLATILE PARALLEL UNSAFE', 'idem_claim_many');
SELECT is(pg_temp.contract('idem_complete_many'),
	'(keys text[], responses jsonb[], scope text DEFAULT ''''::text) -> integer / C VOLATILE PARALLEL UNSAFE', 'idem_complete_many');
SELECT is(pg_temp.contract('idem_compensate_with'),
	'(key text, handler regprocedure, args jsonb, scope text DEFAULT ''''::text, deadline interval DEFAULT NULL::interval, token bigint DEFAULT NULL::bigint'
	') -> void / C VOLATILE PARALLEL UNSAFE', 'idem_compensate_with');
SELECT is(pg_temp.contract('idem_confirm'), '(key text, scope text DEFAULT ''''::text) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_confirm');
SELECT is(pg_temp.contract('idem_cancel'),
	'(key text, reason text DEFAULT NULL::text, scope text DEFAULT ''''::text, wait interval DEFAULT NULL::interval'
	') -> idem_cancel_result / C VOLATILE PARALLEL UNSAFE', 'idem_cancel');
SELECT is(string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum), 'status text, response jsonb', 'idem_cancel_result')
	FROM pg_attribute WHERE attrelid = 'idem_cancel_result'::regclass;
SELECT is(pg_temp.contract('idem_publish'),
	'(topic text, payload jsonb, key text DEFAULT NULL::text, type text DEFAULT NULL::text, headers jsonb DEFAULT NULL::jsonb'
	') -> bigint / C VOLATILE PARALLEL UNSAFE', 'idem_publish');
SELECT is(pg_temp.contract('idem_subscribe'),
	'(consumer text, topics text[] DEFAULT NULL::text[], lanes integer DEFAULT 1, start text DEFAULT ''now''::text, external boolean DEFAULT false'
	') -> void / C VOLATILE PARALLEL UNSAFE', 'idem_subscribe');
SELECT is(pg_temp.contract('idem_fetch'),
	'(consumer text, max_messages integer DEFAULT 100, wait interval DEFAULT ''00:00:00''::interval, lane bigint DEFAULT NULL::bigint'
	') -> SETOF idem_message / C VOLATILE PARALLEL UNSAFE', 'idem_fetch');
SELECT is(string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum),
	'batch bigint, seq bigint, id bigint, topic text, key text, type text, payload jsonb, headers jsonb, '
	'created_at timestamp with time zone, attempt integer, lane bigint, source text, message_id text', 'idem_message')
	FROM pg_attribute WHERE attrelid = 'idem_message'::regclass;
SELECT is(pg_temp.contract('idem_ack'), '(consumer text, batch bigint) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_ack');
SELECT is(pg_temp.contract('idem_nack'),
	'(consumer text, batch bigint, id bigint, error text, retry_in interval DEFAULT NULL::interval) -> bigint[] / C VOLATILE PARALLEL UNSAFE', 'idem_nack');
SELECT is(pg_temp.contract('idem_redrive'), '(consumer text, id bigint) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_redrive');
SELECT is(pg_temp.contract('idem_incarnation'), '() -> text / C VOLATILE PARALLEL UNSAFE', 'idem_incarnation');
SELECT is(pg_temp.contract('idem_seek'), '(consumer text, since timestamp with time zone) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_seek');
SELECT is(pg_temp.contract('idem_unsubscribe'), '(consumer text) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_unsubscribe');
SELECT is(pg_temp.contract('idem_delivered'),
	'(id bigint, OUT consumer text, OUT state text) -> SETOF record / SQL VOLATILE PARALLEL UNSAFE', 'idem_delivered');
SELECT is(pg_temp.contract('idem_consume'), '(source text, message_id text) -> boolean / C VOLATILE PARALLEL UNSAFE', 'idem_consume');
SELECT is(pg_temp.contract('idem_consume_seq'), '(source text, lane bigint, seq bigint) -> text / C VOLATILE PARALLEL UNSAFE', 'idem_consume_seq');
SELECT is(pg_temp.contract('idem_attach'),
	'(tbl regclass, state_column name, machine text, topic text DEFAULT NULL::text, columns name[] DEFAULT NULL::name[]'
	') -> void / C VOLATILE PARALLEL UNSAFE', 'idem_attach');
SELECT is(pg_temp.contract('idem_detach'), '(tbl regclass) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_detach');
SELECT is(pg_temp.contract('idem_guard_topic'), '(topic text, machine text) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_guard_topic');
SELECT is(pg_temp.contract('idem_unguard_topic'), '(topic text) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_unguard_topic');
SELECT is(pg_temp.contract('idem_next_states'), '(machine text, state text) -> SETOF text / C VOLATILE PARALLEL UNSAFE', 'idem_next_states');
SELECT is(pg_temp.contract('idem_machine_dot'), '(machine text) -> text / C VOLATILE PARALLEL UNSAFE', 'idem_machine_dot');
SELECT is(pg_temp.contract('idem_guards'),
	'(OUT tbl regclass, OUT state_column text, OUT machine text, OUT topic text, OUT enabled boolean, OUT stray_rows bigint'
	') -> SETOF record / C VOLATILE PARALLEL UNSAFE', 'idem_guards');
SELECT is(pg_temp.contract('idem_export'),
	'(scope text, "position" text DEFAULT NULL::text, max_keys integer DEFAULT 1000) -> jsonb / C VOLATILE PARALLEL UNSAFE', 'idem_export');
SELECT is(pg_temp.contract('idem_import'), '(page jsonb) -> text / C VOLATILE PARALLEL UNSAFE', 'idem_import');
SELECT is(pg_temp.contract('idem_maintain'),
	'() -> / C VOLATILE PARALLEL UNSAFE PROCEDURE', 'idem_maintain');
SELECT is(pg_temp.contract('idem_verify'),
	'(OUT invariant text, OUT object text, OUT detail text) -> SETOF record / SQL VOLATILE PARALLEL UNSAFE', 'idem_verify');
SELECT is(pg_temp.contract('idem_suspects'),
	'(within interval DEFAULT ''01:00:00''::interval, OUT scope text, OUT fingerprint text, OUT requests bigint, OUT keys text[], '
	'OUT first_at timestamp with time zone, OUT last_at timestamp with time zone) -> SETOF record / SQL VOLATILE PARALLEL UNSAFE', 'idem_suspects');
SELECT is(pg_temp.contract('idem_stats_reset'), '() -> void / C VOLATILE PARALLEL RESTRICTED', 'idem_stats_reset');
SELECT is(pg_temp.contract('idem_grant'),
	'(role name, profile text) -> void / C VOLATILE PARALLEL UNSAFE', 'idem_grant');

SELECT results_eq($$
	SELECT proname, count(*)::int FROM pg_proc WHERE proname LIKE 'idem\_%' GROUP BY proname HAVING count(*) > 1
$$, $$VALUES ('idem_execute_many'::name, 2)$$, 'no other function is overloaded');
SELECT is_empty($$
	SELECT p.oid::regprocedure, t.typname FROM pg_proc AS p, unnest(proargtypes) AS a JOIN pg_type AS t ON t.oid = a
	WHERE proname LIKE 'idem\_%' AND (typtype = 'p' OR typname IN ('varchar', 'bpchar', 'json') OR provariadic <> 0)
$$, 'no argument is polymorphic, variadic or of a type with a better-known twin');
SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_language AS l ON l.oid = prolang
	WHERE proname LIKE 'idem\_%' AND lanname = 'c' AND probin <> '$libdir/idem'
$$, 'all C functions are in the one library');

SELECT * FROM finish();
ROLLBACK;
