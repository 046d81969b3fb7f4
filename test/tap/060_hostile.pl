# A hostile user: what stands in the way of CREATE EXTENSION, what can be hung on what it has made, handlers that try to be
# somebody else, rows that are forged, settings and locks from outside, and a handler that does not end.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('hostile');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\nlog_statement = none\n");
$node->start;

sub sql { my ($sql, @as) = @_; return $node->safe_psql('postgres', $sql, map { ('extra_params', [ '-U', $_ ]) } @as); }

# the SQLSTATE and the message that a role's statements end with
sub error
{
	my ($role, $sql) = @_;
	my ($out, $err);
	$node->psql('postgres', $sql, stdout => \$out, stderr => \$err, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);
	return $err =~ /ERROR:  (.*)/ ? $1 : "none: $out";
}
sub refused { my ($role, $sql, $what, $error) = @_; like(error($role, $sql), $error // qr/^42501/, $what // $sql); return; }

sql(<<'EOT');
CREATE ROLE hostile LOGIN;
CREATE ROLE victim LOGIN;
CREATE ROLE app LOGIN;
CREATE ROLE deployer LOGIN NOSUPERUSER CREATEROLE IN ROLE app, hostile, victim;
GRANT CREATE ON SCHEMA public TO hostile, victim;
EOT

# ---- before CREATE EXTENSION: whatever is there by a name of idem's, it refuses ----

$node->safe_psql('template1', 'CREATE EXTENSION idem');
my $objects = $node->safe_psql('template1', q{
	SELECT format('CREATE TABLE public.%I (digest int8)', relname)
	FROM pg_class WHERE relname LIKE 'idem\_%' AND relnamespace = 'public'::regnamespace AND relkind <> 'c'
	UNION ALL
	SELECT format('CREATE VIEW public.%I AS SELECT 1 AS digest', relname)
	FROM pg_class WHERE relname LIKE 'idem\_%' AND relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
	UNION ALL
	SELECT format('CREATE %s public.%I(%s) %s LANGUAGE plpgsql AS %L', CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, proname,
	              pg_get_function_arguments(oid), 'RETURNS ' || pg_get_function_result(oid), 'BEGIN RAISE ''trapped''; END')
	FROM pg_proc WHERE proname LIKE 'idem\_%' AND prorettype NOT IN (SELECT oid FROM pg_type WHERE typname LIKE 'idem\_%')
	  AND NOT proretset
	UNION ALL
	SELECT format('CREATE TYPE public.%I AS (status text)', typname)
	FROM pg_type WHERE typname LIKE 'idem\_%result' OR typname = 'idem_message'
	UNION ALL
	-- of one of these and its own it cannot tell which is meant
	SELECT format('CREATE FUNCTION public.%s RETURNS bigint LANGUAGE sql AS %L', f, 'SELECT 1')
	FROM unnest(ARRAY[$$idem_guards(VARIADIC text[] = '{}')$$, $$idem_digest(text, text, text = '')$$]) AS f});
$node->safe_psql('template1', 'DROP EXTENSION idem');
cmp_ok(scalar(() = $objects =~ /^CREATE/mg), '>', 110, 'every table, view, sequence, index, type and function can be in the way');
is(sql("CREATE TABLE trap AS SELECT \$traps\$$objects\$traps\$ AS list;" . <<'EOT'), "0\n0", 'and none is taken for its own');
DO $$
DECLARE
	trap text;
	fooled int := 0;
BEGIN
	FOR trap IN SELECT regexp_split_to_table(list, E'\n(?=CREATE)') FROM trap LOOP
		BEGIN
			SET LOCAL ROLE hostile;
			EXECUTE trap;
			RESET ROLE;
			CREATE EXTENSION idem SCHEMA public;
			RAISE NOTICE 'fooled by %', trap;
			fooled := fooled + 1;
		EXCEPTION WHEN duplicate_table OR duplicate_function OR duplicate_object OR ambiguous_function THEN
		END;
	END LOOP;
	CREATE TABLE fooled AS SELECT fooled;
END $$;
SELECT * FROM fooled;
SELECT count(*) FROM pg_class WHERE relname LIKE 'idem\_%';
DROP TABLE trap, fooled;
EOT

# namesakes with other arguments, operators and casts, in its very schema: installed, it does not use one of them
sql(<<'EOT', 'hostile');
CREATE FUNCTION idem_digest(varchar, varchar) RETURNS bigint LANGUAGE sql AS 'SELECT 1/0';
CREATE FUNCTION idem_is_past(varchar, bigint, xid8, integer, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
CREATE FUNCTION idem_pending(varchar) RETURNS TABLE (lane bigint, depth bigint) LANGUAGE sql AS 'SELECT 1/0, 1/0';
CREATE FUNCTION format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text';
CREATE FUNCTION equal(text, text) RETURNS bool LANGUAGE sql AS 'SELECT 1/0 = 1';
CREATE OPERATOR = (FUNCTION = equal, LEFTARG = text, RIGHTARG = text);
CREATE TYPE text AS ENUM ('trapped');
EOT
sql('CREATE EXTENSION idem');
is(sql(q{SELECT pg_describe_object(d.refclassid, d.refobjid, 0) FROM pg_depend AS d, pg_depend AS e
	WHERE e.deptype = 'e' AND e.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem')
	  AND (d.classid, d.objid) IN (SELECT e.classid, e.objid UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class = e.objid)
	  AND d.refobjid IN (SELECT oid FROM pg_proc WHERE proowner = 'hostile'::regrole UNION ALL SELECT oid FROM pg_operator WHERE oprowner = 'hostile'::regrole
	                     UNION ALL SELECT oid FROM pg_type WHERE typowner = 'hostile'::regrole)}), '', 'nothing of idem rests on what hostile has made');
sql('DROP OWNED BY hostile; GRANT CREATE ON SCHEMA public TO hostile');
sql(q{SELECT idem_grant(r, 'app') FROM unnest('{hostile,victim,app}'::name[]) AS r});

# ---- with CREATE on its schema and the profile app: nothing can be hung on what is idem's ----

refused('hostile', $_) for (
	'CREATE INDEX ON idem_pinned (key)', 'CREATE STATISTICS s ON key, scope FROM idem_pinned', 'CREATE RULE r AS ON INSERT TO idem_pinned DO INSTEAD NOTHING',
	'CREATE TRIGGER t BEFORE INSERT ON idem_pinned EXECUTE FUNCTION suppress_redundant_updates_trigger()',
	'CREATE TRIGGER t INSTEAD OF INSERT ON idem_outbox FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
	'CREATE POLICY p ON idem_pinned', 'CREATE TABLE child () INHERITS (idem_pinned)', 'CREATE PUBLICATION p FOR TABLE idem_pinned',
	'CREATE TABLE child (consumer text COLLATE "C" REFERENCES idem_subscriptions (consumer))',
	'ALTER TABLE idem_pinned ENABLE ROW LEVEL SECURITY', 'ALTER TABLE idem_pinned DISABLE TRIGGER ALL', 'ALTER TABLE idem_pinned RENAME TO mine', 'ALTER TABLE idem_pinned SET SCHEMA public',
	'ALTER VIEW idem_outbox ALTER COLUMN id DROP DEFAULT', 'ALTER VIEW idem_keys SET (security_invoker = on)', 'CREATE OR REPLACE VIEW idem_holders AS SELECT 1',
	q{CREATE OR REPLACE FUNCTION idem_digest(key text, scope text = '') RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT 1'},
	'ALTER FUNCTION idem_digest RESET ALL', 'DROP FUNCTION idem_digest', 'DROP TABLE idem_pinned', 'TRUNCATE idem_pinned', 'DROP EXTENSION idem', 'ALTER EXTENSION idem DROP VIEW idem_keys',
	'BEGIN; LOCK TABLE idem_keys_0 IN ACCESS SHARE MODE', 'BEGIN; LOCK TABLE idem_outbox IN SHARE MODE', 'COPY idem_pinned TO STDOUT', 'COPY idem_ring FROM STDIN', 'CLUSTER idem_pinned USING idem_pinned_expires_at',
	'REINDEX TABLE idem_pinned', q{SELECT nextval('idem_outbox_ids')}, q{SELECT setval('idem_tokens', 1)}, q{COMMENT ON TABLE idem_ring IS ''},
	'CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION idem_table_changed()',
	'SELECT topic FROM idem_outbox', 'SELECT FROM idem_outbox WHERE payload IS NOT NULL', 'INSERT INTO idem_outbox (topic, payload) SELECT NULL, NULL RETURNING payload');
refused('hostile', "CREATE TABLE own_$_ (state text); CREATE TRIGGER t AFTER INSERT ON own_$_ FOR EACH ROW EXECUTE FUNCTION $_('state', 'order', 'secrets')", "a trigger of one's own that calls $_()")
	for qw(idem_guard idem_outbox_insert idem_table_changed idem_transition_check idem_handlers_check);
refused('hostile', q{INSERT INTO idem_outbox (id, topic, payload) VALUES (1, 't', '1')}, 'a message with an id of its choice', qr/^428C9|^22023/);

# ---- handlers ----

sql(<<'EOT');
CREATE TABLE ledger (what text, as_whom text DEFAULT current_user, session text DEFAULT session_user, n serial);
GRANT INSERT ON ledger TO PUBLIC;
GRANT ALL ON ledger_n_seq TO PUBLIC;
CREATE TABLE loot (what text);
GRANT INSERT ON loot TO deployer, victim;
-- an order whose deadline was over before it began
CREATE FUNCTION place(key text, handler regprocedure, args jsonb = '1', deadline interval = '1 us') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key), idem_compensate_with(key, handler, args, deadline => deadline), idem_complete(key, '1');
END $$;
EOT
sql(<<'EOT', 'hostile');
-- tries all it can to be somebody else, each in a subtransaction, and tells what it was
CREATE FUNCTION escalate(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	attempt text;
	was text[];
BEGIN
	FOREACH attempt IN ARRAY ARRAY['RESET ROLE', 'SET ROLE NONE', 'SET ROLE postgres', 'SET ROLE deployer', 'SET ROLE victim', 'SET SESSION AUTHORIZATION DEFAULT',
		'SET SESSION AUTHORIZATION postgres', 'SET LOCAL ROLE deployer', 'SELECT set_config(''role'', ''none'', true)', 'SELECT set_config(''session_authorization'', ''postgres'', true)',
		'ALTER ROLE hostile SUPERUSER', 'GRANT victim TO hostile', 'INSERT INTO public.loot VALUES (''taken'')', 'SELECT public.by_clause()'] LOOP
		BEGIN
			EXECUTE attempt;
			EXECUTE 'INSERT INTO public.loot VALUES (''taken'')';
			was := was || attempt;
		EXCEPTION WHEN OTHERS THEN
		END;
		IF current_user <> 'hostile' THEN
			was := was || (attempt || ' as ' || current_user);
		END IF;
	END LOOP;
	INSERT INTO public.ledger (what) VALUES (coalesce(array_to_string(was, ', '), 'nothing'));
	RETURN '1';
END $$;
CREATE FUNCTION by_clause() RETURNS void LANGUAGE sql SET role = 'none' AS $$INSERT INTO public.loot VALUES ('by clause')$$;
SELECT place('escalate ' || n, 'escalate(jsonb)', deadline => '1 day') FROM generate_series(1, 5) AS n;
EOT
sql(q{SELECT idem_cancel('escalate 1')});
sql(q{SET ROLE hostile; SELECT idem_cancel('escalate 2')});
sql(q{SET SESSION AUTHORIZATION hostile; SELECT idem_cancel('escalate 3')});
sql(q{SET ROLE hostile; SELECT idem_cancel('escalate 4')}, 'deployer');
sql(q{SELECT place('escalate 6', 'escalate(jsonb)')}, 'hostile');
sql('CALL idem_maintain()');
is(sql('SELECT what, as_whom, session FROM ledger ORDER BY n'), join("\n",
	'nothing|hostile|postgres', 'nothing|hostile|postgres', 'nothing|hostile|hostile', 'nothing|hostile|deployer', 'nothing|hostile|hostile'),
	'a handler is hostile and nobody else, whether a superuser cancels, or plays the role, or a role with more rights does, or it is past its deadline');
is(sql('SELECT count(*) FROM loot'), 0, 'and took nothing');
sql(q{SELECT idem_cancel('escalate 5')}, 'victim');
is(sql('SELECT what, as_whom FROM ledger ORDER BY n DESC LIMIT 1'), 'nothing|hostile', 'another app that cancels lends it nothing either');

# somebody else's function in the place of the one that was registered
sql(q{CREATE FUNCTION refund(jsonb) RETURNS void LANGUAGE sql AS ''; SELECT place('refund super', 'refund(jsonb)'), place('refund', 'refund(jsonb)', deadline => NULL); DROP FUNCTION refund});
sql(q{CREATE FUNCTION refund(jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN ALTER ROLE hostile SUPERUSER; END'}, 'hostile');
like(error('postgres', q{SELECT idem_cancel('refund')}), qr/^ID015: handler public.refund\(jsonb\) cannot be called/, 'another made by hostile in the place of a handler that was dropped is not called');
{
	my $err;
	$node->psql('postgres', 'CALL idem_maintain()', stderr => \$err);
	like($err, qr/WARNING: .*role "postgres" registered were not cancelled/, 'nor at its deadline');
}
is(sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'hostile'}), 'f', 'so hostile is still what it was');
sql('ALTER FUNCTION refund OWNER TO postgres; CREATE OR REPLACE FUNCTION refund(jsonb) RETURNS void LANGUAGE sql AS \'\'; CALL idem_maintain()');
is(sql(q{SELECT status FROM idem_cancel('refund')}) . sql(q{SELECT state FROM idem_compensations WHERE key = 'refund super'}), 'compensatedcompensated', 'once the right one is back, it is');

# who may write all tables is not thereby who may run what it likes as everybody
sql('CREATE ROLE loader LOGIN; GRANT pg_write_all_data, pg_read_all_data TO loader');
sql(q{SELECT place('forged', 'escalate(jsonb)', deadline => '1 day')}, 'hostile');
refused('loader', $_, $_) for (
	q{UPDATE idem_pinned SET handlers = jsonb_set(handlers, '{0,role}', '"postgres"'), deadline = now() WHERE key = 'forged'},
	q{UPDATE idem_pinned SET deadline = now() WHERE key = 'forged'},
	q{INSERT INTO idem_pinned SELECT 1, now(), now(), 'infinity', NULL, '', 'f', NULL, '1', 'held', now(), NULL, '[{"handler": "public.escalate(jsonb)", "args": 1, "owner": "hostile", "role": "postgres"}]'});
refused('loader', q{UPDATE idem_pinned SET handlers = '{"role": 1}' WHERE key = 'forged'}, 'what is no list of handlers', qr/^(?!none)/);
is(sql(q{UPDATE idem_pinned SET deadline = deadline + interval '1 s' WHERE key = 'forged' RETURNING 'written'}), 'written', 'a superuser may, as a restore does');

# a wrapper's caller against the handler that the wrapper's owner registered
sql(<<'EOT', 'victim');
CREATE TABLE refunds (what text, as_whom text DEFAULT current_user);
CREATE FUNCTION trusting(jsonb) RETURNS void LANGUAGE sql SET search_path = public AS $$INSERT INTO refunds VALUES ('trusting')$$;
CREATE FUNCTION cancel_mine(key text) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$SELECT status FROM idem_cancel(key)$$;
SELECT place('wrapped', 'trusting(jsonb)', deadline => '1 day');
EOT
sql(<<'EOT', 'hostile');
CREATE TABLE as_whom (name text);
GRANT ALL ON as_whom TO PUBLIC;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.as_whom VALUES (current_user); RETURN NEW; END $$;
EOT
my $plant = q{CREATE TEMP TABLE refunds (what text); GRANT ALL ON refunds TO PUBLIC; CREATE TRIGGER note BEFORE INSERT ON refunds FOR EACH ROW EXECUTE FUNCTION note(); };
like(error('hostile', $plant . q{SELECT cancel_mine('wrapped')}), qr/^ID015/, 'a temporary table in the place of the one that the handler means');
is(sql('SELECT name FROM as_whom'), '', 'runs nothing as the registrant');
is(sql(q{SELECT cancel_mine('wrapped')}, 'hostile') . sql('SELECT what, as_whom FROM refunds'), 'compensatedtrusting|victim', 'without it the wrapper cancels');

# row-level security: a handler sees what its role sees, whoever cancels
sql(<<'EOT');
CREATE TABLE orders (id text, tenant text);
INSERT INTO orders VALUES ('1', 'hostile'), ('2', 'victim');
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON orders USING (tenant = current_user);
GRANT ALL ON orders TO hostile, victim;
EOT
sql(q{CREATE FUNCTION wipe(jsonb) RETURNS jsonb LANGUAGE sql AS $$WITH gone AS (DELETE FROM public.orders RETURNING id) SELECT pg_catalog.jsonb_agg(id) FROM gone$$;
	SELECT place('wipe', 'wipe(jsonb)', deadline => '1 day')}, 'hostile');
is(sql(q{SELECT response -> 'results' FROM idem_cancel('wipe'); SELECT id FROM orders}), "[[\"1\"]]\n2", 'the policies of the tables are those for its role');

# ---- keys: one role's and another's ----

# a scope separates names, not rights: whoever has the profile may answer for every key (docs/security.md)
sql(q{SELECT idem_claim('order 1', '{"card": 1}', 'victim'), idem_complete('order 1', '{"secret": 1}', 'victim')}, 'victim');
is(sql(q{SELECT status, response FROM idem_claim('order 1', scope => 'victim')}, 'hostile'), 'completed|{"secret": 1}', 'two apps share their keys');
# and the way to keep them apart
sql(<<'EOT');
CREATE ROLE tenant LOGIN;
CREATE ROLE gate;
GRANT USAGE ON SCHEMA public TO gate;
GRANT CREATE ON SCHEMA public TO gate;
SELECT idem_grant('gate', 'app');
SET ROLE gate;
CREATE FUNCTION my_claim(key text, request jsonb) RETURNS TABLE (status text, response jsonb) LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
AS $$SELECT status, response FROM idem_claim(key, request, scope => session_user::text)$$;
CREATE FUNCTION my_complete(key text, response jsonb) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
AS $$SELECT idem_complete(key, response, scope => session_user::text)$$;
EOT
is(sql(q{BEGIN; SELECT status FROM my_claim('order 1', '{"card": 1}'); SELECT my_complete('order 1', '{"mine": 1}'); COMMIT}, 'tenant'), "claimed\n{\"mine\": 1}", 'with a wrapper that sets the scope a role has keys of its own');
refused('tenant', q{SELECT idem_claim('order 1', scope => 'victim')}, 'and no others');

# ---- settings and locks from outside ----

sql('CREATE DATABASE theirs OWNER hostile');
$node->safe_psql('theirs', 'CREATE EXTENSION idem; GRANT CREATE ON SCHEMA public TO hostile; SELECT idem_grant(\'hostile\', \'app\')');
for my $setting (qw(idem.require_completion=off idem.key_ttl=1s idem.inbox_retention=1s idem.outbox_retention=1s))
{
	my ($name, $value) = split /=/, $setting;
	refused('hostile', "ALTER ROLE hostile SET $name = '$value'", "ALTER ROLE ... SET $name");
	refused('hostile', "ALTER DATABASE theirs SET $name = '$value'", "its database's owner: ALTER DATABASE ... SET $name");
	local $ENV{PGOPTIONS} = "-c $setting";
	isnt(sql("SELECT idem_digest('k'); SHOW $name", 'hostile') =~ s/.*\n//r, $value, "PGOPTIONS=$ENV{PGOPTIONS} is not taken");
}
refused('hostile', q{CREATE FUNCTION lax() RETURNS text LANGUAGE sql SET idem.require_completion = off AS $$SELECT idem_digest('k'); SELECT current_setting('idem.require_completion')$$; SELECT lax()}, 'nor that of a function');
{
	my $holder = $node->background_psql('postgres', extra_params => [ '-U', 'hostile' ]);
	$holder->query_safe(q{SELECT pg_advisory_lock(d >> 32 & 4294967295), pg_advisory_lock(d), pg_advisory_lock((d >> 32)::int, (d << 32 >> 32)::int), pg_advisory_xact_lock(d) FROM idem_digest('locked') AS d});
	is(sql(q{BEGIN; SELECT status FROM idem_claim('locked', wait => '0'); ROLLBACK}, 'app'), 'claimed', 'advisory locks of SQL hold up no claim');
	$holder->query_safe(q{SELECT pg_advisory_unlock_all()});
	$holder->query_safe(q{BEGIN; SELECT FROM idem_claim('held')});
	$holder->query_safe(q{SELECT pg_advisory_unlock_all()});
	is(sql(q{SELECT status FROM idem_claim('held', wait => '0')}, 'app'), 'in_progress', 'nor does their release release one');
	$holder->quit;
}

# ---- a handler that does not end uses up a round of upkeep, but not every one ----

sql(q{CREATE FUNCTION endless(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_catalog.pg_sleep(100000)'; SELECT place('endless', 'endless(jsonb)')}, 'hostile');
sql(q{CREATE FUNCTION quick(jsonb) RETURNS void LANGUAGE sql AS ''; SELECT place('quick', 'quick(jsonb)')}, 'victim');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'idem'\nidem.naptime = 1s\n");
$node->restart;
ok($node->poll_query_until('postgres', q{SELECT state = 'compensated' FROM idem_compensations WHERE key = 'quick'}), 'others have their deadlines kept');
is(sql(q{SELECT state FROM idem_compensations WHERE key = 'endless'}), 'overdue', 'though it has not');
sql('DROP DATABASE theirs (FORCE)');
is(sql(q{SELECT * FROM idem_verify() WHERE invariant <> 'deadlines are kept'}), '', 'all is well');

$node->stop('immediate');
done_testing();
