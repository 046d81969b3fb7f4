# A holder that dies frees its key for the next in line; claims stand what administrators do to the tables meanwhile:
# REINDEX, an index of their own, another layout, DROP EXTENSION.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('holder');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nrestart_after_crash = on\n");
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

sub session
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_safe('\set VERBOSITY verbose');
	return ($session, $session->query_safe('SELECT pg_backend_pid()'));
}

# what the session prints of a statement that fails
sub failure
{
	my ($session, $sql) = @_;
	$session->{stderr} = '';
	my $out = $session->query($sql);
	my $err = $session->{stderr};
	$session->{stderr} = '';
	return "$out$err";
}

# ---- the holder dies ----

my ($holder, $pid) = session();
my ($waiter, $waiter_pid) = session();
$waiter->query_safe(q{SET idem.claim_wait = '10min'});

$holder->query_safe(q{BEGIN; SELECT place('terminated')});
$waiter->query_until(qr/waits/, "\\echo waits\nSELECT place('terminated');\n");
$node->poll_query_until('postgres', "SELECT wait_event = 'advisory' FROM pg_stat_activity WHERE pid = $waiter_pid") or die 'nobody waits';
is(sql(q{SELECT holder_pid FROM idem_status('terminated')}), $pid, 'the holder is known by its pid');
is(sql(q{SELECT pid, key_hash = idem_digest('terminated') FROM idem_holders}), "$pid|t", '... and in idem_holders');
sql("SELECT pg_terminate_backend($pid)");
is($waiter->query(''), 'claimed', 'terminated: who waited has the key');
$holder->{run}->finish;
is(sql(q{SELECT count(*) FROM orders WHERE key = 'terminated'}), '1', 'terminated: its effect is there once');
$waiter->quit;

($holder, $pid) = session();
$holder->query_safe(q{SELECT place('kept'); BEGIN; SELECT place('killed')});
kill 'KILL', $pid;
$holder->{run}->finish;
$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
is(sql(q{SELECT status FROM idem_status('killed')}), 'unknown', 'killed with -9: the key is free');
is(sql(q{SELECT place('kept'), place('killed')}), 'completed|claimed', '... and can be claimed');
is(sql(q{SELECT count(*) FROM orders WHERE key = 'killed'}), '1', '... for one effect');

# ---- REINDEX CONCURRENTLY under load ----

my $script = $node->basedir . '/load.sql';
append_to_file($script, "\\set k random(1, 20000)\nSELECT place(:k::text);\n");
my $load = start [ 'pgbench', '-n', '-c4', '-T6', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ], '>&', \my $pgbench;
my $rebuilt = 0;
for my $n (1 .. 500)
{
	sql("REINDEX INDEX CONCURRENTLY $_") for qw(idem_keys_0_digest idem_pinned_digest);
	$rebuilt++;
	last unless $load->pump_nb;
}
$load->finish;
is($load->result(0), 0, 'claims go on while indexes are rebuilt');
cmp_ok($rebuilt, '>=', 3, '... several times') or note $pgbench;
is(sql('SELECT key FROM orders GROUP BY key HAVING count(*) > 1'), '', 'no effect twice');
is(sql('SELECT DISTINCT place(key) FROM orders'), 'completed', 'every key is found by the index');
is(sql('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');

# ---- an administrator's own indexes ----

my ($session) = session();
sql('CREATE INDEX mine ON idem_keys_0 (completed_at, key)');
is($session->query_safe(q{SELECT place('indexed')}), 'claimed', 'an index on columns is kept up');
is(sql(q{SET enable_seqscan = off; SELECT key FROM idem_keys_0 WHERE completed_at > '-infinity' AND key = 'indexed'}), 'indexed', '... as it should be');
sql('CREATE INDEX expression ON idem_keys_0 (lower(key))');
like(failure($session, q{SELECT place('refused')}), qr/ERROR:  0A000: .*expression.*DETAIL: .*HINT:  Drop the index/s, 'one on an expression is refused');
sql('DROP INDEX expression');
is(sql(q{SELECT count(*) FROM orders WHERE key = 'refused'}), '0', '... and nothing is done without its key');
is($session->query_safe(q{SELECT place('refused')}), 'claimed', 'without it all is well');

# ---- another layout: this backend's library must not write to it ----

my ($waiting, $waiting_pid) = session();
my $rows = sql('SELECT count(*) FROM idem_keys_0');
$_->query_safe(q{BEGIN; SELECT idem_claim('by ' || pg_backend_pid())}) for $session, $waiting;
my ($admin) = session();
$admin->query_safe('BEGIN; ALTER TABLE idem_keys_0 ADD COLUMN more integer');
$waiting->query_until(qr/waits/, "\\echo waits\nSELECT idem_complete('by ' || pg_backend_pid(), '1');\n");
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $waiting_pid") or die 'it did not wait';
$admin->query_safe('COMMIT');
$admin->quit;

my $unknown = qr/ERROR:  55000: .*idem_keys_0.*DETAIL: .*HINT:  Reconnect/s;
like(failure($waiting, ''), $unknown, 'another layout: a completion that waited for it is refused');
$waiting->quit;
like(failure($session, q{SELECT idem_complete('by ' || pg_backend_pid(), '1')}), $unknown, '... one that comes later too');
failure($session, 'ROLLBACK');
like(failure($session, q{SELECT place('other layout')}), $unknown, '... and claims');
like(failure($session, 'CALL idem_maintain()'), $unknown, '... and maintenance');
is(sql('SELECT count(*) FROM idem_keys_0'), $rows, '... and nothing is written');
sql('ALTER TABLE idem_keys_0 DROP COLUMN more');
like(failure($session, q{SELECT place('other layout')}), $unknown, 'a dropped column is another layout too');

# ---- drop and create ----

my ($open) = session();
sql('DROP EXTENSION idem; CREATE EXTENSION idem');
is($session->query_safe(q{SELECT place('created again')}), 'claimed', 'created again, the same session works with it');
is($session->query_safe(q{SELECT place('created again')}), 'completed', '... and finds its key');

$open->query_safe(q{BEGIN; SELECT idem_claim('open')});
sql('DROP EXTENSION idem');
like(failure($open, q{SELECT 1; COMMIT}), qr/ERROR:  ID004/, 'dropped under an open claim: its COMMIT is refused still');
sql('CREATE EXTENSION idem');
$open->query_safe(q{BEGIN; SELECT idem_claim('open')});
sql('DROP EXTENSION idem; CREATE EXTENSION idem');
is($open->query_safe(q{SELECT idem_complete('open', '1'); COMMIT; SELECT place('open')}), "1\ncompleted",
	'created again under an open claim: it is completed there');
$open->query_safe(q{BEGIN; SELECT place('written')});
$session->query_until(qr/drops/, "\\echo drops\nDROP EXTENSION idem;\n");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'DROP%' AND wait_event_type = 'Lock'}) or die 'it did not wait';
$open->query_safe('COMMIT');
is($session->query(''), '', 'DROP waits for who has written a key');
like(failure($session, q{SELECT idem_claim('gone')}), qr/ERROR:  42883/, 'dropped, it is gone');
is($session->query_safe(q{CREATE EXTENSION idem; SELECT place('once more')}), 'claimed', 'drop and create in one session');
$_->quit for $session, $open;

$node->stop;
done_testing();
