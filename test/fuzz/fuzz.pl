#!/usr/bin/env perl
# Every function of the extension with random arguments, by several sessions at once: fuzz.pl LOG SECONDS SEED [SESSIONS]
#
# The functions and their arguments' types come from pg_proc. They are called in every way that SQL has (in a target list,
# as a row source, in a cursor, in PL/pgSQL, prepared), with NULL, extremes and likely values, between DDL and DML on what
# they work on, in transactions with savepoints at all isolation levels, prepared ones too, cut off by timeouts.
#
# Whatever happens must be an error that somebody thought of: none of the classes XX (internal error) and 58 (system error),
# no crash (LOG is the server's), nothing leaked, and idem_verify() finds nothing at the end.
use strict;
use warnings;
use IO::Handle;
use File::Temp qw(tempdir);

STDOUT->autoflush(1);
my ($server_log, $seconds, $seed, $sessions) = @ARGV;
die "fuzz.pl LOG SECONDS SEED [SESSIONS]\n" unless $seed;
$sessions //= 4;
my $end = time + $seconds;
my $dir = tempdir(CLEANUP => 1);

# ---- what is called ----

sub psql # SQL: rows of fields
{
	my ($sql) = @_;
	open(my $fh, '-|', 'psql', '-XqAt', '-F', "\t", '-v', 'ON_ERROR_STOP=1', '-c', $sql) or die "psql: $!";
	my @rows = map { chomp; [ split /\t/, $_, -1 ] } <$fh>;
	close $fh or die "psql failed: $sql\n";
	return @rows;
}

open(my $setup, '|-', 'psql', '-Xq', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1') or die "psql: $!";
print $setup <<'EOS';
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS idem CASCADE;
DROP SCHEMA IF EXISTS fuzz CASCADE;
DROP ROLE IF EXISTS fuzz_app, fuzz_consumer;
CREATE EXTENSION idem;
CREATE SCHEMA fuzz;
CREATE ROLE fuzz_app;
CREATE ROLE fuzz_consumer;
GRANT ALL ON SCHEMA fuzz TO PUBLIC;
SELECT idem_grant('fuzz_app', 'app'), idem_grant('fuzz_consumer', 'consumer');

-- numbers that functions have returned, for others to pass on
CREATE TABLE fuzz.numbers (n bigint);
GRANT ALL ON fuzz.numbers TO PUBLIC;
CREATE FUNCTION fuzz.number() RETURNS bigint LANGUAGE sql AS $$SELECT n FROM fuzz.numbers ORDER BY random() LIMIT 1$$;

-- handlers
CREATE FUNCTION fuzz.echo(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT $1$$;
CREATE FUNCTION fuzz.nothing(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT NULL::jsonb$$;
CREATE FUNCTION fuzz.fails(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RAISE 'no' USING ERRCODE = (ARRAY['P0001', '40001', '23505', '57014', '22012'])[1 + floor(random() * 5)]; END$$;
CREATE FUNCTION fuzz.sometimes(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN IF random() < 0.3 THEN PERFORM 1 / 0; END IF; RETURN jsonb_build_array($1); END$$;
CREATE FUNCTION fuzz.nested(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT jsonb_agg(to_jsonb(e)) FROM idem_execute_many('fuzz.echo', ARRAY['k1', 'n' || random()], ARRAY[$1, '2'], 'nested') AS e); END$$;
CREATE FUNCTION fuzz.claims(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT to_jsonb(c) FROM idem_claim('k' || floor(random() * 9), wait => '0') AS c$$;
CREATE FUNCTION fuzz.publishes(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT to_jsonb(idem_publish('t1', '{}', 'k1')) $$;
CREATE FUNCTION fuzz.ddl(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN CREATE TEMP TABLE IF NOT EXISTS made (a int) ON COMMIT DROP; DROP TABLE made; RETURN '1'; END$$;
CREATE FUNCTION fuzz.catches(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN PERFORM idem_claim('k2', wait => '0'); PERFORM 1 / 0; RETURN '1'; EXCEPTION WHEN OTHERS THEN RETURN '2'; END$$;
CREATE FUNCTION fuzz.wrong(text) RETURNS text LANGUAGE sql AS $$SELECT $1$$;
CREATE FUNCTION fuzz.rows(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$SELECT $1$$;
CREATE FUNCTION fuzz.strict(jsonb) RETURNS jsonb LANGUAGE sql STRICT AS $$SELECT $1$$;
CREATE FUNCTION fuzz.definer(jsonb) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = fuzz AS $$SELECT $1$$;
CREATE PROCEDURE fuzz.procedure(jsonb) LANGUAGE sql AS $$SELECT 1$$;

-- tables to attach
CREATE TYPE fuzz.mood AS ENUM ('created', 'paid', 'completed', 'cancelled');
CREATE DOMAIN fuzz.state AS text CHECK (VALUE <> 'forbidden');
CREATE TABLE fuzz.orders (id int PRIMARY KEY, state text, note text, "Odd Name" jsonb);
CREATE TABLE fuzz.moods (id int PRIMARY KEY, state fuzz.mood NOT NULL DEFAULT 'created', n numeric, b bytea, a int[]);
CREATE TABLE fuzz.domains (id int PRIMARY KEY, state fuzz.state, g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE fuzz.parts (id int, state varchar(20), PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE fuzz.part1 PARTITION OF fuzz.parts FOR VALUES FROM (MINVALUE) TO (5);
CREATE TABLE fuzz.part2 PARTITION OF fuzz.parts FOR VALUES FROM (5) TO (MAXVALUE);
CREATE TABLE fuzz.nokey (state text, id int);
CREATE TABLE fuzz.child () INHERITS (fuzz.nokey);
CREATE UNLOGGED TABLE fuzz.unlogged (id int PRIMARY KEY, state text);
CREATE VIEW fuzz.view AS SELECT * FROM fuzz.orders;
GRANT ALL ON ALL TABLES IN SCHEMA fuzz TO PUBLIC;
EOS
close $setup or die "the setup failed\n";

my @functions = map { { name => $_->[0], kind => $_->[1], types => [ split / /, $_->[2] ], names => [ split / /, $_->[3] ],
			least => $_->[4], set => $_->[5] eq 't' } } psql(<<'EOS');
SELECT p.oid::regproc::text, prokind, coalesce(string_agg(replace(format_type(a.type, NULL), ' ', '_'), ' ' ORDER BY i), ''),
       coalesce(string_agg(coalesce(nullif(proargnames[i], ''), 'arg'), ' ' ORDER BY i), ''), pronargs - pronargdefaults, proretset
FROM (SELECT p.*, d.objid FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
      JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND extname = 'idem') AS p
LEFT JOIN LATERAL unnest(proargtypes) WITH ORDINALITY AS a(type, i) ON true
GROUP BY p.oid, prokind, pronargs, pronargdefaults, proretset, proname ORDER BY p.oid::regprocedure::text
EOS
# regproc of an overloaded name is ambiguous on purpose: the arguments decide
s/^.*\.//, s/\(.*// for map { $_->{name} } @functions;
my @views = map { $_->[0] } psql(<<'EOS');
SELECT c.oid::regclass FROM pg_class AS c JOIN pg_depend AS d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND extname = 'idem' WHERE relkind = 'v' ORDER BY 1
EOS
my @settings = map { $_->[0] } psql(q{SELECT name FROM pg_settings WHERE name LIKE 'idem.%' AND context = 'user' ORDER BY 1});

# ---- values ----

sub pick { return $_[ rand @_ ]; }
sub quote { my ($s) = @_; $s =~ s/'/''/g; return "'$s'"; }

my @tables = map { "fuzz.$_" } qw(orders moods domains parts part1 nokey child unlogged view);
my @handlers = map { "fuzz.$_(jsonb)" } qw(echo nothing fails sometimes nested claims publishes ddl catches rows strict definer procedure);

my %wild = (
	text => sub {
		pick(map({ quote($_) } '', ' ', 'k1', "a\tb", 'ä€😀', "it's", '%s%n', '../x', '"', '\\', "\x01", 'NULL', "new\nline"),
			"repeat('x', 1024)", "repeat('x', 1025)", "repeat('ä', 700)", "repeat('y', 100000)", "repeat('z', 3000000)", 'md5(random()::text)');
	},
	bigint => sub {
		pick(qw(0 1 -1 2 3 100 2147483648 9223372036854775807 -9223372036854775808 9223372036854775806), 'fuzz.number()', 'fuzz.number()',
			'fuzz.number() + 1', '(random() * 1e18)::bigint');
	},
	integer => sub { pick(qw(0 1 -1 2 3 64 65 500 501 1000 1001 32768 2147483647 -2147483648)) },
	interval => sub {
		map { "$_\::interval" } pick(map { quote($_) } '0', '1 s', '-1 s', '1 us', '-1 us', '10 ms', '1 h', '1 day', '1 month', '-1 month',
			'178000000 years', '-178000000 years', '1 mon -30 days', '1 day -86400 s', '2147483647 days', '292277 years', '9223372036854 s');
	},
	boolean => sub { pick(qw(true false)) },
	jsonb => sub {
		my $value = pick(map({ quote($_) } '{}', '[]', 'null', 'true', '1', '1.0', '"x"', '-0', '1e400', '1e-400', '{"a": 1, "b": [1, 2.50, {"c": null}]}',
				'{"b": [1, 2.5, {"c": null}], "a": 1.0}', '""', '"\ud83d\ude00"', '{"": {"": {}}}', '"\"\\\\"'),
			q{repeat('[', 3000) || repeat(']', 3000)}, q{repeat('{"a":', 2000) || '1' || repeat('}', 2000)}, q{'"' || repeat('x', 1000000) || '"'},
			q{'[' || repeat('1,', 20000) || '1]'}, q{'1' || repeat('0', 10000)});
		"($value)::jsonb";
	},
	name => sub { pick(map { quote($_) } qw(state id note n fuzz_app fuzz_consumer postgres nobody ctid tableoid g), '', 'Odd Name', 'x' x 70) . '::name' },
	regclass => sub { pick((map { quote($_) } @tables, qw(idem_keys_0 idem_outbox idem_ring pg_class pg_stat_activity fuzz.orders_pkey)), 0, 4294967295) . '::regclass' },
	regprocedure => sub { pick((map { quote($_) } @handlers, 'fuzz.wrong(text)', 'idem_digest(text,text)', 'now()', 'sum(int)', 'rank()'), 0, 4294967295) . '::regprocedure' },
	timestamp_with_time_zone => sub {
		pick(map { quote($_) } 'infinity', '-infinity', 'now', 'epoch', '294276-12-31 23:59:59.999999Z', '4714-11-24 00:00:00Z BC', 'tomorrow', 'yesterday') . '::timestamptz';
	});

# What an argument of that name is usually given.
my %likely = (
	key => sub { quote('k' . int rand 9) },
	scope => sub { pick("''", "''", "'s1'", "'nested'", "'moving'") },
	position => sub { quote(pick(qw(close scan check))) },
	page => sub {
		my $position = pick('"close", "encoding": "UTF8", "token_number": "5"', '"scan", "next": "check", "keys": []', '"check", "at": "0", "count": "0", "sum": "0"');
		quote(qq({"scope": "moving", "epoch": "@{[ int rand 4 ]}", "move": "m", "position": $position}));
	},
	topic => sub { pick("'t1'", "'t2'") },
	consumer => sub { quote('c' . int rand 4) },
	machine => sub { pick("'order'", "'order'", "'m1'") },
	state => sub { pick("'created'", "'paid'", "'completed'") },
	state_column => sub { "'state'" },
	tbl => sub { quote(pick(@tables)) },
	handler => sub { quote(pick(@handlers)) },
	wait => sub { pick("'0'", "'10 ms'", "'50 ms'") },
	lease => sub { pick("'30 s'", "'5 ms'", "'1 s'") },
	ttl => sub { pick("'1 s'", "'1 h'", "'7 days'") },
	deadline => sub { pick("'1 ms'", "'1 h'") },
	retry_in => sub { pick("'0'", "'1 ms'") },
	token => sub { 'fuzz.number()' },
	batch => sub { 'fuzz.number()' },
	id => sub { 'fuzz.number()' },
	lane => sub { pick(0 .. 4, 'fuzz.number()') },
	lanes => sub { pick(1 .. 4) },
	seq => sub { int rand 20 },
	source => sub { pick("'src'", "'src2'") },
	message_id => sub { quote('m' . int rand 50) },
	start => sub { pick("'now'", "'earliest'", "'beginning'") },
	profile => sub { quote(pick(qw(app consumer dba monitor))) },
	role => sub { quote(pick(qw(fuzz_app fuzz_consumer))) },
	step => sub { pick("'a'", "'b'") },
	max_messages => sub { 1 + int rand 5 });

sub array # TYPE NAME
{
	my ($type, $name) = @_;
	my $n = pick(0, 1, 2, 2, 2, 3, 5);
	my $kind = int rand 40;
	$name =~ s/s$//;
	return pick("'{}'", "'{{a,b},{c,d}}'", "'[5:6]={a,b}'", "array_fill('a'::text, '{501}')", "array_fill(NULL::text, '{3}')",
		"(SELECT array_agg('w' || n) FROM generate_series(1, 500) AS n)") . "::${type}[]" if $kind == 0 && $type ne 'jsonb';
	return pick("'{}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'", "array_fill('1'::jsonb, '{501}')") . '::jsonb[]' if $kind == 0;
	return 'ARRAY[' . join(', ', map { value($type, $name) } 1 .. $n) . "]::${type}[]";
}

sub value # TYPE NAME
{
	my ($type, $name) = @_;
	return 'NULL' if rand() < 0.06;
	return array($1, $name) if $type =~ /^(.*)\[\]$/;
	return $likely{$name}->() if exists $likely{$name} && rand() < 0.8;
	return ($wild{$type} // sub { 'NULL' })->();
}

# ---- statements ----

sub call # a call's text, and its function
{
	my $f = pick(@functions);
	my $n = @{ $f->{types} };
	my @values = map { value($f->{types}[$_], $f->{names}[$_]) } 0 .. $n - 1;
	# most keys are to stay here
	$values[0] = "'moving'" if $f->{name} eq 'idem_export';
	my $given = $f->{least} + int rand($n - $f->{least} + 1);
	if (rand() < 0.5 && $f->{kind} eq 'f' && $n)
	{
		my @named = grep { $_ < $f->{least} || rand() < 0.4 } 0 .. $n - 1;
		return ("$f->{name}(" . join(', ', map { "$f->{names}[$_] => $values[$_]" } @named) . ')', $f) unless grep { $_ eq 'arg' } @{ $f->{names} };
	}
	return ("$f->{name}(" . join(', ', @values[ 0 .. $given - 1 ]) . ')', $f);
}

# No cursor on a set: the server itself leaks what an SQL function has open, once two subtransactions have fetched from it.
sub statement
{
	my ($call, $f) = call();
	return "CALL $call" if $f->{kind} eq 'p';
	return "INSERT INTO fuzz.numbers SELECT token FROM $call" if $f->{name} eq 'idem_claim' && rand() < 0.5;
	return "INSERT INTO fuzz.numbers SELECT unnest(ARRAY[batch, id]) FROM $call" if $f->{name} eq 'idem_fetch' && rand() < 0.7;
	my @shapes = (
		sub { "SELECT $call" }, sub { "SELECT $call" }, sub { "SELECT * FROM $call" }, sub { "SELECT * FROM $call" },
		sub { "SELECT ($call) IS NULL, n FROM generate_series(1, 3) AS n" },
		sub { "SELECT * FROM generate_series(1, 2), LATERAL $call" }, sub { "SELECT * FROM $call LIMIT 1" },
		sub { "SELECT $call LIMIT 0" }, sub { "COPY (SELECT $call) TO STDOUT" }, sub { "EXPLAIN (ANALYZE, COSTS off) SELECT $call" },
		sub { my $quoted = $call; "DO \$fuzz\$BEGIN PERFORM $quoted; EXCEPTION WHEN OTHERS THEN NULL; END\$fuzz\$" },
		sub { "DO \$fuzz\$BEGIN PERFORM $call; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END\$fuzz\$" },
		sub { "DO \$fuzz\$BEGIN FOR i IN 1..3 LOOP PERFORM $call; COMMIT; END LOOP; END\$fuzz\$" },
		sub { "PREPARE p AS SELECT $call;\nEXECUTE p;\nEXECUTE p;\nDEALLOCATE p" },
		sub { (my $other) = call(); "SELECT $call, " . ($other =~ /maintain/ ? 'NULL' : $other) },
		sub { "CREATE TEMP TABLE made ON COMMIT DROP AS SELECT $call AS a" });
	push @shapes, sub { "DECLARE c" . (rand() < 0.3 ? ' SCROLL' : '') . " CURSOR" . (rand() < 0.3 ? ' WITH HOLD' : '') . " FOR SELECT $call, g FROM generate_series(1, 5) AS g;\nFETCH 2 FROM c;\n"
				. pick('CLOSE c', 'SELECT 1', 'FETCH ALL FROM c', 'FETCH BACKWARD 1 FROM c') }
		unless $f->{set};
	return pick(@shapes)->();
}

sub around # statements on what the functions work on
{
	my $table = pick(@tables);
	my $view = pick(@views);
	my $state = $likely{state}->();
	my $id = int rand 10;
	my $topic = value('text', 'topic');
	return pick(
		"INSERT INTO $table (id, state) VALUES ($id, " . pick("'created'", "'created'", $state, 'NULL') . ')' . pick('', '', ' ON CONFLICT DO NOTHING'),
		"UPDATE $table SET state = $state WHERE id " . pick('=', '<', '>=') . " $id", "UPDATE $table SET id = id + 1", "DELETE FROM $table WHERE id = $id",
		"MERGE INTO $table AS t USING (SELECT $id AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET state = $state WHEN NOT MATCHED THEN INSERT (id, state) VALUES (s.id, 'created')",
		"INSERT INTO $table (id, state) VALUES ($id, 'created') ON CONFLICT (id) DO UPDATE SET state = $state",
		"UPDATE idem_scopes SET state = 'here'", "SELECT * FROM $view", "SELECT count(*) FROM $view", "SELECT * FROM $view LIMIT 1",
		"INSERT INTO idem_outbox (topic, key, type, payload, headers) VALUES ($topic, " . join(', ', value('text', 'key'), value('text', 'state'), value('jsonb', ''), value('jsonb', '')) . ') RETURNING id',
		"INSERT INTO fuzz.numbers SELECT id FROM idem_outbox ORDER BY random() LIMIT 3", "INSERT INTO fuzz.numbers SELECT id FROM idem_dead_letters",
		"INSERT INTO idem_outbox (topic, payload) SELECT 't1', to_jsonb(n) FROM generate_series(1, 20) AS n", "UPDATE idem_outbox SET topic = 'x'", "DELETE FROM idem_outbox",
		"INSERT INTO idem_transitions (machine, from_state, to_state) VALUES ('m1', " . value('text', 'state') . ", $state)", "DELETE FROM idem_transitions WHERE machine = 'm1'",
		"UPDATE idem_transitions SET enabled = " . pick('true', 'true', 'false') . " WHERE machine = 'm1'", "COPY (SELECT * FROM $view) TO STDOUT",
		"ALTER TABLE $table ADD COLUMN extra int", "ALTER TABLE $table DROP COLUMN extra", "TRUNCATE $table", "TRUNCATE fuzz.numbers",
		"ALTER TABLE fuzz.parts DETACH PARTITION fuzz.part2", "ALTER TABLE fuzz.parts ATTACH PARTITION fuzz.part2 FOR VALUES FROM (5) TO (MAXVALUE)",
		"ALTER TABLE fuzz.domains ALTER COLUMN state TYPE " . pick('text', 'fuzz.state', 'varchar(30)'), "VACUUM $table", "ANALYZE $table",
		"CREATE OR REPLACE FUNCTION fuzz.echo(jsonb) RETURNS jsonb LANGUAGE " . pick('sql AS $$SELECT $1$$', 'plpgsql AS $$BEGIN RETURN $1; END$$'),
		"DROP FUNCTION fuzz.strict(jsonb)", 'CREATE FUNCTION fuzz.strict(jsonb) RETURNS jsonb LANGUAGE sql STRICT AS $$SELECT $1$$', "DISCARD ALL", "DISCARD PLANS",
		"SET " . pick(@settings) . ' = ' . pick(qw(0 1 3 on off -1 default 2147483647), "''"), "SET force_parallel_mode = " . pick('regress', 'off'), "SET jit_above_cost = 0",
		"SET SESSION AUTHORIZATION " . pick('fuzz_app', 'fuzz_consumer', 'DEFAULT'), "RESET ALL",
		"SET statement_timeout = " . pick(1, 2, 5, 20, 500), "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'fuzz' AND pid <> pg_backend_pid() AND random() < 0.3",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fuzz' AND pid <> pg_backend_pid() AND random() < 0.05",
		"SELECT * FROM idem_verify() LIMIT 1");
}

sub any { return rand() < 0.75 ? statement() : around(); }

sub transaction # GID
{
	my ($gid) = @_;
	return any() . ";\n" if rand() < 0.4;
	my $text = 'BEGIN' . pick('', '', ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE') . pick('', '', '', ' READ ONLY', ' DEFERRABLE') . ";\n";
	my @points;
	for (1 .. 1 + int rand 8)
	{
		my $what = rand;
		if ($what < 0.15) { push @points, 'p' . @points; $text .= "SAVEPOINT $points[-1];\n"; }
		elsif ($what < 0.3 && @points) { $text .= 'ROLLBACK TO ' . pick(@points) . ";\n"; }
		elsif ($what < 0.35 && @points) { $text .= 'RELEASE ' . pop(@points) . ";\n"; }
		else { $text .= any() . ";\n"; }
	}
	my $how = rand;
	return $text . "COMMIT;\n" if $how < 0.6;
	return $text . "ROLLBACK;\n" if $how < 0.75;
	return $text . pick('COMMIT', 'ROLLBACK') . " AND CHAIN;\n" . any() . ";\nCOMMIT;\n" if $how < 0.85;
	return $text . "PREPARE TRANSACTION '$gid';\n" . (rand() < 0.5 ? '' : any() . ";\n") . pick('COMMIT', 'ROLLBACK') . " PREPARED '$gid';\n";
}

# ---- sessions ----

# SQLSTATEs that nobody thought of. That two sessions change one object's catalog row at once is the server's to say.
sub finds # OUTPUT: what is wrong there
{
	my ($output) = @_;
	my @wrong;
	push @wrong, $1 while $output =~ /^(.*\b(?:ERROR|FATAL|PANIC):  (?:XX|58).*)$/mg;
	push @wrong, $1 while $output =~ /^(.*WARNING: .*(?:leak|still referenced|past chunk|problem in alloc|unexpected).*)$/mg;
	return grep { !/tuple concurrently (updated|deleted)/ } @wrong;
}

sub session # NUMBER: batches, each of a psql of its own; what is wrong is printed with where to look
{
	my ($number) = @_;
	my ($batch, $wrong, %codes) = (0, 0);
	# As DISCARD ALL leaves them too: a session that has prepared a transaction may wait for what that has locked.
	local $ENV{PGAPPNAME} = 'fuzz';
	local $ENV{PGOPTIONS} = '-c statement_timeout=500 -c lock_timeout=200';
	while (time < $end && $wrong < 20)
	{
		srand($seed * 1000003 + $number * 1009 + ++$batch);
		my $file = "$dir/$number.sql";
		open(my $fh, '>', $file) or die;
		print $fh "\\set ON_ERROR_ROLLBACK on\n" if rand() < 0.85;
		# In a server with assertions only: whoever keeps a pointer into a cache finds it overwritten. Very slow.
		my $discards = rand() < 0.1;
		print $fh "SET debug_discard_caches = 1;\n" if $discards;
		print $fh transaction("g$number") for 1 .. ($discards ? 4 : 40);
		print $fh "\\set ON_ERROR_ROLLBACK off\nROLLBACK;\nROLLBACK PREPARED 'g$number';\n";
		close $fh;
		my $output = `psql -Xa -v VERBOSITY=verbose -f '$file' 2>&1 | LC_ALL=C cut -b 1-400`;
		$codes{$1}++ while $output =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}):/g;
		$codes{statements} += () = $output =~ /;$/mg;
		my @wrong = finds($output) or next;
		$wrong++;
		my $kept = "build/fuzz/$seed-$number-$batch.log";
		open(my $out, '>', $kept) or die;
		print $out $output;
		close $out;
		print map { "WRONG in $kept: $_\n" } @wrong;
	}
	open(my $fh, '>', "$dir/$number.codes") or die;
	print $fh map { "$_ $codes{$_}\n" } keys %codes;
	close $fh;
	return $wrong;
}

mkdir 'build/fuzz';
my @pids;
for my $number (1 .. $sessions)
{
	my $pid = fork // die "fork: $!";
	exit(session($number) ? 1 : 0) if $pid == 0;
	push @pids, $pid;
}
my $failed = 0;
for my $pid (@pids) { waitpid($pid, 0); $failed++ if $?; }

# ---- fingerprints ----

# A JSON value as a tree: what is written in one of many ways, and changed a little.
sub tree # DEPTH
{
	my ($depth) = @_;
	my $kind = int rand($depth > 0 ? 12 : 5);
	return [ pick(qw(null true false)) ] if $kind == 0;
	return [ 'number', pick(0, 1, -1, 2, 10, 12, 9999, 10000, '123456789012345678901234567890'), pick(0, 0, 0, -1, 1, -4, 4, -9, 30, 400, -400) ] if $kind <= 2;
	return [ 'string', map { pick(97, 98, 48, 49, 34, 92, 47, 10, 1, 32, 228, 8364, 128512, 123, 91) } 1 .. int rand 4 ] if $kind <= 4;
	return [ 'array', map { tree($depth - 1) } 1 .. int rand 4 ] if $kind <= 8;
	my %members = map { pick(qw(a b c ab ba aa abc), '') => tree($depth - 1) } 1 .. int rand 4;
	return [ 'object', map { $_ => $members{$_} } sort keys %members ];
}

sub written # TREE
{
	my ($kind, @in) = @{ $_[0] };
	my $space = rand() < 0.2 ? pick(' ', "\n", "\t ") : '';
	if ($kind eq 'number')
	{
		my ($n, $e) = @in;
		my $more = $n =~ /^-?0$/ ? 0 : int rand 4; # zeros behind it
		return $space . $n . ('0' x $more) . ($e == $more ? '' : 'e' . ($e - $more)) if rand() < 0.5;
		return $n . pick('', '.0', '.000') . ($e == 0 && rand() < 0.5 ? '' : pick('e', 'E') . ($e > 0 ? pick('', '+') : '') . $e);
	}
	if ($kind eq 'string')
	{
		return '"' . join('', map {
			$_ == 34 || $_ == 92 ? chr(92) . chr($_) : $_ < 32 || rand() < 0.3 ?
				  ($_ > 65535 ? sprintf('\\u%04x\\u%04X', 0xd800 + ($_ - 65536 >> 10), 0xdc00 + ($_ & 1023)) : sprintf('\\u%04x', $_)) : chr($_)
		} @in) . '"';
	}
	return "[$space" . join(',', map { written($_) } @in) . "$space]" if $kind eq 'array';
	return $space . $kind unless $kind eq 'object';
	my %members = @in;
	my @names = sort { rand() < 0.5 ? -1 : 1 } sort keys %members;
	# of a name that comes twice the last holds
	return '{' . join(',', map { (rand() < 0.1 ? "\"$_\":" . written(tree(0)) . ',' : '') . "$space\"$_\":" . written($members{$_}) } @names) . '}';
}

sub changed # TREE
{
	my ($kind, @in) = @{ $_[0] };
	my $i = int rand @in;
	return tree(1) if !@in || rand() < 0.1;
	return rand() < 0.5 ? [ $kind, $in[0], $in[1] + 1 ] : [ $kind, $in[0] =~ /^-(.*)/ ? $1 : "-$in[0]", $in[1] ] if $kind eq 'number';
	return rand() < 0.5 ? [ $kind, @in, 97 ] : [ $kind, map { $_ == 97 ? 98 : $_ } @in ] if $kind eq 'string';
	return [ 'array', [ $kind, @in ] ] if rand() < 0.1;
	# two neighbours as one: the form that is hashed has a tag before each, s before a string
	if ($kind eq 'array' && $i < $#in && rand() < 0.5)
	{
		my ($one, $other) = @in[ $i, $i + 1 ];
		my $both = $one->[0] eq 'array' ? [ @$one, $other ] : "$one->[0] $other->[0]" eq 'string string' ? [ @$one, 115, @$other[ 1 .. $#$other ] ] : undef;
		return [ $kind, @in[ 0 .. $i - 1 ], $both, @in[ $i + 2 .. $#in ] ] if $both;
	}
	return [ $kind, map { $_ == $i ? changed($in[$_]) : $in[$_] } 0 .. $#in ] if $kind eq 'array' && rand() < 0.5;
	return [ $kind, @in[ grep { $_ != $i } 0 .. $#in ] ] if $kind eq 'array';
	my %members = @in;
	my $name = pick(sort keys %members);
	if (rand() < 0.5) { $members{$name} = changed($members{$name}); }
	else { $members{"${name}a"} = delete $members{$name}; }
	return [ $kind, map { $_ => $members{$_} } sort keys %members ];
}

# Where jsonb is equal, and only there, a request is the one that the key was completed with.
sub fingerprints # PAIRS: how many are equal, how many are not, and those of which the fingerprints say something else
{
	my ($pairs) = @_;
	srand($seed);
	my @pairs = map { my $a = tree(3); [ written($a), written(rand() < 0.5 ? $a : changed($a)) ] } 1 .. $pairs;
	open(my $fh, '>:encoding(UTF-8)', "$dir/pairs") or die;
	print $fh <<'SQL';
SET client_encoding = 'UTF8';
CREATE FUNCTION fuzz.same(a jsonb, b jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim('k', a, 'fingerprints'), idem_complete('k', 'null', 'fingerprints');
	RETURN (idem_claim('k', b, 'fingerprints')).status = 'completed';
END$$;
SQL
	# each in a transaction of its own, of which nothing is left
	print $fh map { 'BEGIN; SELECT a = b, fuzz.same(a, b) FROM (SELECT ' . join(', ', map { quote($_->[0]) . "::jsonb AS $_->[1]" } [ $_->[0], 'a' ], [ $_->[1], 'b' ])
			. ") AS pair; ROLLBACK;\n" } @pairs;
	close $fh;
	my @said = `psql -XqAt -v ON_ERROR_STOP=1 -f '$dir/pairs' 2>&1`;
	chomp @said;
	my @wrong = map { my $said = $said[$_] // 'nothing'; $said =~ /^(t\|t|f\|f)$/ ? () : "$said: $pairs[$_][0]  $pairs[$_][1]" } 0 .. $#pairs;
	binmode(STDOUT, ':encoding(UTF-8)');
	print map { "WRONG $_\n" } @wrong[ 0 .. ($#wrong < 9 ? $#wrong : 9) ] if @wrong;
	return (scalar(grep { /^t/ } @said), scalar(grep { /^f/ } @said), scalar @wrong);
}

# ---- the end ----

my ($equal, $different, $wrong) = fingerprints($seconds < 60 ? 500 : 5000);
print "$equal pairs of requests are equal, $different are not\n";

my %codes;
for my $file (glob "$dir/*.codes")
{
	open(my $fh, '<', $file) or die;
	while (<$fh>) { my ($code, $n) = split; $codes{$code} += $n; }
}
my $statements = delete $codes{statements} // 0;
print "seed $seed, ", scalar(@functions), " functions, $sessions sessions, $statements statements; errors by SQLSTATE:\n";
print '  ', join(', ', map { "$_ $codes{$_}" } sort keys %codes), "\n";

my @checks = (
	[ 'nothing but errors that somebody thought of', $failed == 0 ],
	[ 'requests have one fingerprint exactly where jsonb is equal', !$wrong && $equal > 0 && $different > 0 ],
	[ 'statements of all kinds succeed and fail', $statements > 0 && keys %codes > 3 ]);
open(my $log, '<', $server_log) or die "$server_log: $!";
my @crashes = grep { /TRAP:|PANIC:|terminated by signal|AddressSanitizer|runtime error:/ } <$log>;
print @crashes[ 0 .. ($#crashes < 9 ? $#crashes : 9) ] if @crashes;
push @checks, [ 'no process of the server has crashed', !@crashes ];
# Two of them tell of rules that somebody has deleted or switched off, as we do.
my @rows = psql(<<'SQL');
SELECT * FROM idem_verify() WHERE invariant NOT IN ('a guard has a machine', 'a key of a guarded topic is in a state of its machine')
SQL
print map { join(' | ', @$_) . "\n" } @rows;
push @checks, [ 'idem_verify() finds nothing', !@rows ];
# The server counts the calls that return. Which do is a matter of luck in seconds, not in minutes.
my @never = map { $_->[0] } psql(<<'SQL');
SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND extname = 'idem' LEFT JOIN pg_stat_user_functions AS f ON f.funcid = p.oid
WHERE f.calls IS NULL AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') ORDER BY 1
SQL
print "never returned: @never\n" if @never;
push @checks, [ 'every C function has returned', !@never ] if $seconds >= 60;
my ($n, $bad) = (2, 0); # behind libFuzzer's
for (@checks)
{
	$n++;
	$bad++ unless $_->[1];
	print $_->[1] ? 'ok' : 'not ok', " $n - $_->[0]\n";
}
exit($bad ? 1 : 0);
