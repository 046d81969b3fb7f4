-- Every call resolves with bare literals, with untyped parameters and by argument names.
BEGIN;
SELECT plan(114);
SET LOCAL client_min_messages = error; -- a test writes, which idem_release would warn of

-- what an untyped parameter is taken for
CREATE FUNCTION pg_temp.parameters(prepared text) RETURNS text LANGUAGE sql AS $$
	SELECT parameter_types::text FROM pg_prepared_statements WHERE name = prepared
$$;

-- bare literals, as many as one likes
SELECT results_eq($$SELECT status FROM idem_claim('c1')$$, '{claimed}'::text[], 'idem_claim of 1 literal');
SELECT results_eq($$SELECT status FROM idem_claim('c2', '{}')$$, '{claimed}'::text[], 'of 2');
SELECT results_eq($$SELECT status FROM idem_claim('c3', '{}', 's')$$, '{claimed}'::text[], 'of 3');
SELECT results_eq($$SELECT status FROM idem_claim('c4', '{}', 's', '0')$$, '{claimed}'::text[], 'of 4');
SELECT results_eq($$SELECT status FROM idem_claim('c5', NULL, '', NULL, '1 day')$$, '{claimed}'::text[], 'of 5');
SELECT results_eq($$SELECT status FROM idem_claim('c6', '[1]', '', '1 s', '1 day', NULL)$$, '{claimed}'::text[], 'of 6');
SELECT lives_ok($$SELECT idem_claim('c7')$$, 'idem_claim as a scalar');
SELECT results_eq($$SELECT idem_complete('c1', '1')$$, '{1}'::jsonb[], 'idem_complete of 2 literals');
SELECT results_eq($$SELECT idem_complete('c3', '{"a": 1}', 's')$$, ARRAY['{"a": 1}'::jsonb], 'of 3');
SELECT results_eq($$SELECT idem_complete('c4', 'null', 's', NULL)$$, ARRAY['null'::jsonb], 'of 4');
SELECT lives_ok($$SELECT idem_release('c2')$$, 'idem_release of 1 literal');
SELECT lives_ok($$SELECT idem_claim('c2', '{}', 's'), idem_release('c2', 's')$$, 'of 2');
SELECT lives_ok($$SELECT idem_release('c5', '', NULL)$$, 'of 3');
CREATE FUNCTION regress_idem_undo(jsonb) RETURNS void LANGUAGE sql AS '';
SELECT lives_ok($$SELECT idem_claim('cc'); SELECT idem_compensate_with('cc', 'regress_idem_undo(jsonb)', '1')$$, 'idem_compensate_with of 3 literals');
SELECT lives_ok($$SELECT idem_compensate_with('cc', 'regress_idem_undo(jsonb)', '{"a": 1}', '')$$, 'of 4');
SELECT lives_ok($$SELECT idem_compensate_with('cc', 'regress_idem_undo(jsonb)', NULL, '', '1 day')$$, 'of 5');
SELECT lives_ok($$SELECT idem_compensate_with('cc', 'regress_idem_undo(jsonb)', '[1]', '', NULL, NULL)$$, 'of 6');
SELECT lives_ok($$SELECT idem_complete('cc', '1')$$, '... stored');
SELECT throws_ok($$SELECT idem_confirm('never')$$, 'ID013', NULL, 'idem_confirm of 1 literal');
SELECT throws_ok($$SELECT idem_confirm('never', 's')$$, 'ID013', NULL, 'of 2');
SELECT results_eq($$SELECT status FROM idem_cancel('x1')$$, '{tombstoned}'::text[], 'idem_cancel of 1 literal');
SELECT results_eq($$SELECT status FROM idem_cancel('x2', 'reason')$$, '{tombstoned}'::text[], 'of 2');
SELECT results_eq($$SELECT status FROM idem_cancel('x3', NULL, 's')$$, '{tombstoned}'::text[], 'of 3');
SELECT results_eq($$SELECT status FROM idem_cancel('cc', 'reason', '', '0')$$, '{compensated}'::text[], 'of 4');
SELECT lives_ok($$SELECT idem_cancel('x1')$$, 'idem_cancel as a scalar');
SELECT results_eq($$SELECT status FROM idem_status('c1')$$, '{completed}'::text[], 'idem_status of 1 literal');
SELECT results_eq($$SELECT status FROM idem_status('c3', 's')$$, '{completed}'::text[], 'of 2');
SELECT results_eq($$SELECT idem_evict('never')$$, '{f}'::bool[], 'idem_evict of 1 literal');
SELECT results_eq($$SELECT idem_evict('never', 's')$$, '{f}'::bool[], 'of 2');
SELECT isnt(idem_digest('k'), NULL, 'idem_digest of 1 literal');
SELECT isnt(idem_digest('k', 's'), idem_digest('k'), 'of 2');
SELECT is_empty($$SELECT * FROM idem_verify()$$, 'idem_verify');
SELECT throws_ok($$CALL idem_maintain()$$, '2D000', NULL, 'CALL idem_maintain, found, though not allowed here');
CREATE ROLE regress_idem_calls;
SELECT lives_ok($$SELECT idem_grant('regress_idem_calls', 'app')$$, 'idem_grant of 2 literals');

SELECT lives_ok($$SELECT idem_subscribe('c1')$$, 'idem_subscribe of 1 literal');
SELECT lives_ok($$SELECT idem_subscribe('c2', NULL)$$, 'of 2');
SELECT lives_ok($$SELECT idem_subscribe('c3', '{t}', 1)$$, 'of 3');
SELECT lives_ok($$SELECT idem_subscribe('c4', '{t,u}', 1, 'earliest')$$, 'of 4');
SELECT lives_ok($$SELECT idem_subscribe('c5', '{t}', 1, 'now', false)$$, 'of 5');
SELECT results_eq($$SELECT idem_publish('t', '1') > 0$$, '{t}'::bool[], 'idem_publish of 2 literals');
SELECT results_eq($$SELECT idem_publish('t', '{"a": 1}', 'k') > 0$$, '{t}'::bool[], 'of 3');
SELECT results_eq($$SELECT idem_publish('t', '[1]', 'k', 'created') > 0$$, '{t}'::bool[], 'of 4');
SELECT results_eq($$SELECT idem_publish('t', 'null', 'k', NULL, '{"h": 1}') > 0$$, '{t}'::bool[], 'of 5');
SELECT is_empty($$SELECT * FROM idem_fetch('c1')$$, 'idem_fetch of 1 literal');
SELECT is_empty($$SELECT * FROM idem_fetch('c1', 10)$$, 'of 2');
SELECT is_empty($$SELECT * FROM idem_fetch('c1', 10, '1 ms')$$, 'of 3');
SELECT is_empty($$SELECT * FROM idem_fetch('c1', 10, '0', NULL)$$, 'of 4');
SELECT throws_ok($$SELECT idem_ack('c1', 7)$$, 'ID009', NULL, 'idem_ack of 2 literals');
SELECT lives_ok($$SELECT idem_seek('c1', '2000-01-01')$$, 'idem_seek of 2 literals');
SELECT lives_ok($$SELECT idem_unsubscribe('c1')$$, 'idem_unsubscribe of 1 literal');
SELECT is_empty($$SELECT * FROM idem_delivered(0)$$, 'idem_delivered of 1 literal');
SELECT results_eq($$SELECT idem_consume('s', 'm')$$, '{t}'::bool[], 'idem_consume of 2 literals');
SELECT results_eq($$SELECT idem_consume_seq('s', 1, 1)$$, '{first}'::text[], 'idem_consume_seq of 3 literals');

CREATE TABLE guarded (id int PRIMARY KEY, state text);
SELECT lives_ok($$SELECT idem_attach('guarded', 'state', 'order')$$, 'idem_attach of 3 literals');
SELECT lives_ok($$SELECT idem_detach('guarded')$$, 'idem_detach of 1 literal');
SELECT lives_ok($$SELECT idem_attach('guarded', 'state', 'order', 't'), idem_detach('guarded')$$, 'idem_attach of 4 literals');
SELECT lives_ok($$SELECT idem_attach('guarded', 'state', 'order', 't', '{id,state}')$$, 'of 5');
SELECT results_eq($$SELECT * FROM idem_next_states('order', 'paid')$$, '{completed}'::text[], 'idem_next_states of 2 literals');
SELECT results_eq($$SELECT * FROM idem_next_states('order', NULL)$$, '{created}'::text[], 'and NULL');
SELECT matches(idem_machine_dot('order'), '^digraph "order"', 'idem_machine_dot of 1 literal');
SELECT lives_ok($$SELECT idem_guard_topic('g', 'order')$$, 'idem_guard_topic of 2 literals');
SELECT lives_ok($$SELECT idem_unguard_topic('g')$$, 'idem_unguard_topic of 1 literal');
SELECT results_eq($$SELECT tbl::text FROM idem_guards()$$, '{guarded}'::text[], 'idem_guards');

-- untyped parameters
PREPARE attach AS SELECT idem_attach($1, $2, $3, $4, $5);
SELECT is(pg_temp.parameters('attach'), '{regclass,name,text,text,name[]}', 'idem_attach of untyped parameters');
PREPARE detach AS SELECT idem_detach($1);
SELECT is(pg_temp.parameters('detach'), '{regclass}', 'idem_detach of untyped parameters');
SELECT lives_ok($$EXECUTE detach ('guarded')$$, '... executed');
SELECT lives_ok($$EXECUTE attach ('guarded', 'state', 'order', 't', '{id}')$$, '... executed');
PREPARE next_states AS SELECT idem_next_states($1, $2);
SELECT is(pg_temp.parameters('next_states'), '{text,text}', 'idem_next_states of untyped parameters');
SELECT results_eq($$EXECUTE next_states ('order', 'paid')$$, '{completed}'::text[], '... executed');
PREPARE dot AS SELECT idem_machine_dot($1);
SELECT is(pg_temp.parameters('dot'), '{text}', 'idem_machine_dot of untyped parameters');
PREPARE guard_topic AS SELECT idem_guard_topic($1, $2);
SELECT is(pg_temp.parameters('guard_topic'), '{text,text}', 'idem_guard_topic of untyped parameters');
SELECT lives_ok($$EXECUTE guard_topic ('g', 'order')$$, '... executed');
PREPARE unguard_topic AS SELECT idem_unguard_topic($1);
SELECT is(pg_temp.parameters('unguard_topic'), '{text}', 'idem_unguard_topic of untyped parameters');
SELECT lives_ok($$EXECUTE unguard_topic ('g')$$, '... executed');
PREPARE rule AS INSERT INTO idem_transitions (machine, from_state, to_state) VALUES ($1, $2, $3);
SELECT is(pg_temp.parameters('rule'), '{text,text,text}', 'a rule of untyped parameters');
SELECT lives_ok($$EXECUTE rule ('m', NULL, 'a')$$, '... executed');
SELECT lives_ok($$SELECT idem_attach(columns => '{id}', topic => 't', machine => 'order', state_column => 'state', tbl => 'guarded')$$, 'idem_attach by name');
PREPARE compensate_with AS SELECT idem_compensate_with($1, $2, $3, $4, $5, $6);
SELECT is(pg_temp.parameters('compensate_with'), '{text,regprocedure,jsonb,text,interval,bigint}', 'idem_compensate_with of untyped parameters');
SELECT lives_ok($$SELECT idem_claim('p0'); EXECUTE compensate_with ('p0', 'regress_idem_undo(jsonb)', '1', '', '1 h', NULL); SELECT idem_complete('p0', '1')$$, '... executed');
PREPARE confirm AS SELECT idem_confirm($1, $2);
SELECT is(pg_temp.parameters('confirm'), '{text,text}', 'idem_confirm of untyped parameters');
SELECT lives_ok($$EXECUTE confirm ('p0', '')$$, '... executed');
PREPARE cancelling AS SELECT status FROM idem_cancel($1, $2, $3, $4);
SELECT is(pg_temp.parameters('cancelling'), '{text,text,text,interval}', 'idem_cancel of untyped parameters');
SELECT results_eq($$EXECUTE cancelling ('p0', 'reason', '', '0')$$, '{refused}'::text[], '... executed');
PREPARE publish AS SELECT idem_publish($1, $2, $3, $4, $5);
SELECT is(pg_temp.parameters('publish'), '{text,jsonb,text,text,jsonb}', 'idem_publish of untyped parameters');
PREPARE inserting AS INSERT INTO idem_outbox (topic, key, type, payload, headers) VALUES ($1, $2, $3, $4, $5) RETURNING id;
SELECT is(pg_temp.parameters('inserting'), '{text,text,text,jsonb,jsonb}', 'an INSERT of untyped parameters');
PREPARE subscribe AS SELECT idem_subscribe($1, $2, $3, $4, $5);
SELECT is(pg_temp.parameters('subscribe'), '{text,text[],integer,text,boolean}', 'idem_subscribe of untyped parameters');
PREPARE fetching AS SELECT * FROM idem_fetch($1, $2, $3, $4);
SELECT is(pg_temp.parameters('fetching'), '{text,integer,interval,bigint}', 'idem_fetch of untyped parameters');
PREPARE ack AS SELECT idem_ack($1, $2);
SELECT is(pg_temp.parameters('ack'), '{text,bigint}', 'idem_ack of untyped parameters');
PREPARE seek AS SELECT idem_seek($1, $2);
SELECT is(pg_temp.parameters('seek'), '{text,"timestamp with time zone"}', 'idem_seek of untyped parameters');
PREPARE consume AS SELECT idem_consume($1, $2);
SELECT is(pg_temp.parameters('consume'), '{text,text}', 'idem_consume of untyped parameters');
PREPARE consume_seq AS SELECT idem_consume_seq($1, $2, $3);
SELECT is(pg_temp.parameters('consume_seq'), '{text,bigint,bigint}', 'idem_consume_seq of untyped parameters');
PREPARE delivered AS SELECT * FROM idem_delivered($1);
SELECT is(pg_temp.parameters('delivered'), '{bigint}', 'idem_delivered of untyped parameters');
SELECT results_eq($$EXECUTE publish ('t', '{"a": 1}', 'k', 'x', NULL)$$, $$SELECT currval('idem_outbox_ids')$$, '... executed');
PREPARE claim AS SELECT status FROM idem_claim($1, $2, $3, $4, $5, $6);
SELECT is(pg_temp.parameters('claim'), '{text,jsonb,text,interval,interval,interval}', 'idem_claim of untyped parameters');
SELECT results_eq($$EXECUTE claim ('p1', '{"a": 1}', '', '0', '1 day', NULL)$$, '{claimed}'::text[], '... executed');
PREPARE complete AS SELECT idem_complete($1, $2, $3, $4);
SELECT is(pg_temp.parameters('complete'), '{text,jsonb,text,bigint}', 'idem_complete of untyped parameters');
SELECT results_eq($$EXECUTE complete ('p1', '{"b": 2}', '', NULL)$$, ARRAY['{"b": 2}'::jsonb], '... executed');
PREPARE release AS SELECT idem_release($1, $2, $3);
SELECT is(pg_temp.parameters('release'), '{text,text,bigint}', 'idem_release of untyped parameters');
SELECT lives_ok($$EXECUTE claim ('p2', NULL, 's', NULL, NULL, NULL); EXECUTE release ('p2', 's', NULL)$$, '... executed');
PREPARE status AS SELECT status FROM idem_status($1, $2);
SELECT is(pg_temp.parameters('status'), '{text,text}', 'idem_status of untyped parameters');
SELECT results_eq($$EXECUTE status ('p1', '')$$, '{completed}'::text[], '... executed');
PREPARE evict AS SELECT idem_evict($1, $2);
SELECT is(pg_temp.parameters('evict'), '{text,text}', 'idem_evict of untyped parameters');
SELECT results_eq($$EXECUTE evict ('never', '')$$, '{f}'::bool[], '... executed');
PREPARE digest AS SELECT idem_digest($1, $2);
SELECT is(pg_temp.parameters('digest'), '{text,text}', 'idem_digest of untyped parameters');
SELECT results_eq($$EXECUTE digest ('k', '')$$, $$SELECT idem_digest('k')$$, '... executed');
PREPARE grants AS SELECT idem_grant($1, $2);
SELECT is(pg_temp.parameters('grants'), '{name,text}', 'idem_grant of untyped parameters');
SELECT lives_ok($$EXECUTE grants ('regress_idem_calls', 'dba')$$, '... executed');
PREPARE fewest AS SELECT idem_claim($1), idem_complete($1, $2), idem_release($1), idem_status($1), idem_evict($1), idem_digest($1);
SELECT is(pg_temp.parameters('fewest'), '{text,jsonb}', 'as few as there may be');
PREPARE look AS SELECT * FROM idem_keys WHERE digest = idem_digest($1, $2) AND key = $1;
SELECT is(pg_temp.parameters('look'), '{text,text}', 'idem_keys by untyped parameters');

-- by name, and by the types that drivers like to send
SELECT results_eq($$SELECT status FROM idem_claim(scope => 'n', lease => NULL, ttl => '1 day', wait => '0', request => '{}', key => 'n1')$$,
	'{claimed}'::text[], 'idem_claim by name');
SELECT lives_ok($$SELECT idem_compensate_with(token => NULL, deadline => '1 h', scope => 'n', args => '1', handler => 'regress_idem_undo(jsonb)', key => 'n1')$$, 'idem_compensate_with by name');
SELECT results_eq($$SELECT idem_complete(token => NULL, scope => 'n', response => '1', key => 'n1')$$, '{1}'::jsonb[], 'idem_complete by name');
SELECT results_eq($$SELECT status FROM idem_cancel(wait => '0', scope => 'n', reason => 'r', key => 'n1'::varchar)$$, '{compensated}'::text[], 'idem_cancel by name');
SELECT results_eq($$SELECT status FROM idem_claim('n1'::varchar, '{}'::jsonb, 'n'::varchar(10))$$, '{cancelled}'::text[], 'idem_claim of varchar');

SELECT * FROM finish();
ROLLBACK;
