# Dump and restore: keys replay in another cluster, whose transaction ids are younger than what the ring remembers; a dump
# taken while the ring turns is whole.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = PostgreSQL::Test::Cluster->new('source');
$source->init;
$source->append_conf('postgresql.conf', "log_statement = none\n");
$source->start;
my $target = PostgreSQL::Test::Cluster->new('target');
$target->init;
$target->append_conf('postgresql.conf', "log_statement = none\n");
$target->start;

my $schema = '"an odd ""schema"';
my $path = "SET search_path = $schema, public;";
my $dumps = $source->basedir;

# Claims a key for so long, keeps what it did in orders.
my $setup = <<EOF;
CREATE SCHEMA $schema;
CREATE EXTENSION idem SCHEMA $schema;
UPDATE $schema.idem_ring SET ttl = '{2,0,0}' WHERE store = 'keys';
$path
CREATE TABLE orders (key text, expires_at timestamptz);
CREATE FUNCTION place(k text, life interval) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	answer text;
BEGIN
	SELECT status INTO answer FROM idem_claim(k, ttl => life);
	IF answer = 'claimed' THEN
		PERFORM idem_complete(k, to_jsonb(k));
		INSERT INTO orders SELECT key, expires_at FROM idem_status(k), (SELECT k AS key) AS k;
	END IF;
	RETURN answer;
END \$\$;
EOF

sub connection { my ($node, $database) = @_; return ('-d', $node->connstr($database)); }

sub until_true
{
	my ($database, $sql) = @_;
	for (1 .. 600)
	{
		return if $source->safe_psql($database, $sql) eq 't';
		select undef, undef, undef, 0.1;
	}
	die "never true: $sql";
}

sub restore
{
	my ($file, $database) = @_;
	$target->safe_psql('postgres', "CREATE DATABASE $database");
	command_ok([ 'pg_restore', '--exit-on-error', connection($target, $database), $file ], "restored: $database");
	return;
}

# ---- at rest: the ring has turned, and its keys live for a day ----

# more transactions than the other cluster will ever see
$source->safe_psql('postgres', <<'EOF');
DO $$ BEGIN FOR i IN 1 .. 5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$;
CREATE DATABASE rest;
CREATE DATABASE turning;
ALTER DATABASE rest SET idem.key_ttl = '2s';
ALTER DATABASE turning SET idem.key_ttl = '2s';
EOF
$source->safe_psql($_, $setup) for qw(rest turning);

# of the first generation, which is retired before the dump; of the pinned table; of the second generation
$source->safe_psql('rest', "$path SELECT place('short', '1ms'), place('pinned', '1 day')");
until_true('rest', "CALL $schema.idem_maintain(); SELECT emptied <> '0' FROM $schema.idem_ring WHERE store = 'keys'");
$source->safe_psql('rest', q{ALTER DATABASE rest SET idem.key_ttl = '1d'});
$source->safe_psql('rest', "$path CALL idem_maintain(); SELECT place('ring', '20 hours'), place(E'odd \\t\\\\ \\'key', '20 hours')");
my $state = $source->safe_psql('rest', "$path SELECT current, step, ends_at, emptied FROM idem_ring WHERE store = 'keys'");
like($state, qr/^[123]\|/, 'the ring turned before the dump');

command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/rest.dump", connection($source, 'rest') ], 'pg_dump -Fc');
command_ok([ 'pg_dump', '-f', "$dumps/rest.sql", connection($source, 'rest') ], 'pg_dump as plain SQL');
command_ok([ 'pg_dump', '--schema-only', '-f', "$dumps/schema.sql", connection($source, 'rest') ], 'pg_dump --schema-only');
command_ok([ 'pg_dump', '--data-only', '-Fc', '-f', "$dumps/data.dump", connection($source, 'rest') ], 'pg_dump --data-only');
unlike(slurp_file("$dumps/schema.sql"), qr/pinned"|COPY/, 'the schema alone has no keys');

restore("$dumps/rest.dump", 'custom');
$target->safe_psql('postgres', 'CREATE DATABASE plain; CREATE DATABASE bare; CREATE DATABASE data');
# maintenance runs at any moment, also between the keys and the ring's state
my $sql = slurp_file("$dumps/rest.sql");
$sql =~ s/(?=^COPY \S.*\.idem_ring)/CALL $schema.idem_maintain();\n/m or die 'no idem_ring in the dump';
append_to_file("$dumps/maintained.sql", $sql);
command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', connection($target, 'plain'), '-f', "$dumps/maintained.sql" ], 'restored: plain');
command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', connection($target, 'bare'), '-f', "$dumps/schema.sql" ], 'restored: bare');

# into an extension in use: a session that knows the old state of the ring must look anew
command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', connection($target, 'data'), '-f', "$dumps/schema.sql" ], 'restored: data, its schema');
my $old = $target->background_psql('data');
is($old->query_safe("$path SELECT place('old', '1ms')"), 'claimed', 'data: a session uses the ring');
command_ok([ 'pg_restore', '--exit-on-error', connection($target, 'data'), "$dumps/data.dump" ], 'restored: data');
is($old->query_safe(q{SELECT place('ring', '1 day'), place('pinned', '1 day')}), 'completed|completed', 'data: the same session replays');
$old->quit;

for my $database (qw(custom plain data))
{
	is($target->safe_psql($database, "$path SELECT current, step, ends_at, emptied FROM idem_ring WHERE store = 'keys' ORDER BY step DESC LIMIT 1"),
		$state, "$database: the ring's state is carried over");
	is( $target->safe_psql($database, "$path BEGIN; SELECT key, status, k.response #>> '{}' = key FROM orders, idem_claim(key) AS k WHERE expires_at > now() ORDER BY key; ROLLBACK"),
		"odd \t\\ 'key|completed|t\npinned|completed|t\nring|completed|t", "$database: keys replay");
	is( $target->safe_psql($database,
			"$path SELECT emptied > pg_current_xact_id() FROM idem_ring WHERE store = 'keys' ORDER BY step DESC LIMIT 1;
			BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT place('new', '1 day'); COMMIT;
			BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT place('new', '1 day'), place('newer', '1 day'); COMMIT"),
		"t\nclaimed\ncompleted|claimed", "$database: transaction ids from there do no harm here");
	is($target->safe_psql($database, "$path CALL idem_maintain(); SELECT * FROM idem_verify()"), '', "$database: idem_verify() finds nothing");
}
is($target->safe_psql('bare', "$path SELECT place('ring', '1 day'), count(*) FROM idem_keys"), 'claimed|0', 'bare: there are no keys');

# ---- one table: the rows come, but not what tells where they count ----

my ($current) = $state =~ /^(\d)/;
for my $one ('idem_pinned', "idem_keys_$current")
{
	$target->safe_psql('postgres', "CREATE DATABASE one_$one");
	command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', connection($target, "one_$one"), '-f', "$dumps/schema.sql" ], "$one: the schema");
	command_ok([ 'pg_dump', '-t', "$schema.$one", '-f', "$dumps/$one.sql", connection($source, 'rest') ], "pg_dump -t $one");
	unlike(slurp_file("$dumps/$one.sql"), qr/^CREATE/m, "$one: its rows alone, for it belongs to the extension");
	command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', connection($target, "one_$one"), '-f', "$dumps/$one.sql" ], "$one: restored");
}
is($target->safe_psql('one_idem_pinned', "$path SELECT place('pinned', '1 day'), place('ring', '1 day')"), 'completed|claimed', 'idem_pinned: what it has replays, all else runs again');
like($target->safe_psql("one_idem_keys_$current", "$path SELECT * FROM idem_verify()"), qr/^no row outlives its generation\|key 'ring', scope ''\|/m, 'a generation: idem_verify() tells');
is($target->safe_psql("one_idem_keys_$current", "$path SELECT place('ring', '1 day')"), 'claimed', 'a generation: it is not looked at');

# ---- while the ring turns ----

append_to_file("$dumps/claim.sql", <<EOF);
\\set k random(1, 100000)
$path
SELECT place(:k::text, CASE :k % 4 WHEN 0 THEN '1 day' ELSE '2s' END::interval);
EOF
append_to_file("$dumps/maintain.sql", "CALL $schema.idem_maintain();\n\\sleep 10 ms\n");
my @running = map {
	start [ 'pgbench', '-nc2', '-T15', '-R', '500', '-f', "$dumps/$_.sql", '-p', $source->port, '-h', $source->host, 'turning' ], '>&', \my $out
} qw(claim maintain);
for my $n (1 .. 4)
{
	my $step = $source->safe_psql('turning', "$path SELECT step FROM idem_ring WHERE store = 'keys'");
	until_true('turning', "SELECT step >= $step + 3 FROM $schema.idem_ring WHERE store = 'keys'");
	command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/turning$n.dump", connection($source, 'turning') ], "a dump while the ring turns: $n");
	my $now = $source->safe_psql('turning', 'SELECT clock_timestamp()');
	restore("$dumps/turning$n.dump", "turning$n");
	is($target->safe_psql("turning$n", "$path SELECT * FROM idem_verify()"), '', "turning$n: idem_verify() finds nothing");
	is( $target->safe_psql("turning$n", <<EOF), '0|t', "turning$n: the key of every order is there");
		$path
		SELECT count(*) FILTER (WHERE k IS NULL), count(k) > 0 FROM orders AS o
		LEFT JOIN (TABLE idem_keys_0 UNION ALL TABLE idem_keys_1 UNION ALL TABLE idem_keys_2
			UNION ALL SELECT digest, claimed_at, completed_at, expires_at, life, scope, key, fingerprint, response FROM idem_pinned) AS k ON k.key = o.key AND k.expires_at = o.expires_at
		WHERE o.expires_at > '$now'
EOF
	is($target->safe_psql("turning$n", "$path SELECT DISTINCT status FROM orders, idem_claim(key) WHERE expires_at > now() + interval '1 hour'"),
		'completed', "turning$n: they replay");
	is($target->safe_psql("turning$n", "$path CALL idem_maintain(); SELECT place('new', '1 day'); SELECT * FROM idem_verify()"),
		'claimed', "turning$n: the ring goes on from there");
}
$_->finish for @running;
is(join(' ', map { $_->result(0) } @running), '0 0', 'no client met an error');

$source->stop;
$target->stop;
done_testing();
