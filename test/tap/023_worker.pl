# The library preloaded: the server does the upkeep of every database that has the extension, as the roles that deadlines
# belong to, through errors, crashes and locks, and is in nobody's way; counters are kept, through rollbacks.
use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = PostgreSQL::Test::Cluster->new('worker');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'EOT');
shared_preload_libraries = 'idem'
idem.naptime = 1s
idem.claim_wait = 200ms
max_worker_processes = 8
max_connections = 60
shared_buffers = 16MB
restart_after_crash = on
log_statement = none
EOT
$node->start;

sub sql { my ($database, $sql, %more) = @_; return $node->safe_psql($database, $sql, %more); }

# until the query is true there
sub reached
{
	my ($database, $query, $what) = @_;
	ok($node->poll_query_until($database, $query), $what);
}

# the launcher comes to the database, from now on
sub comes
{
	my ($database, $what) = @_;
	my $now = sql($database, 'SELECT clock_timestamp()');
	reached($database, "SELECT coalesce(maintained_at > '$now', false) FROM idem_stats", $what);
}

sub log_since { return substr(slurp_file($node->logfile), $_[0]); }

my $launcher = q{FROM pg_stat_activity WHERE backend_type = 'idem launcher'};
my $named = sql('postgres', 'SHOW server_version_num') >= 170000;

sql('postgres', 'CREATE ROLE app LOGIN');
sql('postgres', "CREATE DATABASE $_") for qw(one two bare);
for my $database (qw(one two))
{
	sql($database, <<'EOT');
CREATE EXTENSION idem;
SELECT idem_grant('app', 'app');
CREATE TABLE ledger (key text, whom text DEFAULT session_user, backend text);
GRANT ALL ON ledger TO app;
CREATE FUNCTION refund(args jsonb) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
	INSERT INTO ledger (key, backend) VALUES (args ->> 'key', (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()));
	PERFORM pg_sleep((args ->> 'sleep')::float8);
END $$;
CREATE FUNCTION answer(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN ASSERT request <> '"fail"'; RETURN request; END$$;
-- an order whose deadline was over before it began
CREATE FUNCTION place(key text, sleep float8 = 0) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key);
	PERFORM idem_compensate_with(key, 'refund(jsonb)', jsonb_build_object('key', key, 'sleep', sleep), deadline => '1 us');
	PERFORM idem_complete(key, '1');
END $$;
EOT
}

# an order that keeps a worker busy until it is ended
my $orders = 0;

sub keep_busy
{
	my ($database) = @_;
	$orders++;
	sql($database, "SELECT place('busy $orders', 600)", extra_params => [ '-U', 'app' ]);
	reached($database, q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type IN ('idem maintenance', 'idem deadlines') AND datname = current_database()},
		"workers are busy in $database");
}

# the worker may be at it again
sub stop_busy
{
	my ($database) = @_;
	for (1 .. 20)
	{
		sql($database, q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'idem deadlines' AND datname = current_database()});
		return if $node->psql($database, q{SELECT idem_confirm(key) FROM idem_compensations WHERE state = 'overdue'}) == 0;
	}
	die "the workers in $database do not stop";
}

# ---- it goes by itself ----

reached('postgres', "SELECT count(*) = 1 $launcher AND datname IS NULL AND wait_event_type = 'Extension' AND wait_event = '@{[ $named ? 'IdemLauncherNap' : 'Extension' ]}'",
	'there is a launcher, in no database, and its wait has a name');
sql('one', q{ALTER DATABASE one SET idem.key_ttl = '1s'; UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys'});
sql('one', q{SELECT idem_claim('expires'), idem_complete('expires', '1')});
reached('one', q{SELECT count(*) = 0 FROM (SELECT key FROM idem_keys_0 UNION ALL SELECT key FROM idem_keys_1 UNION ALL SELECT key FROM idem_keys_2) AS k WHERE key = 'expires'},
	'rings turn, by the settings of the database');
comes('two', 'the other database has its turn');
sql('two', q{SELECT place('due')}, extra_params => [ '-U', 'app' ]);
reached('two', q{SELECT state = 'compensated' FROM idem_compensations WHERE key = 'due'}, 'deadlines are kept');
is(sql('two', 'SELECT key, whom, backend FROM ledger'), 'due|app|idem deadlines', 'by a session of who registered the handler');
sql('two', q{ALTER DATABASE two SET default_transaction_isolation = serializable});
comes('two', 'also where transactions are serializable by default');
sql('two', q{ALTER DATABASE two SET default_transaction_read_only = on});
comes('one', 'where they are read-only by default: once no worker is left that has not seen it,');
sql('two', q{SET default_transaction_read_only = off; SELECT place('not now')}, extra_params => [ '-U', 'app' ]);
my $untouched = sql('two', 'SELECT maintained_at FROM idem_stats');
comes('one', "round $_ after that") for 1, 2;
is(sql('two', 'SELECT maintained_at FROM idem_stats'), $untouched, 'has no upkeep there');
is(sql('two', q{SELECT state FROM idem_compensations WHERE key = 'not now'}), 'overdue', 'and calls no handler');
sql('two', 'SET default_transaction_read_only = off; ALTER DATABASE two RESET ALL');
reached('two', q{SELECT state = 'compensated' FROM idem_compensations WHERE key = 'not now'}, 'until they no longer are');
unlike(slurp_file($node->logfile), qr/ERROR|FATAL|WARNING|idem maintenance/, 'of which the log does not speak');

# ---- counters ----

my $counted = q{claims, replays, mismatches, in_progress, cancelled, waits, refused_transitions, cancellations, published, fetched, nacks, dead_letters, consumed, duplicates};
sql('two', 'SELECT idem_stats_reset()');
is(sql('two', "SELECT $counted, retry_ratio, missing FROM idem_stats"), '0|0|0|0|0|0|0|0|0|0|0|0|0|0||', 'after idem_stats_reset()');
my $before = sql('one', "SELECT $counted FROM idem_stats");
sql('two', <<'EOT');
SELECT idem_claim('a', '1'), idem_complete('a', '1');
SELECT idem_claim('a', '1');
SELECT idem_claim('a', '1');
SELECT idem_claim('a', '2');
BEGIN; SELECT idem_claim('b'); ROLLBACK;
BEGIN; SELECT idem_claim('b'); SAVEPOINT s; SELECT idem_publish('t', '1', 'k'); ROLLBACK TO s; ROLLBACK;
SELECT idem_cancel('none'); SELECT idem_claim('none');
BEGIN; SELECT idem_claim('c'); SELECT idem_compensate_with('c', 'refund(jsonb)', '{"sleep": 0}'); SELECT idem_complete('c', '1'); COMMIT;
SELECT idem_cancel('c'); SELECT idem_cancel('c');
SELECT idem_subscribe('c'), idem_subscribe('x', external => true);
SELECT idem_publish('t', '1', 'k'); INSERT INTO idem_outbox (topic, payload) VALUES ('t', '2'), ('t', '3');
BEGIN; SELECT FROM idem_fetch('c'); ROLLBACK;
BEGIN; SELECT batch, min(id) AS id FROM idem_fetch('c') GROUP BY 1 \gset
SELECT idem_nack('c', :batch, :id, 'bad', '0'), idem_ack('c', :batch); COMMIT;
SET idem.max_attempts = 2;
BEGIN; SELECT batch, min(id) AS id FROM idem_fetch('c') GROUP BY 1 \gset
SELECT idem_nack('c', :batch, :id, 'bad'), idem_ack('c', :batch); COMMIT;
SELECT idem_consume('s', '1'); SELECT idem_consume('s', '1'); SELECT idem_consume_seq('s', 0, 1); SELECT idem_consume_seq('s', 0, 1); SELECT idem_consume_seq('s', 0, 3);
SELECT idem_guard_topic('g', 'order');
DO $$BEGIN PERFORM idem_publish('g', '1', 'k', 'paid'); EXCEPTION WHEN SQLSTATE 'ID012' THEN END$$;
SELECT idem_publish('g', '1', 'k', 'created'), idem_publish('g', '1', 'k', 'created');
SELECT idem_execute('answer(jsonb)', 'e', '1'); SELECT idem_execute('answer(jsonb)', 'e', '1');
-- those that are given twice: a replay, a mismatch, a replay; of one that failed nothing; in progress
SELECT idem_execute_many('answer(jsonb)', '{f,f,f,f,g,g,h}', '{1,1,2,1,"\"fail\"","\"fail\"",1}');
BEGIN; SELECT idem_claim_many('{i,i}'); ROLLBACK;
EOT
my $holder = $node->background_psql('two');
$holder->query_safe(q{BEGIN; SELECT FROM idem_claim('held')});
sql('two', q{SELECT idem_claim('held', wait => '0')});
sql('two', q{SELECT idem_claim('held', wait => '10 ms')});
$holder->query_safe('ROLLBACK');
$holder->quit;
is(sql('two', "SELECT $counted, retry_ratio, missing FROM idem_stats"), '10|5|2|3|1|1|1|2|5|7|2|1|2|2|0.3333|', 'each counts what it says, rolled back or not');
is(sql('one', "SELECT $counted FROM idem_stats"), $before, 'in its own database');
sql('two', q{CREATE ROLE dba LOGIN; SELECT idem_grant('dba', 'dba')});
is(sql('two', 'SELECT claims FROM idem_stats; SELECT idem_stats_reset(); SELECT claims FROM idem_stats', extra_params => [ '-U', 'dba' ]), "10\n\n0", 'for a dba, who may reset them');
isnt($node->psql('two', 'SELECT idem_stats_reset()', extra_params => [ '-U', 'app' ]), 0, 'an app may not');
{
	my $script = $node->basedir . '/count.sql';
	append_to_file($script, "SELECT idem_claim('a', '1');\n");
	command_ok([ 'pgbench', '-nc8', '-t250', '-f', $script, '-p', $node->port, '-h', $node->host, 'two' ], 'eight at once');
	is(sql('two', 'SELECT replays FROM idem_stats'), 2000, 'are counted without loss');
}

# ---- beside 32 clients, while tables turn every second ----

{
	my $script = $node->basedir . '/work.sql';
	append_to_file($script, <<'EOT');
\set k random(1, 2000)
SELECT idem_execute('answer(jsonb)', 'work ' || :k, '1');
SELECT idem_publish('work', '1', 'key ' || :k), idem_consume('work', :k::text);
BEGIN;
SELECT coalesce(max(batch), 0) AS batch, count(*) AS n FROM idem_fetch('worker', 10) \gset
\if :n
SELECT idem_ack('worker', :batch);
\endif
COMMIT;
EOT
	sql('one', q{SELECT idem_subscribe('worker', '{work}', 8)});
	my $offset = -s $node->logfile;
	my $step = sql('one', q{SELECT step FROM idem_ring WHERE store = 'keys'});
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run [ 'pgbench', '-nc32', '-j2', '-T6', '-f', $script, '-p', $node->port, '-h', $node->host, 'one' ], '>', \$out, '2>', \$err;
	ok($ok, '32 clients and the worker') or diag($err);
	like($out, qr/number of failed transactions: 0 /, 'no transaction fails');
	cmp_ok(sql('one', q{SELECT step FROM idem_ring WHERE store = 'keys'}) - $step, '>=', 2, 'though the ring turned meanwhile');
	unlike(substr(slurp_file($node->logfile), $offset), qr/ERROR|FATAL|WARNING/, 'and the log is quiet');
	sql('one', q{SELECT idem_unsubscribe('worker')});
	is(sql('one', 'SELECT * FROM idem_verify()'), '', 'all is well');
}

# ---- databases that take no connections, or are nobody's business ----

sql('postgres', 'CREATE DATABASE model TEMPLATE two IS_TEMPLATE true');
sql('postgres', 'CREATE DATABASE closed TEMPLATE two ALLOW_CONNECTIONS false');
sql('postgres', 'CREATE DATABASE dropped TEMPLATE two');
sql('postgres', q{UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'dropped'}); # as an interrupted DROP leaves it
my $quiet = -s $node->logfile;
for (1 .. 3)
{
	comes('two', 'passed over: a template, one that allows no connections, one that is half dropped');
	comes('one', '... by and by');
}
is(sql('model', 'SELECT maintained_at FROM idem_stats'), '', 'nobody came to the template');
unlike(log_since($quiet), qr/ERROR|FATAL|WARNING|PANIC/, 'and the log does not speak of them');
sql('postgres', 'ALTER DATABASE model IS_TEMPLATE false; ALTER DATABASE closed ALLOW_CONNECTIONS true; DROP DATABASE dropped');
comes('model', 'no template any more');
comes('closed', 'and that allows connections: they have their turn');
sql('postgres', "DROP DATABASE $_") for qw(model closed);

# ---- what goes wrong in one database is left to the next round, and is not the others' concern ----

my $pid = sql('postgres', "SELECT pid $launcher");
my $offset = -s $node->logfile;
sql('one', 'UPDATE idem_ring SET current = current + 3');
$node->wait_for_log(qr/ERROR:.* idem_ring names generation \d of store "keys" as current/, $offset);
comes('two', 'an error in one database: the other has its turn');
sql('one', 'UPDATE idem_ring SET current = current - 3');
comes('one', 'once mended, it has its own');
my $locker = $node->background_psql('one');
$locker->query_safe('BEGIN; LOCK TABLE idem_ring');
$offset = -s $node->logfile;
$node->wait_for_log(qr/ERROR:.*lock timeout/, $offset);
comes('two', 'a table that is locked: likewise');
$locker->query_safe('COMMIT');
$locker->quit;
comes('one', 'until it is free');
is(sql('postgres', "SELECT pid $launcher"), $pid, 'all that time it was the same launcher');

# a handler that does not end
$offset = -s $node->logfile;
keep_busy('one');
is(sql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'idem maintenance'}), 1, 'one worker at a time');
is(sql('one', q{SELECT lower(wait_event) FROM pg_stat_activity WHERE backend_type = 'idem maintenance'}), 'bgworkershutdown', 'it waits for its deadlines');
reached('one', "SELECT wait_event = '@{[ $named ? 'IdemLauncherWorker' : 'Extension' ]}' $launcher", 'and the launcher for it');
comes('two', 'a handler that does not end: the other database has its turn all the same');
like(log_since($offset), qr/LOG: .*upkeep of database "one" took longer than 10 s and was broken off/, 'the log tells');
is(sql('one', q{SELECT count(*) FROM ledger WHERE key ~ '^busy'}), 0, 'what was broken off is undone');
stop_busy('one');
comes('one', 'and it goes on');

# ---- processes that die ----

sql('postgres', "SELECT pg_terminate_backend(pid) $launcher");
reached('postgres', "SELECT count(*) = 1 $launcher AND pid <> $pid", 'a launcher that is ended comes back');
comes('one', 'and does its work');
my $since = sql('one', 'SELECT since FROM idem_stats');
keep_busy('one');
$pid = sql('one', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'idem maintenance'});
kill 'KILL', $pid;
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $launcher"), 'a worker is killed, and the server restarts: the launcher is there');
stop_busy('one');
comes('one', 'and does its work');
comes('two', 'everywhere');
is(sql('one', "SELECT since > '$since', claims FROM idem_stats"), 't|0', 'counters began anew');

# ---- in nobody's way ----

sql('postgres', 'CREATE DATABASE three TEMPLATE one');
comes('three', 'a new database');
keep_busy('three');
my $began = time;
sql('postgres', 'DROP DATABASE three');
cmp_ok(time - $began, '<', 5, 'DROP DATABASE ends the workers in it');
comes('one', 'and the launcher goes on');
keep_busy('one');
sql('postgres', 'CREATE DATABASE three TEMPLATE one');
stop_busy('one');
stop_busy('three');
sql('postgres', 'ALTER DATABASE three RENAME TO four; DROP DATABASE four');

sql('one', 'CHECKPOINT');
keep_busy('one');
$began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 10, 'a fast shutdown does not wait for workers');
$node->append_conf('postgresql.conf', "idem.naptime = 1h\n");
$node->start;
stop_busy('one');

# ---- a new naptime holds at once; a library that is too old says what helps; too few background workers ----

reached('postgres', "SELECT count(*) = 1 $launcher AND wait_event = '@{[ $named ? 'IdemLauncherNap' : 'Extension' ]}'", 'the launcher has begun to rest for an hour');
$node->append_conf('postgresql.conf', "idem.naptime = 1s\n");
$node->reload;
comes('one', 'a shorter idem.naptime holds at once');
sql('one', 'ALTER TABLE idem_pinned ADD COLUMN new int');
my $err;
$node->psql('one', q{SELECT idem_claim('x')}, stderr => \$err);
like($err, qr/HINT: .*Restart the server/, 'another layout: reconnecting would not help');
sql('one', 'DROP EXTENSION idem CASCADE; CREATE EXTENSION idem');
comes('one', 'the extension is made anew');
$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->restart;
$node->wait_for_log(qr/WARNING: .*no background worker left for the upkeep of database.*\n.*\n.*HINT: .*max_worker_processes/);
pass('too few background workers: the log says what to do');
$node->append_conf('postgresql.conf', "max_worker_processes = 8\nidem.naptime = 1h\n");
$node->restart;

# ---- a standby rests until it is promoted ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "idem.naptime = 1s\n");
$standby->start;
sql('one', q{ALTER DATABASE one SET idem.key_ttl = '1s'; UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys'});
sql('one', q{SELECT idem_claim('expires'), idem_complete('expires', '1')});
$node->wait_for_catchup($standby);
sleep 3;
is($standby->safe_psql('one', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'idem%'"), 0, 'on a standby nobody is at work');
is($standby->safe_psql('one', 'SELECT claims, missing FROM idem_stats'), '0|', 'though it counts');
$standby->promote;
ok($standby->poll_query_until('one', q{SELECT count(*) = 0 FROM (SELECT key FROM idem_keys_0 UNION ALL SELECT key FROM idem_keys_1 UNION ALL SELECT key FROM idem_keys_2) AS k WHERE key = 'expires'}),
	'promoted, it is');
$standby->stop;

# ---- more databases than have counters ----

sql('two', 'SELECT FROM idem_stats');
sql('postgres', "CREATE DATABASE many_$_ TEMPLATE one STRATEGY file_copy") for 1 .. 64;
my @without = grep { sql("many_$_", 'SELECT missing IS NOT NULL FROM idem_stats') eq 't' } 1 .. 64;
cmp_ok(scalar(@without), '>=', 1, 'there are more databases than counters');
my $last = "many_$without[-1]";
is(sql($last, q{SELECT (idem_claim('x', wait => '0')).status, idem_complete('x', '1'); SELECT claims, missing FROM idem_stats}),
	"claimed|1\n|all: 64 other databases of this server have counters", 'one without works, and says so');
$node->psql($last, 'SELECT idem_stats_reset()', stderr => \$err);
like($err, qr/there are no counters.*HINT: .*Drop databases/s, 'there is nothing to reset');
sql('postgres', 'DROP DATABASE many_1');
is(sql($last, q{SELECT (idem_claim('x')).status; SELECT replays, missing FROM idem_stats}), "completed\n1|", 'it takes the place of one that was dropped');
is(sql('many_2', 'SELECT claims FROM idem_stats'), 0, 'and nobody else\'s');

$node->stop;
done_testing();
