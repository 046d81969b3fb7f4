# Deadlines: a background worker connected as the registrant cancels what is past its deadline, one key a transaction; what
# fails stays and stands in nobody's way; a crash amid loses nothing and does nothing twice; dump and restore carry it all.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('deadline');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 8\nmax_prepared_transactions = 2\nlog_statement = none\n");
$node->start;
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');

sub sql { my ($sql, %more) = @_; return $node->safe_psql('postgres', $sql, %more); }

# CALL idem_maintain(), and what it warns of
sub maintain
{
	my ($out, $err);
	is($node->psql('postgres', 'CALL idem_maintain()', stdout => \$out, stderr => \$err), 0, 'CALL idem_maintain()');
	return $err;
}

sql(<<'EOT');
CREATE EXTENSION idem;
CREATE ROLE app LOGIN;
CREATE ROLE other LOGIN;
CREATE ROLE nologin;
CREATE ROLE dba LOGIN;
SELECT idem_grant(r, 'app') FROM unnest('{app,other,nologin}'::name[]) AS r;
SELECT idem_grant('dba', 'dba');
CREATE TABLE orders (id text PRIMARY KEY);
CREATE TABLE ledger (n bigserial, key text, amount int, whom text DEFAULT current_user, session text DEFAULT session_user,
	isolation text DEFAULT current_setting('transaction_isolation'), work_mem text DEFAULT current_setting('work_mem'), backend text, xid xid8 DEFAULT pg_current_xact_id(),
	order_id text REFERENCES orders DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE broken (key text);
GRANT ALL ON orders, ledger, ledger_n_seq, broken TO app, other, nologin;
-- fails for keys in broken; writes to a table with a deferred constraint
CREATE FUNCTION refund(args jsonb) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
	IF EXISTS (SELECT FROM broken WHERE key = args ->> 'key') THEN
		RAISE EXCEPTION 'the bank is closed';
	END IF;
	INSERT INTO ledger (key, amount, backend) VALUES (args ->> 'key', -1, (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()));
	PERFORM idem_publish('payments', args, args ->> 'key', 'refund');
	IF args ? 'die' THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
	END IF;
END $$;
CREATE FUNCTION refused(args jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'ID012'; END $$;
-- an order of a role, whose deadline was over before it began
CREATE FUNCTION place(key text, handler regprocedure = 'refund(jsonb)', more jsonb = '{}') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM idem_claim(key);
	INSERT INTO ledger (key, amount) VALUES (key, 1);
	PERFORM idem_compensate_with(key, handler, jsonb_build_object('key', key) || more, deadline => '1 us');
	PERFORM idem_complete(key, '1');
END $$;
CREATE VIEW stands AS SELECT key, sum(amount) AS amount, count(*) AS rows FROM ledger GROUP BY key;
EOT

# the plain call: connected as the registrant, whose handler meets a deferred constraint
sql(q{SELECT place('plain')}, extra_params => [ '-U', 'app' ]);
is(sql(q{SELECT status FROM idem_cancel('plain', 'by itself')}, extra_params => [ '-U', 'app' ]), 'compensated', 'the registrant itself: a deferred constraint is no hindrance');
sql(q{SELECT place('restricted')}, extra_params => [ '-U', 'app' ]);
my ($out, $err);
isnt($node->psql('postgres', q{SELECT status FROM idem_cancel('restricted')}, stdout => \$out, stderr => \$err), 0, 'another role: it is');
like($err, qr/deferred trigger.*HINT: .*SET CONSTRAINTS.*connected as "app"/s, 'and the error says what to do');

# ---- the worker is a session of the registrant ----

sql("SELECT place('a$_')", extra_params => [ '-U', 'app' ]) for 1 .. 3;
sql(q{SELECT place('o1')}, extra_params => [ '-U', 'other' ]);
sql(q{ALTER ROLE other SET default_transaction_isolation = 'serializable'; ALTER ROLE other SET default_transaction_read_only = on; ALTER ROLE other SET work_mem = '5MB'});
is(sql('SELECT state, count(*) FROM idem_compensations GROUP BY 1 ORDER BY 1'), "compensated|1\noverdue|5", 'they are overdue');
is($node->psql('postgres', 'CALL idem_maintain()', extra_params => [ '-U', 'dba' ], stderr => \$err), 0, 'a dba maintains');
is($err, '', 'without a warning');
unlike(slurp_file($node->logfile), qr/could not cancel/, 'and no worker tries what is another role\'s');
is(sql(q{SELECT state, count(*) FROM idem_compensations GROUP BY 1}), 'compensated|6', 'all are compensated');
is(sql(q{SELECT DISTINCT whom, session, isolation, work_mem, backend FROM ledger WHERE amount < 0 AND key <> 'plain' ORDER BY 1}),
	"app|app|read committed|4MB|idem deadlines\nother|other|read committed|5MB|idem deadlines", 'by a worker that is a session of the registrant');
is(sql(q{SELECT count(DISTINCT xid) FROM ledger WHERE amount < 0 AND key <> 'plain'}), '5', 'one key a transaction');
is(sql(q{SELECT count(*) FROM idem_outbox WHERE type = 'refund'}), '6', 'a handler may publish');
is(sql(q{SELECT response ->> 'reason' FROM idem_status('a1')}), 'deadline', 'the reason is kept');
is(sql(q{SELECT status FROM idem_cancel('a1')}), 'already', 'cancelled by hand afterwards');
is(sql(q{SELECT status FROM idem_claim('a1')}), 'cancelled', 'late action after the deadline');

# ---- roles that cannot connect, or are gone ----

sql(q{ALTER ROLE nologin LOGIN; GRANT app TO nologin});
sql(q{SELECT place('n1')}, extra_params => [ '-U', 'nologin' ]);
sql(q{ALTER ROLE nologin NOLOGIN});
if ($version < 170000)
{
	like(maintain(), qr/WARNING: .*role "nologin".*HINT: .*ALTER ROLE nologin LOGIN/s, 'a role without LOGIN: a warning says what to do');
	is(sql(q{SELECT state FROM idem_compensations WHERE key = 'n1'}), 'overdue', 'and the key stays');
	sql(q{ALTER ROLE nologin LOGIN});
}
is(maintain(), '', 'it is cancelled');
is(sql(q{SELECT state FROM idem_compensations WHERE key = 'n1'}), 'compensated', 'as it should');
sql(q{CREATE ROLE gone LOGIN; SELECT idem_grant('gone', 'app'); GRANT ALL ON ledger, ledger_n_seq TO gone});
sql(q{SELECT place('gone')}, extra_params => [ '-U', 'gone' ]);
sql(q{DROP OWNED BY gone; DROP ROLE gone});
like(maintain(), qr/WARNING: .*role "gone".*does not exist/s, 'a role that is gone: a warning');
sql(q{SELECT idem_confirm('gone')});
is(maintain(), '', 'confirmed after its deadline: no longer');
sql(q{REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; SELECT place('no connect')});
sql(q{UPDATE idem_pinned SET handlers = jsonb_set(handlers, '{0,role}', '"other"') WHERE key = 'no connect'});
like(maintain(), qr/WARNING: .*role "other".*1 key is left/s, 'a role that may not connect: a warning');
sql(q{GRANT CONNECT ON DATABASE postgres TO PUBLIC});
is(maintain(), '', 'and the next call does it');

# ---- what fails stays, and stands in nobody's way ----

sql(q{INSERT INTO broken SELECT 'b' || i FROM generate_series(1, 20) AS i});
sql(q{SELECT place('b' || i) FROM generate_series(1, 20) AS i; SELECT place('fine'); SELECT place('no', 'refused(jsonb)')}, extra_params => [ '-U', 'app' ]);
my $offset = -s $node->logfile;
like(maintain(), qr/WARNING: .*role "app".*20 keys are left/s, 'a warning tells how many are left');
is(sql(q{SELECT state, count(*) FROM idem_compensations WHERE key ~ '^b|fine' GROUP BY 1 ORDER BY 1}), "compensated|1\noverdue|20", 'the others are done');
my $log = substr(slurp_file($node->logfile), $offset);
is(scalar(() = $log =~ /could not cancel idempotency key "b\d+" at its deadline: the bank is closed/g), 20, 'the log names each, once a call');
is(sql(q{SELECT state, answer ->> 'reason' FROM idem_compensations JOIN idem_pinned USING (scope, key) WHERE key = 'no'}), 'refused|transition refused', 'the state machine\'s refusal settles a key');
is(sql(q{SELECT status, response ->> 'reason' FROM idem_cancel('no')}), 'refused|transition refused', 'and is the answer from then on');
is(sql(q{SELECT status FROM idem_claim('no')}), 'completed', 'what was done stands');
is(sql(q{SELECT count(*) FROM idem_verify()}), '0', 'idem_verify() finds nothing');
sql(q{DELETE FROM broken});
is(maintain(), '', 'the next call does them');
is(sql(q{SELECT count(*) FROM stands WHERE key ~ '^b' AND amount = 0 AND rows = 2}), '20', 'once each');

# more than are read at a time, those that fail first
sql(q{INSERT INTO broken SELECT 'many' || i FROM generate_series(1, 1500) AS i});
sql(q{SELECT place('many' || i) FROM generate_series(1, 1600) AS i}, extra_params => [ '-U', 'app' ]);
like(maintain(), qr/1500 keys are left/, 'failing keys do not starve the others');
is(sql(q{SELECT count(*) FROM stands WHERE key ~ '^many' AND amount = 0 AND rows = 2}), '100', 'all others are done');
sql(q{SELECT idem_confirm('many' || i) FROM generate_series(1, 1500) AS i});

# a row that somebody has locked does not hold up upkeep for ever
$node->append_conf('postgresql.conf', "idem.claim_wait = 100ms\n");
$node->reload;
sql(q{SELECT place('stuck'); SELECT place('not stuck')}, extra_params => [ '-U', 'app' ]);
my $locker = $node->background_psql('postgres');
$locker->query_safe(q{BEGIN; SELECT FROM idem_cancel('claimed'); LOCK TABLE broken});
like(maintain(), qr/2 keys are left/, 'a handler that waits for a lock gives up');
$locker->query_safe('ROLLBACK');
is(maintain(), '', 'until it is free');
# a key in somebody's hands is theirs
sql(q{SELECT place('in hand')}, extra_params => [ '-U', 'app' ]);
$locker->query_safe(q{BEGIN; SELECT idem_confirm('in hand')});
like(maintain(), qr/1 key is left/, 'a key in somebody\'s hands is left to them');
$locker->query_safe('COMMIT');
is(maintain(), '', 'and settled');
$locker->quit;

# settled by somebody between the worker's look and its turn
sql(q{ALTER ROLE app SET lock_timeout = '30s'});
sql("SELECT place('turn $_')", extra_params => [ '-U', 'app' ]) for 1 .. 3;
$locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE broken');
my $call = start [ 'psql', '-Xqd', $node->connstr('postgres'), '-c', 'CALL idem_maintain()' ], '>&', \my $said;
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'idem deadlines' AND wait_event_type = 'Lock'}) or die 'the worker does not wait';
sql(q{SELECT idem_confirm('turn 2')});
$locker->query_safe(q{SET CONSTRAINTS ALL IMMEDIATE; SELECT status FROM idem_cancel('turn 3')});
$locker->query_safe('COMMIT');
$locker->quit;
$call->finish;
is($said, '', 'deadline racing confirm and cancel: nothing is left');
is(sql(q{SELECT key, amount, rows, state FROM stands JOIN idem_compensations USING (key) WHERE key ~ '^turn' ORDER BY 1}),
	"turn 1|0|2|compensated\nturn 2|1|1|confirmed\nturn 3|0|2|compensated", 'who came first has won');
sql(q{ALTER ROLE app RESET lock_timeout});

# a handler that ends its own worker
sql(q{SELECT place('dies', more => '{"die": true}')}, extra_params => [ '-U', 'app' ]);
like(maintain(), qr/1 key is left/, 'a handler that ends its worker');
is(sql(q{SELECT amount, rows FROM stands WHERE key = 'dies'}), '1|1', 'has done nothing');
sql(q{SELECT idem_confirm('dies')});

# no background worker left
sql(q{SELECT place('no worker')}, extra_params => [ '-U', 'app' ]);
$node->append_conf('postgresql.conf', "max_worker_processes = 0\n");
$node->restart;
like(maintain(), qr/no background worker left.*max_worker_processes/s, 'no background worker left: a warning says what to do');
$node->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$node->restart;
is(maintain(), '', 'the next call does it');

# ---- what is told a second time is safe: it was done without waiting for the disk, and the server stops as by a crash ----

$node->append_conf('postgresql.conf', "wal_writer_delay = 10s\n");
$node->reload;
my %repeats = (
	'cancelled already' => [ q{SELECT status FROM idem_cancel($$held$$)}, q{SELECT status FROM idem_cancel($$held$$)}, 'already' ],
	'a tombstone' => [ q{SELECT status FROM idem_cancel($$none$$)}, q{SELECT status FROM idem_cancel($$none$$)}, 'tombstoned' ],
	'a claim of it' => [ q{SELECT status FROM idem_cancel($$none$$)}, q{SELECT status FROM idem_claim($$none$$)}, 'cancelled' ],
	'a refusal' => [ q{SELECT idem_confirm($$held$$)}, q{SELECT status FROM idem_cancel($$held$$)}, 'refused' ],
	'a confirmation' => [ q{SELECT idem_confirm($$held$$)}, q{SELECT idem_confirm($$held$$)}, '' ],
);
for my $case (sort keys %repeats)
{
	my ($first, $again, $answer) = map { s/\$\$(\w+)\$\$/'$1 $case'/r } @{ $repeats{$case} };
	sql("BEGIN; SELECT idem_claim('held $case'); SELECT idem_compensate_with('held $case', 'refund(jsonb)', '{}', deadline => '1 day'); SELECT idem_complete('held $case', '1'); COMMIT; CHECKPOINT");
	sql("SET synchronous_commit = off; $first");
	is(sql($again), $answer, "$case: told again");
	$node->stop('immediate');
	$node->start;
	is(sql("SELECT coalesce((SELECT fate FROM idem_pinned WHERE key = '@{[ $first =~ /(held|none)/ ]} $case'), 'lost')"),
		$first =~ /confirm/ ? 'confirmed' : $first =~ /none/ ? 'tombstone' : 'compensated', "$case: and still true after a crash");
}

# prepared: settled by COMMIT PREPARED, and until then in hand, through a crash
sql(q{SELECT place('prepared')}, extra_params => [ '-U', 'app' ]);
sql(q{BEGIN; SELECT idem_confirm('prepared'); SELECT status FROM idem_cancel('prepared null'); PREPARE TRANSACTION 'both'});
$node->stop('immediate');
$node->start;
like(maintain(), qr/1 key is left/, 'a prepared confirmation holds its key');
is(sql(q{SELECT status FROM idem_cancel('prepared', wait => '0') UNION ALL SELECT status FROM idem_claim('prepared null', wait => '0')}), "in_progress\nin_progress", 'and a prepared cancellation');
sql(q{COMMIT PREPARED 'both'});
is(sql(q{SELECT status FROM idem_cancel('prepared') UNION ALL SELECT status FROM idem_claim('prepared null')}), "refused\ncancelled", 'until it is committed');

# ---- a storm: actions, cancellations, confirmations and deadlines of the same few keys at once, at every isolation level ----

sql(<<'EOT');
CREATE FUNCTION give_back(args jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$INSERT INTO ledger (key, amount) VALUES ($1 #>> '{}', -1)$$;
CREATE FUNCTION act(near int, luck int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	key text := 'storm ' || floor(extract(epoch FROM clock_timestamp()) * 60) + near;
	answer text;
BEGIN
	IF luck < 80 THEN
		SELECT status INTO answer FROM idem_claim(key, wait => '1 s');
		IF answer = 'claimed' THEN
			INSERT INTO ledger (key, amount) VALUES (key, 1);
			PERFORM idem_compensate_with(key, 'give_back(jsonb)', to_jsonb(key), deadline => make_interval(secs => luck / 200.0 + 0.001));
			PERFORM idem_complete(key, '1');
		END IF;
	ELSIF luck < 92 THEN
		SELECT status INTO answer FROM idem_cancel(key, wait => '1 s');
	ELSE
		PERFORM idem_confirm(key);
		answer := 'confirmed';
	END IF;
	IF luck % 7 = 0 THEN
		RAISE 'rolled back';
	END IF;
	RETURN answer;
EXCEPTION WHEN SQLSTATE 'ID013' OR SQLSTATE 'ID014' OR SQLSTATE '55P03' OR raise_exception THEN
	RETURN SQLSTATE;
END $$;
EOT
my @levels = ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
my @storm;
for my $level (@levels)
{
	my $script = $node->basedir . '/' . ($level =~ s/ /_/r) . '.sql';
	append_to_file($script, <<EOT);
\\set luck random(0, 99)
\\set near random(0, 7)
BEGIN ISOLATION LEVEL $level;
SELECT act(:near, :luck);
COMMIT;
EOT
	push @storm, start [ 'pgbench', '-nc3', '-T8', '-R', '120', '--max-tries=0', '-f', $script, '-p', $node->port, '-h', $node->host, '-U', 'app', 'postgres' ], '>&', \my $said;
}
append_to_file($node->basedir . '/maintain.sql', "CALL idem_maintain();\n");
push @storm, start [ 'pgbench', '-nc1', '-T9', '-R', '10', '-f', $node->basedir . '/maintain.sql', '-p', $node->port, '-h', $node->host, 'postgres' ], '>&', \my $maintained;
$_->finish for @storm;
is(join(' ', map { $_->result(0) } @storm), '0 0 0 0', 'a storm: no client met an error');
is( sql(q{SELECT coalesce(k.key, l.key), fate, amount FROM (SELECT * FROM idem_pinned WHERE key ~ '^storm') AS k
		FULL JOIN (SELECT * FROM stands WHERE key ~ '^storm') AS l USING (key)
		WHERE coalesce(amount, 0) <> CASE WHEN fate IN ('held', 'confirmed') THEN 1 ELSE 0 END}), '', 'each key is applied, applied and undone, or never');
is(sql(q{SELECT count(DISTINCT fate), count(*) > 100 FROM idem_pinned WHERE key ~ '^storm' AND fate <> 'held'}), '3|t', 'confirmed, compensated, tombstone: there were all, and many');
cmp_ok(sql(q{SELECT count(*) FROM idem_pinned WHERE key ~ '^storm' AND answer ->> 'reason' = 'deadline'}), '>', 10, 'deadlines among them');
is(sql(q{SELECT count(*) FROM idem_verify()}), '0', 'idem_verify() finds nothing');
sql(q{SELECT idem_confirm(key) FROM idem_compensations WHERE key ~ '^storm' AND state IN ('held', 'overdue')});

# ---- restart -m immediate amid ----

sql(q{SELECT place('crash' || i) FROM generate_series(1, 3000) AS i}, extra_params => [ '-U', 'app' ]);
my $crashes = 0;
for (1 .. 30)
{
	my $call = start [ 'psql', '-Xqd', $node->connstr('postgres'), '-c', 'CALL idem_maintain()' ], '>&', \my $said;
	select undef, undef, undef, 0.05 + rand(0.3);
	my $left = sql(q{SELECT count(*) FROM idem_compensations WHERE state = 'overdue'});
	$node->stop('immediate');
	$call->finish;
	$node->start;
	$crashes++;
	last if $left == 0;
}
note("$crashes crashes");
is(maintain(), '', 'after the crashes');
is(sql(q{SELECT amount, rows, count(*) FROM stands WHERE key ~ '^crash' GROUP BY 1, 2}), '0|2|3000', 'each is undone, once');
is(sql(q{SELECT count(*) FROM idem_outbox WHERE key ~ '^crash'}), '3000', 'and told so, once');
is(sql(q{SELECT count(*) FROM idem_verify()}), '0', 'idem_verify() finds nothing');

# ---- dump and restore ----

sql(q{SELECT place('held')}, extra_params => [ '-U', 'app' ]);
sql(q{UPDATE idem_pinned SET deadline = now() + interval '1 day' WHERE key = 'held'; SELECT FROM idem_cancel('tombstone', 'never came'); SELECT place('due')});
my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
sql('CREATE DATABASE restored');
command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'restored');
my $all = q{SELECT scope, key, fate, deadline, expires_at, handlers, answer FROM idem_pinned ORDER BY 1, 2};
is($node->safe_psql('restored', $all), sql($all), 'keys with a compensation and tombstones are the same there');
is($node->safe_psql('restored', q{SELECT status FROM idem_claim('tombstone') UNION ALL SELECT status FROM idem_cancel('a1')}), "cancelled\nalready", 'and answer the same');
is($node->safe_psql('restored', q{SELECT status FROM idem_cancel('held')}, extra_params => [ '-U', 'app' ]), 'compensated', 'a held one can be cancelled there');
is($node->safe_psql('restored', q{CALL idem_maintain(); SELECT state FROM idem_compensations WHERE key = 'due'}), 'compensated', 'and a deadline is kept there');
is(sql(q{SELECT string_agg(state, ' ' ORDER BY key) FROM idem_compensations WHERE key IN ('held', 'due')}), 'overdue held', 'the source is as it was');
is($node->safe_psql('restored', 'SELECT count(*) FROM idem_verify()'), '0', 'idem_verify() finds nothing');

$node->stop;
done_testing();
