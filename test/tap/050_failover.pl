# What a failover loses, for each synchronous_commit and each kind of synchronous_standby_names: a primary and two standbys
# under load; one standby is cut off, later the other, the primary dies, and each is promoted. What a client was told that it
# has done, or that it had been done before, is there if the setting promises so; what is lost is lost as a whole. A replay
# promises no less than a commit: not what was written by those who wait for nobody, nor where the wait was cancelled.
# IDEM_FAILOVER=all: all settings, and a table; else a few.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my %names = ('none' => '', 'FIRST 1' => 'FIRST 1 (one, two)', 'ANY 2' => 'ANY 2 (one, two)');
my @cells = ($ENV{IDEM_FAILOVER} // '') eq 'all'
	? map { my $names = $_; map { [ $_, $names ] } qw(off local remote_write on remote_apply) } 'none', 'FIRST 1', 'ANY 2'
	: ([ 'on', 'none' ], [ 'on', 'FIRST 1' ], [ 'remote_write', 'ANY 2' ]);

# ---- one set of data for all ----

my $origin = PostgreSQL::Test::Cluster->new('origin');
$origin->init(allows_streaming => 1);
$origin->append_conf('postgresql.conf', "max_connections = 40\nlog_statement = none\nwal_retrieve_retry_interval = 100ms\n");
$origin->start;
$origin->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE orders (n bigint GENERATED ALWAYS AS IDENTITY, key text);
CREATE TABLE careless (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text);
CREATE FUNCTION place(k text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	SELECT status INTO answer FROM idem_claim(k, ttl => '2 days');
	IF answer = 'claimed' THEN
		INSERT INTO orders (key) VALUES (k);
		PERFORM idem_publish('orders', to_jsonb(k), k);
		PERFORM idem_complete(k, to_jsonb(k));
	END IF;
	RETURN answer;
END $$;
EOS
$origin->backup('base');
$origin->stop;

# ---- clients; what they print is what they were told ----

my $dir = $origin->basedir;
append_to_file("$dir/order.sql", "SELECT gen_random_uuid() AS k \\gset\nSELECT place(:'k') || ' ' || :'k';\n" x 50_000);
append_to_file("$dir/careless.sql", <<'EOS' x 50_000);
SET synchronous_commit = local;
INSERT INTO careless (key) SELECT k FROM gen_random_uuid() AS k RETURNING key AS k \gset
SELECT place(:'k') || ' ' || :'k';
EOS
append_to_file("$dir/replay.sql", <<'EOS' x 50_000);
SELECT key AS k FROM careless ORDER BY n DESC OFFSET 1 LIMIT 1 \gset
SELECT place(:'k') || ' ' || :'k';
EOS
my %running;

sub client
{
	my ($node, $level, $name, $number) = @_;
	my $to = $node->basedir . "/$name-$number";
	local %ENV = (%ENV, PGOPTIONS => "-c synchronous_commit=$level", PGAPPNAME => $name);
	push @{ $running{ $node->name } }, start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/$name.sql" ], '>', $to, '2>', "$to.err");
	return $to;
}

END
{
	local $?;
	for my $client (map { @$_ } values %running) { $client->kill_kill; }
}

# by key: claimed or completed
sub was_told
{
	my %told = map { /^(\w+) (\S+)$/ ? ($2 => $1) : () } map { split /\n/, slurp_file($_) } @_;
	return \%told;
}

# ---- a failover ----

my (@table, $number);

sub failover
{
	my ($level, $names) = @_;
	my $case = "$level, $names";
	my $guarded = $level !~ /^(off|local)$/ && $names ne 'none';
	$number++;
	my $primary = PostgreSQL::Test::Cluster->new("primary$number");
	$primary->init_from_backup($origin, 'base');
	$primary->start;
	my @standbys = map {
		my $standby = PostgreSQL::Test::Cluster->new("$_$number");
		$standby->init_from_backup($origin, 'base');
		$standby->set_standby_mode;
		$standby->append_conf('postgresql.conf', "primary_conninfo = '" . $primary->connstr . " application_name=$_'\n");
		$standby->start;
		$standby;
	} qw(one two);
	my $sql = sub { return $primary->safe_psql('postgres', "SET synchronous_commit = local; $_[0]"); };
	$primary->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'}) or die 'no standbys';
	$primary->append_conf('postgresql.conf', "synchronous_standby_names = '$names{$names}'\n");
	$primary->reload;
	my $sync = { 'none' => 'async,async', 'FIRST 1' => 'sync,potential', 'ANY 2' => 'quorum,quorum' }->{$names};
	$primary->poll_query_until('postgres', qq{SELECT string_agg(sync_state, ',' ORDER BY application_name) = '$sync' FROM pg_stat_replication}) or die 'not in sync';

	my @orders = map { client($primary, $level, 'order', $_) } 1 .. 2;
	client($primary, 'local', 'careless', 1);
	$primary->poll_query_until('postgres', 'SELECT count(*) > 2 FROM careless') or die 'nothing to replay';
	my @replays = map { client($primary, $level, 'replay', $_) } 1 .. 2;

	# the orders go on, or all of them wait for a standby
	my $go_on = sub {
		my $had = $sql->('SELECT count(*) FROM orders WHERE key NOT IN (SELECT key FROM careless)');
		return $primary->poll_query_until('postgres', <<"EOS");
			SELECT (SELECT count(*) >= $had + 50 FROM orders WHERE key NOT IN (SELECT key FROM careless))
			    OR (SELECT count(*) = 2 FROM pg_stat_activity WHERE application_name = 'order' AND wait_event = 'SyncRep')
EOS
	};
	my $cut_off = sub {
		my ($standby) = @_;
		my $had = $sql->('SELECT count(*) FROM pg_stat_replication');
		$standby->append_conf('postgresql.conf', "primary_conninfo = 'host=/nowhere'\n");
		$standby->reload;
		$primary->poll_query_until('postgres', "SELECT count(*) < $had FROM pg_stat_replication") or die 'it streams on';
		ok($go_on->(), "$case: " . ($guarded ? 'orders go on or wait' : 'orders go on'));
	};
	$go_on->() or die 'there is no load';
	$cut_off->($_) for @standbys;

	my $waiting = $sql->(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'order'});
	is($waiting, $guarded ? 2 : 0, "$case: with nobody to confirm, " . ($guarded ? 'they wait' : 'they do not wait'));
	my $cancelled = '';
	if ($guarded)
	{
		# who gives up waiting is warned and told of success; to nobody else is it given
		my $session = $primary->background_psql('postgres', on_error_stop => 0);
		my $pid = $session->query_safe("SET synchronous_commit = $level; SELECT pg_backend_pid()");
		$session->query_until(qr/sent/, "\\echo sent\nSELECT place('cancelled');\n");
		$primary->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid") or die 'it does not wait';
		$sql->("SELECT pg_cancel_backend($pid)");
		like($session->query(''), qr/claimed/, "$case: a wait is cancelled, and its client told of success");
		like($session->{stderr}, qr/might not have been replicated/, "$case: ... with a warning");
		my (undef, $out, $err) = $primary->psql('postgres', "SET synchronous_commit = $level; SET statement_timeout = '500ms'; SELECT place('cancelled')");
		is($out, '', "$case: ... which no other session gets as a replay");
		like($err, qr/canceling|not .*confirmed|replicated/, "$case: ... but an error");
		$session->quit;
	}
	my $careless = $sql->('SELECT count(*) FROM careless');
	$primary->poll_query_until('postgres', "SELECT count(*) > $careless + 5 FROM careless") or die 'the careless one waits';

	$primary->stop('immediate');
	$_->finish for @{ delete $running{ $primary->name } };
	my $ordered = was_told(@orders);
	my $replayed = was_told(@replays);
	cmp_ok(scalar keys %$ordered, '>', 0, "$case: some orders were acknowledged");
	cmp_ok(scalar keys %$replayed, '>', 0, "$case: and some replays");

	my %lost;
	for my $standby (@standbys)
	{
		my $which = $standby->name =~ /^one/ ? 'one' : 'two';
		$standby->promote;
		my $query = sub { return $standby->safe_psql('postgres', $_[0]); };
		my %has = map { $_ => 1 } split /\n/, $query->('SELECT key FROM orders');
		my @lost = grep { !$has{$_} } keys %$ordered;
		my @lost_replays = grep { !$has{$_} } keys %$replayed;
		$lost{$which} = [ scalar @lost, scalar @lost_replays ];
		is($query->('SELECT key FROM orders GROUP BY key HAVING count(*) > 1'), '', "$case: $which: no order twice");
		is($query->(q{SELECT key FROM orders EXCEPT SELECT key FROM idem_keys}), '', "$case: $which: no order without its key");
		is($query->(q{SELECT key FROM idem_keys EXCEPT SELECT key FROM orders}), '', "$case: $which: no key without its order");
		is($query->(q{SELECT key FROM orders EXCEPT SELECT key FROM idem_outbox}), '', "$case: $which: no order without its message");
		is($query->('SELECT * FROM idem_verify()'), '', "$case: $which: idem_verify() finds nothing");
		is($query->("SELECT place('$lost[0]'), place('$lost[0]')"), 'claimed|completed', "$case: $which: what is lost is done again, once") if @lost;
		my ($kept) = grep { $has{$_} } keys %$ordered;
		is($query->("SELECT place('$kept')"), 'completed', "$case: $which: what is kept is replayed");

		# two has confirmed everything that needed somebody's confirmation; one only where both have to
		my $safe = $guarded && ($names eq 'ANY 2' || $which eq 'two');
		if ($safe)
		{
			is(scalar @lost, 0, "$case: $which: no acknowledged order is lost");
			is(scalar @lost_replays, 0, "$case: $which: nor one whose replay was acknowledged");
		}
		else
		{
			cmp_ok(scalar @lost, '>', 0, "$case: $which: orders are lost, as the setting says");
		}
		$standby->stop('immediate');
	}
	push @table, sprintf '%-13s | %-8s | %6d %6d | %6d %6d | %6d %6d | %s', $level, $names, scalar keys %$ordered, scalar keys %$replayed,
		@{ $lost{two} }, @{ $lost{one} }, $guarded ? 'warned, not replayed' : 'nobody waits';
	$_->clean_node for $primary, @standbys;
	return;
}

failover(@$_) for @cells;
note $_
	for '              |          |    acknowledged |  lost: failover |  lost: failover | a wait',
	'synchronous_  | standby_ |                 | to the last in  | to the one cut  | that is',
	'commit        | names    | orders replays  | touch: o.  r.   | off first: o. r.| cancelled', @table;
done_testing();
