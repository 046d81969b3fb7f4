# Synchronous replication: what no standby has confirmed is not replayed, whichever way it became visible, and a standby
# that hangs holds up neither claims nor the ring. A standby refuses every verb; promoted, it replays.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "max_connections = 20\nlog_statement = none\nautovacuum = off\n");
$primary->start;
$primary->safe_psql('postgres', <<'EOF');
ALTER DATABASE postgres SET idem.key_ttl = '1s';
CREATE EXTENSION idem;
UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys';
CREATE TABLE orders (key text);
CREATE FUNCTION place(k text, ttl interval = '1 day') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	SELECT status INTO answer FROM idem_claim(k, ttl => ttl);
	IF answer = 'claimed' THEN
		INSERT INTO orders VALUES (k);
		PERFORM idem_complete(k, to_jsonb(k));
	END IF;
	RETURN answer;
END $$;
EOF
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "wal_receiver_status_interval = 1\n");
$standby->start;
$primary->safe_psql('postgres', 'ALTER DATABASE postgres SET synchronous_commit = remote_apply');
$primary->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'\n");
$primary->reload;
$primary->poll_query_until('postgres', "SELECT sync_state = 'sync' FROM pg_stat_replication") or die 'no synchronous standby';

sub sql { return $primary->safe_psql('postgres', $_[0]); }

sub session { return $primary->background_psql('postgres', on_error_stop => 0); }

# Runs it, in a session of its own if none is given, and cancels it once it waits for the standby: what psql then prints.
sub cancelled
{
	my ($sql, $session) = @_;
	$session //= session();
	my $pid = $session->query_safe("\\set VERBOSITY verbose\nSELECT pg_backend_pid()");
	$session->query_until(qr/sent/, "\\echo sent\n$sql;\n");
	wait_for_standby($pid);
	sql("SELECT pg_cancel_backend($pid)");
	my $out = $session->query('');
	$out .= "\n$session->{stderr}";
	$session->quit;
	return $out;
}

sub wait_for_standby
{
	my ($pid) = @_;
	$primary->poll_query_until('postgres',
		"SELECT state = 'idle' OR wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid") or die "$pid goes on";
	return;
}

my $knowing = session();
is($knowing->query_safe(q{SELECT place('confirmed'); SELECT place('confirmed')}), "claimed\ncompleted",
	'with the standby at work a claim goes through and replays');

# A new session's replay waits for a record of its own to be applied, and not for another to follow it, which on an idle server
# may take minutes; a few do follow by chance.
my $followed = 0;
for (1 .. 12)
{
	my $before = sql('SELECT pg_current_wal_insert_lsn()');
	my $failed = $primary->psql('postgres', q{SET statement_timeout = '20s'; SELECT place('confirmed')}) != 0;
	$followed++ if $failed || sql("SELECT pg_current_wal_insert_lsn() - '$before'") >= 48;
	last if $followed > 3;
}
cmp_ok($followed, '<=', 3, 'a replay needs one small record in the log, and none after it');

# it confirms while one transaction is open, which is therefore not among what it knows
my $open = session();
$open->query_safe(q{BEGIN; SELECT place('late')});
my $meanwhile = session();
is($meanwhile->query_safe(q{SELECT place('confirmed')}), 'completed', 'while another transaction is open, too');

# ---- the standby hangs ----

$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'}) or die 'it goes on';

is($knowing->query_safe(q{SET statement_timeout = '1s'; SELECT place('confirmed')}), 'completed',
	'a session that knows a key to be confirmed replays it');

$meanwhile->query_safe(q{SET statement_timeout = '1s'});
like(cancelled('COMMIT', $open), qr/might not have been replicated/, 'late: its wait is cancelled');
is($meanwhile->query_safe(q{SELECT place('confirmed')}), 'completed', 'late: who confirmed while it was open still knows the older one');
is($meanwhile->query(q{SELECT place('late')}), '', 'late: ... and does not give the younger one');
$meanwhile->quit;

# it hangs in applying, and still writes
my $by_flush = session();
is($by_flush->query_safe(q{SET synchronous_commit = on; SELECT place('flushed'); SELECT place('flushed')}), "claimed\ncompleted",
	'flushed: confirmed as written, it is given to who asks for that');
is($by_flush->query(q{SET synchronous_commit = remote_apply; SET statement_timeout = '1s'; SELECT place('flushed')}), '',
	'flushed: ... and not when the same session asks for more');
$by_flush->quit;

for my $case (qw(plain frozen))
{
	like(cancelled("SELECT place('$case')"), qr/might not have been replicated/, "$case: the winner's wait is cancelled");
	sql('SET synchronous_commit = local; VACUUM (FREEZE) idem_pinned') if $case eq 'frozen';
	is(sql("SELECT status FROM idem_status('$case')"), 'completed', "$case: its commit is visible");

	my $replay = cancelled("SELECT place('$case')");
	like($replay, qr/ERROR:  57014: .*DETAIL: .*HINT: /s, "$case: the replay is cancelled");
	unlike($replay, qr/completed$/m, "$case: ... and not given");
	is($knowing->query("SELECT place('$case')"), '', "$case: nor to a session that knows older ones to be confirmed");
	is(sql("SET synchronous_commit = local; SELECT place('$case')"), 'completed', "$case: one that asks for no standby gets it");
}
$knowing->{stderr} = '';
is($knowing->query(q{SELECT place('confirmed')}), '', 'frozen, it is not known when the key was confirmed');
$knowing->quit;

# ---- and the ring turns: whatever its maintainer waits for, others claim and read ----

my $maintainer = session();
my $pid = $maintainer->query_safe('SELECT pg_backend_pid()');
my $files = q{SELECT string_agg(pg_relation_filenode('idem_keys_' || i)::text, ' ' ORDER BY i) FROM generate_series(0, 2) AS i};
my $initial = sql($files);
my ($stops, $emptied, @wrong) = (0, 0);
for my $n (1 .. 200)
{
	$maintainer->query_until(qr/called/, "\\echo called\nCALL idem_maintain();\n\\echo\n");
	wait_for_standby($pid);
	for my $stop (1 .. 10)
	{
		last if sql("SELECT state FROM pg_stat_activity WHERE pid = $pid") eq 'idle';
		$stops++;
		my (undef, $out, $err) = $primary->psql('postgres',
			"SET synchronous_commit = local; SET statement_timeout = '20s'; SELECT place('$n $stop', '1s'); SELECT count(*) > 0 FROM idem_keys");
		push @wrong, "$out$err" if $out ne "claimed\nt";
		sql("SELECT pg_cancel_backend($pid)");
		$primary->poll_query_until('postgres',
			"SELECT state = 'idle' OR wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid") or die 'the maintainer hangs';
	}
	my %before = map { $_ => 1 } split / /, $initial;
	$emptied = grep { !$before{$_} } split / /, sql($files);
	last if $emptied >= 2;
	select undef, undef, undef, 0.1;
}
cmp_ok($emptied, '>=', 2, 'generations were emptied meanwhile');
cmp_ok($stops, '>=', 6, 'the maintainer waited for the standby again and again');
is_deeply(\@wrong, [], 'and all the while others claimed and read');

# ---- the standby is back ----

$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$maintainer->quit; # which may have waited once more
is(sql("SELECT place('$_')"), 'completed', "$_: with the standby back it is replayed") for qw(plain frozen late flushed confirmed);

for my $verb (
	(map { "SELECT $_" } q{idem_claim('confirmed')}, q{idem_claim('confirmed', wait => '0')}, q{idem_claim('l', lease => '1 s')}, q{idem_complete('confirmed', '1')},
		q{idem_renew('l', 1, '1 s')}, q{idem_checkpoint('l', 1, 'step', '1')}, q{idem_status('confirmed')}, q{idem_evict('confirmed')},
		q{idem_claim_many('{a,b}')}, q{idem_complete_many('{a,b}', '{1,2}')}, q{idem_execute('jsonb_strip_nulls(jsonb)', 'x', '{}')},
		q{idem_execute_many('jsonb_strip_nulls(jsonb)', '{x}', '{1}')}, q{idem_compensate_with('x', 'jsonb_strip_nulls(jsonb)', '{}')}, q{idem_confirm('x')},
		q{idem_cancel('confirmed')}, q{idem_publish('t', '1')}, q{idem_subscribe('c')}, q{idem_unsubscribe('c')}, q{idem_fetch('c')}, q{idem_fetch('c', wait => '1 min')},
		q{idem_ack('c', 1)}, q{idem_nack('c', 1, 1, 'no')}, q{idem_seek('c', now())}, q{idem_redrive('c', 1)}, q{idem_consume('s', 'm')}, q{idem_consume_seq('s', 0, 1)},
		q{idem_incarnation()}),
	'CALL idem_maintain()')
{
	my (undef, undef, $err) = $standby->psql('postgres', "\\set VERBOSITY verbose\n$verb");
	like($err, qr/ERROR:  25006: .*on a standby.*DETAIL: .*HINT:  Connect to the primary/s, "on a standby: $verb");
}
(undef, undef, my $err) = $standby->psql('postgres', q{INSERT INTO idem_outbox (topic, payload) VALUES ('t', '1')});
like($err, qr/read-only transaction|on a standby/, 'on a standby: INSERT');
is($standby->safe_psql('postgres', q{SELECT response FROM idem_keys WHERE key = 'confirmed'}), '"confirmed"',
	'on a standby the keys can be looked at');

$primary->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', "SELECT place('$_')"), 'completed', "promoted: $_ is replayed") for qw(plain frozen late flushed confirmed);
is($standby->safe_psql('postgres', q{SELECT place('new')}), 'claimed', 'promoted: a new key is claimed');
is($standby->safe_psql('postgres', 'CALL idem_maintain(); SELECT * FROM idem_verify()'), '', 'promoted: the ring is in order');
is($standby->safe_psql('postgres', q{SELECT key, count(*) FROM orders GROUP BY key HAVING count(*) > 1}), '', 'no effect twice');

$standby->stop;
done_testing();
