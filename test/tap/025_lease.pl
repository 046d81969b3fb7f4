# Leases where servers crash, fail over, and are dumped: what the owner was told holds, and no token is ever given to two.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
# no help from the WAL writer: what nobody flushes is lost
$node->append_conf('postgresql.conf', "wal_writer_delay = 10s\nlog_statement = none\nsynchronous_commit = off\nmax_prepared_transactions = 2\n");
$node->start;
$node->safe_psql('postgres', <<'EOT');
CREATE EXTENSION idem;
CREATE ROLE app LOGIN;
SELECT idem_grant('app', 'app');
CREATE TABLE ledger (key text, what text);
GRANT ALL ON ledger TO app;
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$INSERT INTO ledger VALUES ($1 #>> '{}', 'undone')$$;
EOT

sub sql { my ($sql, $on) = @_; return ($on // $node)->safe_psql('postgres', $sql); }
sub lease { my ($key, $on) = @_; return sql("SELECT token FROM idem_claim('$key', lease => '1 h', wait => '0')", $on); }
sub crash { $node->stop('immediate'); $node->start; return; }

# SQLSTATE of what fails
sub state_of
{
	my ($sql, $on) = @_;
	my ($out, $err);
	return 'ok' if ($on // $node)->psql('postgres', "\\set VERBOSITY sqlstate\n$sql", stdout => \$out, stderr => \$err) == 0;
	return $err =~ /ERROR:\s+(\w{5})/ ? $1 : $err;
}

# ---- a crash: what the owner may rely on outside is never lost, although commits here are asynchronous ----

sql('CHECKPOINT');
my $token = lease('crash');
crash();
is(sql(q{SELECT status, attempt FROM idem_status('crash')}), 'in_progress|1', 'a lease survives a crash');
isnt(lease('other'), $token, 'and its token is not given out again');
sql('CHECKPOINT');
sql("SELECT idem_renew('crash', $token, '2 h')");
crash();
cmp_ok(sql(q{SELECT extract(epoch FROM expires_at - now()) FROM idem_status('crash')}), '>', 3700, 'so does a renewal');
sql('CHECKPOINT');
sql("SELECT idem_compensate_with('crash', 'undo(jsonb)', '\"crash\"', deadline => '1 day', token => $token)");
crash();
is(sql(q{SELECT handlers -> 0 ->> 'args', deadline > now() FROM idem_compensations WHERE key = 'crash'}), 'crash|t', 'and a compensation');
is(state_of("SELECT idem_complete('crash', '1', token => $token)"), 'ok', 'the owner goes on');

# ---- owners that die: their leases are taken over with the last checkpoint; each step is done once ----

# a worker that goes through its steps in a transaction each, and is killed at some point
my $work = <<'EOT';
CREATE PROCEDURE work(k text, dies_at int) LANGUAGE plpgsql AS $$
DECLARE
	c idem_claim_result;
	step int;
BEGIN
	c := idem_claim(k, lease => '100 ms', wait => '5 s');
	COMMIT;
	IF c.status <> 'claimed' THEN
		RETURN;
	END IF;
	FOR step IN coalesce((c.checkpoint ->> 'step')::int, 0) + 1 .. 4 LOOP
		INSERT INTO ledger VALUES (k, 'step ' || step);
		IF dies_at = step THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
		PERFORM idem_checkpoint(k, c.token, step::text, to_jsonb(step));
		COMMIT;
		IF dies_at = -step THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
	END LOOP;
	PERFORM idem_complete(k, '"worked"', token => c.token);
END $$;
EOT
sql($work);
for my $dies_at (1 .. 4, -4 .. -1)
{
	$node->psql('postgres', "CALL work('dies $dies_at', $dies_at)");
	is(sql(qq{SELECT status, attempt FROM idem_status('dies $dies_at')}), 'in_progress|1', "killed at $dies_at");
	sql("CALL work('dies $dies_at', 0)");
}
is(sql(q{SELECT count(*), min(attempt), max(attempt) FROM idem_keys WHERE key ~ '^dies' AND status = 'completed'}), '8|2|2', 'each was taken over and completed');
is(sql(q{SELECT key, count(*), count(DISTINCT what) FROM ledger WHERE key ~ '^dies' GROUP BY key HAVING count(*) <> 4 OR count(DISTINCT what) <> 4}), '', 'each step is there once');

# many workers after a few keys, with leases far too short: owners lose them amid, and what a late one does is refused
sql($work =~ s/work\(/work_slowly(/r =~ s/'100 ms'/'20 ms'/r =~ s/PERFORM idem_checkpoint/PERFORM pg_sleep(random() * 0.05); PERFORM idem_checkpoint/r);
my $script = $node->basedir . '/slow.sql';
append_to_file($script, join('', map { "CALL work_slowly('slow $_', 0);\n" } 1 .. 12));
my @said = ('') x 4;
my @workers = map { start [ 'psql', '-Xq', '-v', 'VERBOSITY=sqlstate', '-d', $node->connstr('postgres'), '-f', $script ], '>&', \$said[$_] } 0 .. 3;
$_->finish for @workers;
is(join(' ', grep { !/ID017/ } join('', @said) =~ /ERROR:\s+(\w+)/g), '', 'contended: no error but that a lease is lost');
is(sql(q{SELECT count(*) FROM idem_verify()}), '0', 'idem_verify() finds nothing');
sql("CALL work('slow $_', 0)") for 1 .. 12;
is(sql(q{SELECT count(*) FROM idem_keys WHERE key ~ '^slow' AND status = 'completed'}), '12', 'each key is completed');
cmp_ok(sql(q{SELECT count(*) FROM idem_keys WHERE key ~ '^slow' AND attempt > 1}), '>', 0, 'leases were lost amid');
is(sql(q{SELECT key, count(*), count(DISTINCT what) FROM ledger WHERE key ~ '^slow' GROUP BY key HAVING count(*) <> 4 OR count(DISTINCT what) <> 4}), '', 'each step is there once');

# ---- prepared ----

sql(q{BEGIN; SELECT status FROM idem_claim('prepared', lease => '1 h'); PREPARE TRANSACTION 'p'});
crash();
is(lease('prepared'), '', 'a prepared lease holds its key');
sql(q{COMMIT PREPARED 'p'});
is(lease('prepared'), '', 'and when it is committed');
is(sql(q{SELECT status FROM idem_status('prepared')}), 'in_progress', '... by the lease');

# ---- the deadline of owners that never return, by the registrant's worker ----

$node->safe_psql('postgres', q{SELECT token AS t FROM idem_claim('gone', lease => '1 ms') \gset
SELECT idem_compensate_with('gone', 'undo(jsonb)', '"gone"', deadline => '1 ms', token => :t);
SELECT token AS t FROM idem_claim('there', lease => '1 h') \gset
SELECT idem_compensate_with('there', 'undo(jsonb)', '"there"', deadline => '1 ms', token => :t);}, extra_params => [ '-U', 'app' ]);
sql('SELECT pg_sleep(0.1)');
sql('CALL idem_maintain()');
is(sql(q{SELECT key, state FROM idem_compensations WHERE key IN ('gone', 'there') ORDER BY 1}), "gone|compensated\nthere|leased", 'cancelled at the deadline, but not under a live lease');
is(sql(q{SELECT key, count(*) FROM ledger WHERE what = 'undone' GROUP BY 1}), 'gone|1', 'once');

# ---- failover: the standby lacks the last leases, and what it gives out is another's ----

my $kept = lease('kept');
sql('SET synchronous_commit = on; SELECT pg_current_wal_lsn()');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
for my $sql ("SELECT idem_renew('kept', $kept, '1 h')", "SELECT idem_checkpoint('kept', $kept, 's', '1')", "SELECT * FROM idem_claim('standby', lease => '1 h')")
{
	is(state_of($sql, $standby), '25006', 'refused on a standby');
}
$standby->stop;
my $lost = lease('lost');
$node->stop;
$standby->start;
$standby->promote;
is(sql(q{SELECT status FROM idem_status('lost')}, $standby), 'unknown', 'the promoted standby does not know the last lease');
# draw the number that the lost token was drawn with; by itself that takes some more leases
my $mask = (1 << 48) - 1;
sql("SELECT setval('idem_tokens', ($lost & $mask) - 1)", $standby);
my $again = lease('lost', $standby);
is($again & $mask, $lost & $mask, 'the same number is drawn there');
isnt($again, $lost, 'but the token is another');
is(state_of("SELECT idem_complete('lost', '1', token => $lost)", $standby), 'ID017', 'and the owner from before the failover is fenced off');
is(state_of("SELECT idem_complete('lost', '1', token => $again)", $standby), 'ok', 'the one from after it is not');
is(state_of("SELECT idem_complete('kept', '1', token => $kept)", $standby), 'ok', 'a lease that was replicated goes on with its token');
is(sql('SELECT count(*) FROM idem_verify()', $standby), '0', 'idem_verify() finds nothing');

# ---- dump and restore: leases go on, and the sequence ----

my $carried = lease('carried', $standby);
sql("SELECT idem_checkpoint('carried', $carried, 'one', '[1]')", $standby);
my $dump = $standby->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-f', $dump, '-d', $standby->connstr('postgres') ], 'pg_dump');
sql('CREATE DATABASE restored', $standby);
command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-d', $standby->connstr('restored'), '-f', $dump ], 'restored');
my $all = q{SELECT key, fate, attempt, token, lease_ends_at, checkpoint FROM idem_pinned ORDER BY 1};
is($standby->safe_psql('restored', $all), sql($all, $standby), 'leases are the same there');
my $fresh = $standby->safe_psql('restored', q{SELECT token FROM idem_claim('fresh', lease => '1 h')});
cmp_ok($fresh & $mask, '>', $carried & $mask, 'numbers go on');
isnt($fresh >> 48, $carried >> 48, 'in another database, another incarnation');
is($standby->safe_psql('restored', 'SELECT count(*) FROM idem_verify()'), '0', 'idem_verify() finds nothing');

$standby->stop;
done_testing();
