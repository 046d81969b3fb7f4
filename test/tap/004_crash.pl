# The server is stopped as by a crash, again and again under load: an effect is there if and only if its key is, and what
# a client was told, as the first answer or as a replay, is still true. A prepared transaction keeps its claim.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init;
# no help from the WAL writer: what nobody flushes is lost
$node->append_conf('postgresql.conf', <<'EOF');
max_prepared_transactions = 10
log_statement = none
wal_writer_delay = 10s
EOF
$node->start;
$node->safe_psql('postgres', <<'EOF');
CREATE EXTENSION idem;
CREATE TABLE orders (key text);
CREATE FUNCTION place(k text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	SELECT status INTO answer FROM idem_claim(k);
	IF answer = 'claimed' THEN
		INSERT INTO orders VALUES (k);
		PERFORM idem_complete(k, to_jsonb(k));
	END IF;
	RETURN answer;
END $$;
EOF

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub crash { $node->stop('immediate'); $node->start; return; }

# ---- under load: half of the clients do not wait for their commits, and the other half replays what those did ----

my $first = 1;
my $acknowledged = 0;
for my $round (1 .. 3)
{
	my $script = $node->basedir . "/load$round.sql";
	append_to_file($script, join('', map { "SELECT place('$_'), '$_';\n" } $first .. $first + 50_000));

	my @clients;
	for my $commit (qw(off off on on))
	{
		my $out = '';
		local %ENV = (%ENV, PGOPTIONS => "-c synchronous_commit=$commit");
		my $run = start [ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', $script ], '>', \$out, '2>', \my $err;
		push @clients, { commit => $commit, run => $run, out => \$out };
	}
	for (1 .. 10_000)
	{
		$_->{run}->pump_nb for @clients;
		last if ${ $clients[3]{out} } =~ /(?:.*\n){400}/;
		select undef, undef, undef, 0.01;
	}
	crash();
	$_->{run}->finish for @clients;

	is(sql(q{SELECT key, count(*) FROM orders GROUP BY key HAVING count(*) > 1}), '', "crash $round: no effect twice");
	is( sql(q{SELECT coalesce(o.key, k.key) FROM orders AS o FULL JOIN idem_keys AS k USING (key) WHERE o.key IS NULL OR k.key IS NULL}),
		'', "crash $round: effects and keys are the same");
	my %kept = map { $_ => 1 } split /\n/, sql('SELECT key FROM orders');
	my @told = map { /^(claimed|completed)\|(\d+)$/mg } map { $_->{commit} eq 'on' ? ${ $_->{out} } : () } @clients;
	my %told = reverse @told;
	is_deeply([ grep { !$kept{$_} } keys %told ], [], "crash $round: nothing acknowledged is lost");
	$acknowledged += keys %told;
	$first += 50_001;
}
cmp_ok($acknowledged, '>=', 1200, 'there was something to lose');
is(sql('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');
is(sql('SELECT DISTINCT place(key) FROM orders'), 'completed', 'every effect replays');

# ---- prepared transactions ----

for my $name (qw(yes no))
{
	sql("BEGIN; SELECT place('$name'); PREPARE TRANSACTION '$name'");
}
crash();
is(sql(q{SELECT status, holder_pid FROM idem_status('yes')}), 'in_progress|', 'a prepared transaction holds its key after a crash');
is(sql(q{SELECT status FROM idem_claim('yes', wait => '0')}), 'in_progress', '... and nobody else gets it');
is(sql(q{SELECT status FROM idem_claim('no', wait => '10ms')}), 'in_progress', '... nor by waiting');
sql($_) for q{COMMIT PREPARED 'yes'}, q{ROLLBACK PREPARED 'no'};
is(sql(q{SELECT place('yes'), place('no'), count(*) FROM orders WHERE key = 'yes'}), 'completed|claimed|1',
	'committed it replays, rolled back it is free');

# ---- a replay is durable although the commit that it speaks of was not ----

for my $case (qw(plain frozen))
{
	sql("SET synchronous_commit = off; SELECT place('$case')");
	sql('SET synchronous_commit = off; VACUUM (FREEZE) idem_keys_0') if $case eq 'frozen';
	is(sql("SELECT place('$case')"), 'completed', "$case: the replay is given");
	crash();
	is(sql("SELECT count(*), (SELECT status FROM idem_status('$case')) FROM orders WHERE key = '$case'"), '1|completed',
		"$case: and still true after a crash");
}

$node->stop;
done_testing();
