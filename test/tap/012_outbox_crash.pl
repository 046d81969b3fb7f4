# Publishers and consumers under load while backends are killed and the server crashes: every message that was committed is
# applied by every consumer, once, of each key in the order of its row's lock; outbox and business tables say the same. Then the
# log is replayed from its beginning, through another crash, into an idempotent consumer: no row changes.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('outbox_crash');
$node->init;
# no help from the WAL writer: what nobody flushes is lost
$node->append_conf('postgresql.conf', <<'EOS');
max_prepared_transactions = 10
log_statement = none
wal_writer_delay = 10s
restart_after_crash = on
EOS
$node->start;
$node->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;

-- what publishers do: the next number of an account, under its row's lock, and a message that says so
CREATE TABLE account (key int PRIMARY KEY, n int NOT NULL);
INSERT INTO account SELECT g, 0 FROM generate_series(1, 5) AS g;
CREATE TABLE work (id bigint, key text, n int);
CREATE FUNCTION publish() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	luck float := random();
	account_key text := 1 + floor(random() * 5)::int;
	account_n int;
BEGIN
	IF luck < 0.4 THEN
		-- of no key and under no lock: others overtake it
		INSERT INTO work SELECT idem_publish('t', '0'), NULL, 0;
		PERFORM pg_sleep(luck / 20);
		IF luck < 0.05 THEN RAISE 'rolled back'; END IF;
		RETURN 'published';
	END IF;
	UPDATE account SET n = n + 1 WHERE key = account_key::int RETURNING n INTO account_n;
	BEGIN
		INSERT INTO work SELECT idem_publish('t', to_jsonb(account_n), account_key), account_key, account_n;
		IF luck > 0.9 THEN RAISE 'rolled back, to the savepoint'; END IF;
	EXCEPTION WHEN raise_exception THEN
		INSERT INTO work SELECT idem_publish('t', to_jsonb(account_n), account_key), account_key, account_n;
	END;
	RETURN 'published';
END $$;

-- what consumers do: "at" is in the order of their transactions, for each has the lane alone
CREATE TABLE applied (at bigint GENERATED ALWAYS AS IDENTITY, consumer text, id bigint, key text, n int);

-- ... and an idempotent one
CREATE TABLE total (key text PRIMARY KEY, messages int, sum bigint);
CREATE SEQUENCE delivered;
CREATE FUNCTION add(consumer text, max_messages int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	m record;
	held bigint;
	rows int := 0;
BEGIN
	FOR m IN SELECT * FROM idem_fetch(consumer, max_messages) LOOP
		held := m.batch;
		rows := rows + 1;
		IF idem_consume('outbox', m.id::text) THEN
			INSERT INTO total VALUES (coalesce(m.key, '-'), 1, m.payload::bigint)
			ON CONFLICT (key) DO UPDATE SET messages = total.messages + 1, sum = total.sum + excluded.sum;
		END IF;
	END LOOP;
	IF held IS NOT NULL THEN
		PERFORM idem_ack(consumer, held);
	END IF;
	RETURN rows;
END $$;
SELECT idem_subscribe('a'), idem_subscribe('b'), idem_subscribe('total');
EOS

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub crash { $node->stop('immediate'); $node->start; return; }

# one backend dies, and the server takes all others down and starts again; the one found may be about to end by itself
sub kill_backend
{
	my ($find) = @_;
	for (1 .. 100)
	{
		my $pid = $find->();
		my $offset = -s $node->logfile;
		if ($pid && kill 'KILL', $pid)
		{
			for (1 .. 20)
			{
				if (slurp_file($node->logfile, $offset) =~ /terminated by signal 9/)
				{
					$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
					return;
				}
				usleep(100_000);
			}
		}
		usleep(100_000);
	}
	die 'no backend was killed';
}

# ---- clients that begin again whenever their connection is lost, until they are told to stop ----

my %script = (
	publish => "SELECT publish();\n",
	add => "SELECT add('total', 20);\nSELECT pg_sleep(0.01);\n",
	map { $_ => <<"EOS" } qw(a b));
BEGIN;
SELECT coalesce(max(batch), 0) AS batch, max(batch) IS NOT NULL AS some, array_agg(id) AS ids, array_agg(coalesce(key, '-')) AS keys, array_agg(payload::int) AS ns
FROM idem_fetch('$_', 10, wait => '100 ms') \\gset
\\if :some
INSERT INTO applied (consumer, id, key, n) SELECT '$_', m.* FROM unnest(:'ids'::bigint[], :'keys'::text[], :'ns'::int[]) AS m;
SELECT idem_ack('$_', :batch);
\\endif
COMMIT;
EOS

sub client
{
	my ($name, $commit) = @_;
	my $file = $node->basedir . "/$name.sql";
	my $stop = $node->basedir . ($name eq 'publish' ? '/enough' : '/stop');
	append_to_file($file, $script{$name} x 20) unless -e $file;
	local %ENV = (%ENV, PGOPTIONS => "-c synchronous_commit=$commit", PGAPPNAME => $name);
	return start [ 'sh', '-c', 'until [ -e "$0" ]; do psql -XAtq -d "$1" -f "$2"; sleep 0.02; done', $stop, $node->connstr('postgres'), $file ],
		'>', '/dev/null', '2>', '/dev/null';
}

# also when a test dies
END
{
	local $?;
	append_to_file($node->basedir . "/$_", '') for qw(enough stop);
}

my @publishers = map { client('publish', $_) } qw(on off on off);
my @consumers = map { client(@$_) } [ 'a', 'on' ], [ 'a', 'off' ], [ 'b', 'on' ], [ 'add', 'off' ];

# how much has been applied; a while is until there is more of it
sub work_on
{
	my ($more) = @_;
	my $had = sql('SELECT count(*) FROM applied');
	return $node->poll_query_until('postgres', "SELECT count(*) >= $had + $more FROM applied");
}

# a prepared transaction stays late for all of it; it has locked no account
work_on(50);
sql(q{BEGIN; INSERT INTO work SELECT idem_publish('t', '0'), NULL, 0; PREPARE TRANSACTION 'late'});
for my $round (1 .. 3)
{
	ok(work_on(400), "round $round: messages are applied");
	crash();
	ok(work_on(400), "round $round: after a crash too");

	# with a batch in hand, applied and acked but not committed
	my $consumer = $node->background_psql('postgres');
	my $pid = $consumer->query_safe('SELECT pg_backend_pid()');
	$consumer->query_safe('BEGIN');
	my $batch = $consumer->query_safe(q{SELECT max(batch) FROM idem_fetch('a', 5, wait => '20 s')});
	$consumer->query_safe(qq{INSERT INTO applied (consumer, id) SELECT 'a', -1; SELECT idem_ack('a', $batch)});
	kill_backend(sub { $pid });
	$consumer->quit;

	ok(work_on(50), "round $round: after a consumer was killed");
	kill_backend(sub { sql(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'publish' LIMIT 1}) });
}
append_to_file($node->basedir . '/enough', '');
$_->finish for @publishers;
sql(q{COMMIT PREPARED 'late'});
ok($node->poll_query_until('postgres', q{SELECT sum(depth) = 0 FROM idem_consumers}), 'consumers come to the end');
append_to_file($node->basedir . '/stop', '');
$_->finish for @consumers;

# ---- what must be true ----

note sql('SELECT consumer, count(*) FROM applied GROUP BY 1');
is(sql('SELECT id, key, n FROM work EXCEPT ALL SELECT id, key, payload::int FROM idem_outbox'), '', 'what was done has its message');
is(sql('SELECT id, key, payload::int FROM idem_outbox EXCEPT ALL SELECT id, key, n FROM work'), '', 'and no other was published');
for my $consumer (qw(a b))
{
	is(sql("SELECT id, count(*) FROM applied WHERE consumer = '$consumer' GROUP BY 1 HAVING count(*) > 1"), '', "$consumer: no message is applied twice");
	is(sql("SELECT id, coalesce(key, '-'), n FROM work EXCEPT SELECT id, key, n FROM applied WHERE consumer = '$consumer'"), '', "$consumer: none is left out");
	is(sql("SELECT id, key, n FROM applied WHERE consumer = '$consumer' EXCEPT SELECT id, coalesce(key, '-'), n FROM work"), '', "$consumer: nothing else is applied");
	is(sql(<<"EOS"), '', "$consumer: messages of a key come in the order of its lock");
		SELECT * FROM (SELECT key, n, id, lag(n) OVER before AS n_before, lag(id) OVER before AS id_before
		               FROM applied WHERE consumer = '$consumer' AND key <> '-' WINDOW before AS (PARTITION BY key ORDER BY at)) AS a
		WHERE n <> coalesce(n_before, 0) + 1 OR id < id_before
EOS
	is(sql(<<"EOS"), 't', "$consumer: others have overtaken late ones");
		SELECT bool_or(id < before) FROM (SELECT id, lag(id) OVER (ORDER BY at) AS before FROM applied WHERE consumer = '$consumer') AS a
EOS
}
my $totals = q{SELECT coalesce(key, '-'), count(*), sum(n) FROM work GROUP BY 1 ORDER BY 1};
is(sql('SELECT * FROM total ORDER BY key'), sql($totals), 'the totals are those of the work');
is(sql('SELECT key, n FROM account ORDER BY key'), sql(q{SELECT key, max(n) FROM applied WHERE key <> '-' GROUP BY 1 ORDER BY 1}), 'and the accounts');
is(sql('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');

# ---- the log once more, from its beginning ----

my $messages = sql('SELECT count(*) FROM idem_outbox');
my $checksum = q{SELECT md5(string_agg(concat(ctid, xmin, t), ' ' ORDER BY key)) FROM total AS t};
my $before = sql($checksum);

# all that is there for a consumer, with a crash half-way; what it had not committed comes again
sub replay
{
	my ($consumer) = @_;
	my $had = 0;
	my $half = int($messages / 2);
	$had += sql("SELECT add('$consumer', $half)");
	sql("BEGIN; SELECT add('$consumer', 100); ROLLBACK");
	crash();
	while ((my $rows = sql("SELECT add('$consumer', 100)")) > 0) { $had += $rows; }
	return $had;
}

sql(q{SELECT idem_subscribe('new', start => 'earliest')});
is(replay('new'), $messages, 'a new consumer gets all messages that are kept');
is(sql($checksum), $before, '... and changes no row');
for my $since ("'-infinity'", '(SELECT min(created_at) FROM idem_outbox)')
{
	sql("SELECT idem_seek('total', $since)");
	is(replay('total'), $messages, "after a seek to $since an old one gets them again");
	is(sql($checksum), $before, '... and changes no row');
}
is(sql('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');

$node->stop;
done_testing();
