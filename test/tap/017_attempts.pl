# Clients that go away with a batch: a message that kills them is named, counted and becomes a dead letter, while all others
# are applied once and the other lanes flow. What is no message's fault leaves no mark, and no backend that exits waits.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('attempts');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'EOS');
max_prepared_transactions = 10
log_statement = none
restart_after_crash = on
EOS
$node->start;
$node->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE applied (at bigint GENERATED ALWAYS AS IDENTITY, consumer text, id bigint, key text, said text);
CREATE FUNCTION publish(said text, key text DEFAULT NULL) RETURNS bigint LANGUAGE sql RETURN idem_publish('t', to_jsonb(said), key);
EOS
my $logged = 0; # so far it has been looked at

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub marks { return sql(q{SELECT count(*) FROM idem_attempts}); }

sub client
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->{pid} = $session->query_safe("\\pset format unaligned\n\\set VERBOSITY verbose\nSELECT pg_backend_pid()");
	return $session;
}

# until its backend has gone, whatever it had to do
sub gone
{
	my ($session) = @_;
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $session->{pid}") or die 'the backend stays';
	return;
}

sub end
{
	my ($session, $signal) = @_;
	$session->{run}->signal($signal);
	eval { $session->{run}->finish };
	return;
}

sub kill_client
{
	my ($session) = @_;
	end($session, 'KILL');
	gone($session);
	return;
}

sub log_is_clean
{
	my ($what) = @_;
	unlike(slurp_file($node->logfile, $logged), qr/WARNING|PANIC|TRAP|ERROR:(?!.*division by zero)/, "$what: nothing odd in the log");
	$logged = -s $node->logfile;
	return;
}

# A consumer's process: it dies of what says "poison" (and says nothing of what it has from another process). Returns what it
# fetched, as text: attempt:said ...
my $process;
sub work
{
	my ($consumer, $lane, $max) = @_;
	$process //= client();
	my @rows = split /\n/, $process->query_safe("BEGIN; SELECT batch, id, attempt, payload #>> '{}' FROM idem_fetch('$consumer', $max, lane => $lane)");
	my @fetched = map { [ split /\|/ ] } @rows;
	my $said = join ' ', map { "$_->[2]:$_->[3]" } @fetched;
	if ($said =~ /poison/)
	{
		kill_client($process);
		undef $process;
		return $said;
	}
	$process->query_safe("INSERT INTO applied (consumer, id, said) VALUES ('$consumer', $_->[1], '$_->[3]')") for @fetched;
	$process->query_safe("SELECT idem_ack('$consumer', $fetched[0][0])") if @fetched;
	$process->query_safe('COMMIT');
	return $said;
}

# all that there is, and what waits for its turn
sub drain
{
	my ($consumer) = @_;
	sql(<<"EOS") for 1 .. 2;
DO \$\$
DECLARE
	b bigint;
BEGIN
	LOOP
		SELECT max(f.batch) INTO b FROM idem_fetch('$consumer', 100) AS f;
		EXIT WHEN b IS NULL;
		PERFORM idem_ack('$consumer', b);
		COMMIT;
	END LOOP;
	UPDATE idem_parked SET due_at = now() WHERE due_at > now();
END \$\$
EOS
	return;
}

# ---- a message that kills whoever works on it ----

# a key of each lane
sql(q{SELECT idem_subscribe('c', lanes => 2)});
sql(q{SELECT publish('x', 'k' || n) FROM generate_series(1, 50) AS n});
my @key = map { sql("BEGIN; SELECT min(key) FROM idem_fetch('c', lane => $_); ROLLBACK") } 0, 1;
drain('c');
sql(q{SELECT publish(s, '} . $key[0] . q{') FROM unnest('{a,b,poison,d,e}'::text[]) AS s});
is(work('c', 0, 100), '1:a 1:b 1:poison 1:d 1:e', 'a batch with a message that kills');
is(marks(), 1, 'one mark');
my @got;
my @waits;
for my $round (1 .. 20)
{
	# others flow meanwhile
	sql("SELECT publish('other $round', '$key[1]')");
	is(work('c', 1, 100), "1:other $round", "the other lane flows ($round)");
	my $said = work('c', 0, 100);
	push @got, $said if $said ne '';
	last if sql(q{SELECT count(*) FROM idem_consumers WHERE lane = 0 AND consumer = 'c' AND depth = 0 AND parked = 0}) eq '1';

	# one that is to be retried waits for its turn; not here
	push @waits, sql('WITH due AS (UPDATE idem_parked SET due_at = now() WHERE due_at > now() RETURNING due_at) SELECT count(*) FROM due') if $said eq '';
}
is(join(', ', @got), '2:a, 2:b, 2:poison, 3:poison, 4:poison, 5:poison, 1:d 1:e', 'then one by one, and five times that one; what has its key waits');
is(join(' ', @waits), '1 1 1', 'it is parked in between');
is(sql(q{SELECT consumer, attempts, payload #>> '{}', key, error FROM idem_dead_letters}),
	"c|5|poison|$key[0]|the client's connection ended while it worked on this message", 'it is a dead letter');
is(marks(), 0, 'the marks are forgotten');
sql(qq{SELECT publish(s, '$key[0]') FROM unnest('{f,g}'::text[]) AS s});
is(work('c', 0, 100), '1:f 1:g', 'and batches are what they were');
is(sql(q{SELECT said, count(*) FROM applied WHERE said !~ 'other' GROUP BY 1 ORDER BY min(at)}), "a|1\nb|1\nd|1\ne|1\nf|1\ng|1", 'each of the others once, in order');
is(sql(q{SELECT count(*) > 5, count(*) - count(DISTINCT said) FROM applied WHERE said ~ 'other'}), 't|0', 'those of the other lane too');
log_is_clean('poison');

# redriven, and it kills again: five more
my $poison = sql('SELECT id FROM idem_dead_letters');
sql("SELECT idem_redrive('c', $poison)");
@got = ();
for (1 .. 60)
{
	my $said = work('c', 0, 100);
	push @got, $said if $said ne '';
	last if sql('SELECT count(*) FROM idem_dead_letters') eq '1';
	# its turn comes when it is due
	sql('UPDATE idem_parked SET due_at = now() WHERE due_at IS NOT NULL');
}
is(join(', ', @got), '1:poison, 2:poison, 3:poison, 4:poison, 5:poison', 'redriven, it is tried as often again');
is(sql('SELECT attempts FROM idem_dead_letters'), 5, 'and is a dead letter again');
is(marks(), 0, 'without marks');

# nacked before, and among others that are due: it counts on from there
sql(q{DELETE FROM idem_parked});
sql(q{SELECT publish('p', '} . $key[0] . q{'), publish('q'), publish('r')});
sql(q{DO $$ DECLARE m record; BEGIN
	FOR i IN 0 .. 1 LOOP
		FOR m IN SELECT * FROM idem_fetch('c', lane => i) LOOP
			PERFORM idem_nack('c', m.batch, m.id, 'failed', '0');
		END LOOP;
		IF m.batch IS NOT NULL THEN PERFORM idem_ack('c', m.batch); END IF;
		m := NULL;
	END LOOP; END $$});
sql(q{UPDATE idem_parked SET slot = (SELECT slot FROM idem_parked WHERE key IS NOT NULL), payload = CASE WHEN key IS NULL THEN payload ELSE '"poison"' END});
@got = ();
for (1 .. 60)
{
	my $said = work('c', 0, 100);
	push @got, $said if $said ne '';
	last if sql('SELECT count(*) FROM idem_dead_letters') eq '1';
	sql('UPDATE idem_parked SET due_at = now() WHERE due_at IS NOT NULL');
}
is(join(', ', grep { /poison/ } @got), '2:poison 2:q 2:r, 3:poison, 4:poison, 5:poison', 'a message that was nacked once kills four, also in a batch of retries');
sql(qq{SELECT publish('next', '$key[0]')});
drain('c');
is(marks(), 0, 'no mark is left');
is(sql(q{SELECT count(*) FROM applied WHERE said IN ('q', 'r')}), 2, 'those that were with it are applied');
is(sql('SELECT count(*) FROM idem_parked'), 1, 'and nothing is parked but the dead letter');
sql('DELETE FROM idem_parked');

# a transaction with several batches: what is known of the later ones is one kill, not one a batch
sql(qq{SELECT publish(s, '$key[0]') FROM unnest('{1,2,3,4,5,poison}'::text[]) AS s});
my $many = client();
$many->query_safe('BEGIN');
for (1 .. 6)
{
	my ($batch) = split /\|/, $many->query_safe(q{SELECT batch FROM idem_fetch('c', 1, lane => 0)});
	$many->query_safe("SELECT idem_ack('c', $batch)");
}
kill_client($many);
is(sql('SELECT messages FROM idem_attempts'), 6, 'one mark for them all');
is(join(', ', map { work('c', 0, 1) } 1 .. 6), '2:1, 2:2, 2:3, 2:4, 2:5, 2:poison', 'each has been tried once before');
is(marks(), 2, 'the last has one of its own now');
sql('DELETE FROM idem_parked') if work('c', 0, 1) eq ''; # it was parked
sql(qq{SELECT publish('next', '$key[0]')});
drain('c');
is(marks(), 0, 'and none is left');
sql(qq{SELECT publish(s, '$key[0]') FROM unnest('{1,2,3,4,5,6,7,8,9,10,11,poison}'::text[]) AS s});
$many = client();
$many->query_safe('BEGIN');
for (1 .. 6)
{
	my ($batch) = split /\|/, $many->query_safe(q{SELECT max(batch) FROM idem_fetch('c', 2, lane => 0)});
	$many->query_safe("SELECT idem_ack('c', $batch)");
}
kill_client($many);
@got = map { work('c', 0, 2) } 1 .. 12;
is(join(', ', @got[0, 1, 6 .. 11]), '2:1, 2:2, 2:7, 2:8, 2:9, 2:10, 2:11, 2:poison', 'also when it was one of several');
sql('DELETE FROM idem_parked') if work('c', 0, 1) eq '';
sql(qq{SELECT publish('next', '$key[0]')});
drain('c');
is(marks(), 0, 'and none is left');
log_is_clean('retries');
$process->quit if $process;

# ---- what leaves a mark, and what does not ----

sql(q{SELECT idem_subscribe('m'), idem_subscribe('n'), idem_subscribe('x', external => true)});
my $fetch = q{SELECT count(*) FROM idem_fetch('m', 2)};
my $ack = q{SELECT idem_ack('m', (SELECT batch FROM b))};
my $fetch_b = q{DROP TABLE IF EXISTS b; CREATE TEMP TABLE b AS SELECT max(batch) AS batch FROM idem_fetch('m', 2)};
for (
	[ 'while it works on the batch', 1, 'BEGIN', $fetch ],
	[ 'in a failed transaction', 1, 'BEGIN', $fetch, 'SELECT 1/0' ],
	[ 'in a savepoint', 1, 'BEGIN; SAVEPOINT s', $fetch ],
	[ 'after a savepoint', 1, 'BEGIN; SAVEPOINT s', $fetch, 'RELEASE s' ],
	[ 'in a failed savepoint', 1, 'BEGIN; SAVEPOINT s', $fetch, 'SELECT 1/0' ],
	[ 'before a failed savepoint', 1, 'BEGIN', $fetch, 'SAVEPOINT s', 'SELECT 1/0' ],
	[ 'after the ack', 1, 'BEGIN', $fetch_b, $ack ],
	[ 'after the ack of two batches', 1, 'BEGIN', $fetch_b, $ack, $fetch_b, $ack ],
	[ 'with batches of two consumers', 2, 'BEGIN', $fetch, q{SELECT count(*) FROM idem_fetch('n')} ],
	[ 'after the savepoint was rolled back', 0, 'BEGIN; SAVEPOINT s', $fetch, 'ROLLBACK TO s' ],
	[ 'after the failed savepoint was rolled back', 0, 'BEGIN; SAVEPOINT s', $fetch, 'SELECT 1/0', 'ROLLBACK TO s' ],
	[ 'in a failed savepoint after another', 0, 'BEGIN; SAVEPOINT s', $fetch, 'ROLLBACK TO s', 'SELECT 1/0' ],
	[ 'after ROLLBACK', 0, 'BEGIN', $fetch, 'ROLLBACK' ],
	[ 'after ROLLBACK of a failed transaction', 0, 'BEGIN', $fetch, 'SELECT 1/0', 'ROLLBACK' ],
	[ 'in the next transaction, which fails', 0, 'BEGIN', $fetch, 'ROLLBACK', 'BEGIN', 'SELECT 1/0' ],
	[ 'after COMMIT', 0, 'BEGIN', $fetch_b, $ack, 'COMMIT' ],
	[ 'after COMMIT, in a failed transaction', 0, 'BEGIN', $fetch_b, $ack, 'COMMIT', 'BEGIN', 'SELECT 1/0' ],
	[ 'without a batch', 0, 'BEGIN', q{SELECT count(*) FROM idem_fetch('n', lane => 0) WHERE false} ],
	[ 'with an external consumer', 0, q{SELECT count(*) FROM idem_fetch('x')}, 'BEGIN', q{SELECT count(*) FROM idem_fetch('x')} ],)
{
	my ($what, $expected, @statements) = @$_;
	drain($_) for qw(m n);
	sql(q{SELECT publish('x') FROM generate_series(1, 4)}) unless $what eq 'without a batch';
	my $session = client();
	$session->query($_) for @statements;
	kill_client($session);
	is(marks(), $expected, "killed $what: $expected");
	drain($_) for qw(m n);
	is(marks(), 0, '... and forgotten when it is through');
}

# prepared: it is in nobody's hands
sql(q{SELECT publish('x')});
my $session = client();
$session->query_safe($_) for 'BEGIN', q{SELECT idem_ack('m', max(batch)) FROM idem_fetch('m', 2)}, q{PREPARE TRANSACTION 'p'};
kill_client($session);
is(marks(), 0, 'killed after PREPARE TRANSACTION: 0');
sql(q{ROLLBACK PREPARED 'p'});

# it says good-bye within the transaction, as a pooler does for a client that has died
$session = client();
$session->query_safe("BEGIN; $fetch");
$session->quit;
gone($session);
is(marks(), 1, 'a client that closes its connection');
drain('m');

sql(q{SELECT publish('x')});
$session = client();
$session->query("SET idle_in_transaction_session_timeout = '10ms'; BEGIN; $fetch"); # psql may have read that it is over
gone($session);
is(marks(), 1, 'idle_in_transaction_session_timeout');
eval { $session->quit };
drain('m');

sql(q{SELECT publish('x')});
$session = client();
$session->query_safe("BEGIN; $fetch");
sql("SELECT pg_terminate_backend($session->{pid})");
gone($session);
is(marks(), 0, 'pg_terminate_backend() leaves none');
eval { $session->quit };

# ---- clients that survive ----

sql(q{SELECT publish(s) FROM unnest('{a,b,c}'::text[]) AS s});
$session = client();
$session->query_safe(q{BEGIN; SET LOCAL idem.client = 'me'; SELECT count(*) FROM idem_fetch('m')});
kill_client($session);
is(sql('SELECT messages, client FROM idem_attempts'), '4|me', 'the mark says who it was');
is(sql(q{BEGIN; SET LOCAL idem.client = 'me'; SELECT count(*), max(attempt) FROM idem_fetch('m'); ROLLBACK}), '4|1', 'who comes back under that name lives');
is(sql(q{BEGIN; SET LOCAL idem.client = 'you'; SELECT count(*), max(attempt) FROM idem_fetch('m'); ROLLBACK}), '1|2', 'others are careful');
is(sql(q{BEGIN; SELECT count(*), max(attempt) FROM idem_fetch('m'); ROLLBACK}), '1|2', 'and those without a name');
$session = client();
$session->query_safe(q{BEGIN; SET LOCAL idem.client = 'me'; SELECT count(*) FROM idem_fetch('m')});
kill_client($session);
is(sql(q{SELECT sum(messages) FROM idem_attempts}), 8, 'it has lost them twice');
is(sql(q{BEGIN; SET LOCAL idem.client = 'you'; SELECT count(*), max(attempt) FROM idem_fetch('m'); ROLLBACK}), '1|2', 'which says no more of one of them');
sql(q{BEGIN; SET LOCAL idem.client = 'me'; SELECT count(idem_ack('m', batch)) FROM (SELECT max(batch) AS batch FROM idem_fetch('m')) AS f; COMMIT});
is(marks(), 0, 'what the survivor had at a time is through');
sql(q{SELECT publish('x'), publish('x')});
$session = client();
$session->query_safe(q{BEGIN; SELECT count(*) FROM idem_fetch('m')});
kill_client($session);
is(sql(q{BEGIN; SELECT max(attempt) FROM idem_fetch('m'); ROLLBACK}), '2', 'no name is not a name');
drain('m');
is(marks(), 0, 'forgotten');

# ---- unsubscribe, seek ----

for my $verb (q{idem_seek('m', now() - interval '1 hour')}, q{idem_unsubscribe('m')})
{
	sql(q{SELECT publish('x') FROM generate_series(1, 10)});
	$session = client();
	$session->query_safe("BEGIN; $fetch");
	kill_client($session);
	is(marks(), 1, 'a mark');
	sql("SELECT $verb");
	is(marks(), 0, "$verb: is gone");
	is(sql(q{BEGIN; SELECT count(*) > 1 FROM idem_fetch('m'); ROLLBACK}), 't', '... and batches are what they were') if $verb =~ /seek/;
}
sql(q{SELECT idem_subscribe('m')});
log_is_clean('marks');

# ---- nothing is waited for ----

sub quickly
{
	my ($what, $expected, $session) = @_;
	my $since = time;
	kill_client($session);
	cmp_ok(time - $since, '<', 10, "$what: the backend exits at once");
	is(marks(), $expected, "$what: $expected marks") if defined $expected;
	return;
}

for my $how ('', 'VACUUM idem_attempts', 'ALTER TABLE idem_parked SET (fillfactor = 90)')
{
	sql(q{SELECT publish('x')});
	my $locker = client();
	$session = client();
	$session->query_safe("BEGIN; $fetch");
	sql($how) if $how; # what the session knows of the tables is not valid any more
	$locker->query_safe('BEGIN; LOCK TABLE idem_attempts, idem_parked IN ACCESS EXCLUSIVE MODE');
	my $since = time;
	end($session, 'KILL');
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $session->{pid}") or die 'the backend stays';
	cmp_ok(time - $since, '<', 10, "tables locked, $how: the backend exits at once");
	$locker->query_safe('ROLLBACK');
	$locker->quit;
	is(marks(), 0, 'and leaves no mark');
	drain('m');
}

# not in the way: an invalidation alone
sql(q{SELECT publish('x')});
$session = client();
$session->query_safe("BEGIN; $fetch");
sql('VACUUM idem_attempts');
quickly('vacuumed', 1, $session);
drain('m');

sql(q{SELECT publish('x')});
$session = client();
$session->query_safe("BEGIN; $fetch");
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = 'nobody'});
quickly('no standby', 1, $session);
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = ''});
drain('m');

# how the session begins transactions
sql(q{SELECT publish('x')});
$session = client();
$session->query_safe(<<"EOS");
SET default_transaction_isolation = serializable; SET default_transaction_read_only = on; SET default_transaction_deferrable = on;
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; $fetch
EOS
my $other = client();
$other->query_safe('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM applied');
quickly('read-only by default', 1, $session);
$other->quit;
drain('m');

sql(q{CREATE DATABASE gone});
$node->safe_psql('gone', q{CREATE EXTENSION idem; SELECT idem_subscribe('m'); SELECT idem_publish('t', '1')});
$session = $node->background_psql('gone', on_error_stop => 0);
$session->{pid} = $session->query_safe('SELECT pg_backend_pid()');
$session->query_safe("BEGIN; $fetch");
$node->safe_psql('gone', 'DROP EXTENSION idem');
quickly('the extension is dropped', undef, $session);
log_is_clean('waits');
is((() = slurp_file($node->logfile) =~ /FATAL:/g), 2, 'and the only backends that failed are those that were to');

# ---- the server goes ----

sql(q{SELECT publish('x') FROM generate_series(1, 3)});
my $ready = qr/database system is ready to accept connections/;
my $position = q{SELECT max(n) FROM idem_positions WHERE consumer = 'm'};
my %stop = (
	'a crash' => sub { $node->stop('immediate'); $node->start },
	'a fast shutdown' => sub { $node->stop('fast'); $node->start },
	'a backend killed' => sub {
		my $offset = -s $node->logfile;
		kill 'KILL', $_[0];
		$node->wait_for_log($ready, $offset);
	},
	'the postmaster killed' => sub {
		my ($pid) = @_;
		# somebody who goes on, and writes to disk whatever is committed meanwhile
		my $busy = client();
		$busy->query_until(qr/busy/, <<'EOS');
\echo busy
DO $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	WHILE clock_timestamp() < began + interval '1 s' LOOP
		PERFORM pg_current_xact_id();
		COMMIT;
	END LOOP;
END $$;
EOS
		kill 'KILL', $node->{_pid};
		# the backend finds out by itself
		for my $backend ($pid, $busy->{pid}) { usleep(20_000) while kill 0, $backend; }
		eval { $busy->quit };
		$node->{_pid} = undef;
		for (1 .. 100)
		{
			last if $node->start(fail_ok => 1);
			usleep(100_000);
		}
	});
for my $round (1 .. 8)
{
	for my $how (sort keys %stop)
	{
		$session = client();
		$session->query_safe('BEGIN; CREATE TEMP TABLE t AS SELECT 1'); # something to be written, should it be
		$session->query_safe($round % 2 ? $fetch : "$fetch; SAVEPOINT s");
		$session->query('SELECT 1/0') if $round == 3;
		$stop{$how}->($session->{pid});
		eval { $session->quit };
		is(marks(), 0, "$how ($round): no mark") or sql('DELETE FROM idem_attempts');
	}
}
is(sql(q{BEGIN; SELECT count(*), max(attempt) FROM idem_fetch('m'); ROLLBACK}), '3|1', 'after all that no message is suspect');
is(sql('SELECT count(*) FROM idem_dead_letters'), 0, 'nor dead');

# a mark that is there survives
$session = client();
$session->query_safe("BEGIN; $fetch");
kill_client($session);
sql('CHECKPOINT');
$node->restart;
is(marks(), 1, 'a mark survives a restart');
drain('m');
is(marks(), 0, 'and is forgotten');
drain($_) for qw(c n);
is(sql('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');
$node->stop;
done_testing();
