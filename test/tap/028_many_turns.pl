# The ring turns in the middle of a call with many keys: its backend is stopped there, and goes on later. What others have
# completed meanwhile it finds, and what it then writes is kept where it lives as long as it says.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use constant { KEYS => 500, TRIES => 100, WANTED => 3 };

my $node = PostgreSQL::Test::Cluster->new('many_turns');
$node->init;
$node->append_conf('postgresql.conf', "idem.claim_wait = 0\nautovacuum = off\n");
$node->start;
$node->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE orders (item text);
CREATE FUNCTION place(jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO orders VALUES ($1 ->> 'item') RETURNING to_jsonb(item)$$;
CREATE FUNCTION names(prefix text) RETURNS text[] LANGUAGE sql AS $$SELECT array_agg(prefix || i) FROM generate_series(1, 500) AS i$$;
CREATE TABLE answers (status text);
EOS

my $current = q{SELECT current FROM idem_ring WHERE store = 'keys'};
my $session = $node->background_psql('postgres');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
my $slowest = 8000;    # us

# Nothing is needed any more but what the current generation has.
sub forget
{
	$node->safe_psql('postgres', <<'EOS');
TRUNCATE orders, answers;
CALL idem_maintain();
UPDATE idem_ring SET step = step + 1, ends_at = (SELECT array_agg(CASE WHEN n - 1 <> current AND isfinite(e) THEN now() ELSE e END ORDER BY n) FROM unnest(ends_at) WITH ORDINALITY AS u (e, n))
WHERE store = 'keys';
CALL idem_maintain();
EOS
	return;
}

# The session's statement, stopped somewhere; the ring turns and others do their part; and the statement goes on. False if it
# was stopped with something in hand that everybody needs: then it has gone on before.
sub stopped_in
{
	my ($statement, $others) = @_;
	my $timed_out;
	$session->query_until(qr/begun/, "\\echo begun\n$statement;\n");
	usleep(rand($slowest));
	kill 'STOP', $pid;
	$node->psql('postgres', <<"EOS", timeout => 5, timed_out => \$timed_out, on_error_die => 1);
UPDATE idem_ring SET step = step + 1, opened_at = now() - '2 days'::interval WHERE store = 'keys';
CALL idem_maintain();
$others
EOS
	kill 'CONT', $pid;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE state = 'active' AND pid NOT IN (pg_backend_pid(), $pid) AND backend_type = 'client backend'");
	return !$timed_out;
}

# True if it was stopped in the middle, and the ring has turned: who is at one of its tables can hold that up.
sub claims
{
	my ($round) = @_;
	my $keys = "names('claim $round ')";
	my $before = $node->safe_psql('postgres', $current);
	$session->query_safe('BEGIN');
	my $quiet = stopped_in("INSERT INTO answers SELECT status FROM idem_claim_many($keys)",
		"SELECT idem_execute('place(jsonb)', name, jsonb_build_object('item', name)) FROM unnest($keys) AS name;");
	my $answers = $session->query_safe('SELECT status, count(*) FROM answers GROUP BY status ORDER BY status');
	$session->query_safe('ROLLBACK');
	my $others = $node->safe_psql('postgres', 'SELECT count(*) FROM orders');
	return 0 unless $quiet && $others > 0 && $others < KEYS && $node->safe_psql('postgres', $current) != $before;

	is($answers, 'claimed|' . (KEYS - $others) . "\ncompleted|$others", 'what another completed is completed, the rest is claimed');
	return 1;
}

sub completions
{
	my ($round) = @_;
	my $keys = "names('complete $round ')";
	my $before = $node->safe_psql('postgres', $current);
	$session->query_safe("BEGIN;\nINSERT INTO answers SELECT status FROM idem_claim_many($keys)");
	my $quiet = stopped_in("SELECT idem_complete_many($keys, array_fill('1'::jsonb, ARRAY[" . KEYS . ']))', '');
	$session->query_safe('COMMIT');
	my $after = $node->safe_psql('postgres', $current);
	my ($old, $new) = map { $node->safe_psql('postgres', "SELECT count(*) FROM idem_keys_$_ WHERE key LIKE 'complete $round %'") } $before, $after;
	my $lost = $node->safe_psql('postgres', "SELECT count(*) FROM idem_keys_$before, idem_ring WHERE store = 'keys' AND expires_at > ends_at[$before + 1]");
	return 0 unless $lost || $quiet && $old > 0 && $new > 0 && $after != $before;

	is($old + $new, KEYS, 'each key is kept, before or after');
	is($lost, 0, 'none where it would be forgotten before its time');
	is($node->safe_psql('postgres', "SELECT DISTINCT status FROM idem_claim_many($keys)"), 'completed', 'and all are found');
	return 1;
}

for my $part (\&claims, \&completions)
{
	my $caught = 0;
	for (my $round = 1; $round <= TRIES && $caught < WANTED; $round++)
	{
		forget();
		$caught += $part->($round);
	}
	is($caught, WANTED, 'the ring turned in the middle often enough');
}
is($node->safe_psql('postgres', 'SELECT * FROM idem_verify()'), '', 'all is well');

$session->quit;
$node->stop;
done_testing();
