# Lanes under load, while lanes are added, messages nacked at random, clients and backends killed and the server crashes: each
# message is applied once, or is a dead letter; of each key in order. What an external consumer delivers has numbers without holes,
# and a number stands for one message, ever.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('lanes_crash');
$node->init;
$node->append_conf('postgresql.conf', <<'EOS');
max_connections = 60
log_statement = none
wal_writer_delay = 10s
restart_after_crash = on
EOS
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE there');
$node->safe_psql('there', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE delivered (at bigint GENERATED ALWAYS AS IDENTITY, source text, lane int, seq bigint, message_id text, tombstone boolean, answer text);
CREATE TABLE applied (at bigint GENERATED ALWAYS AS IDENTITY, id bigint, key text, n int);
CREATE FUNCTION receive(messages jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	m record;
	answer text;
BEGIN
	FOR m IN SELECT * FROM jsonb_to_recordset(messages) AS r (source text, lane int, seq bigint, message_id text, id bigint, key text, payload int) ORDER BY seq LOOP
		answer := idem_consume_seq(m.source, m.lane, m.seq);
		INSERT INTO delivered (source, lane, seq, message_id, tombstone, answer) VALUES (m.source, m.lane, m.seq, m.message_id, m.payload IS NULL, answer);
		IF answer = 'gap' THEN RETURN false; END IF;
		IF answer = 'first' AND m.payload IS NOT NULL AND idem_consume('relay', m.message_id) THEN
			INSERT INTO applied (id, key, n) VALUES (m.id, m.key, m.payload);
		END IF;
	END LOOP;
	RETURN true;
END $$;
EOS
my $there = $node->connstr('there');
$node->safe_psql('postgres', <<"EOS");
CREATE EXTENSION idem;
CREATE EXTENSION dblink;
CREATE TABLE account (key text PRIMARY KEY, n int NOT NULL);
INSERT INTO account SELECT 'k' || g, 0 FROM generate_series(1, 30) AS g;
CREATE TABLE work (id bigint, key text, n int);
CREATE FUNCTION publish() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	luck float := random();
	chosen text := 'k' || 1 + floor(random() * 30)::int;
	a account;
BEGIN
	IF luck < 0.3 THEN
		INSERT INTO work SELECT idem_publish('t', '0'), NULL, 0;
		PERFORM pg_sleep(luck / 20);
		IF luck < 0.05 THEN RAISE 'rolled back'; END IF;
		RETURN;
	END IF;
	UPDATE account SET n = n + 1 WHERE key = chosen RETURNING * INTO a;
	BEGIN
		INSERT INTO work SELECT idem_publish('t', to_jsonb(a.n), a.key), a.key, a.n;
		IF luck > 0.9 THEN RAISE 'rolled back, to the savepoint'; END IF;
	EXCEPTION WHEN raise_exception THEN
		INSERT INTO work SELECT idem_publish('t', to_jsonb(a.n), a.key), a.key, a.n;
	END;
END \$\$;

-- an internal consumer that fails on some
CREATE TABLE applied (at bigint GENERATED ALWAYS AS IDENTITY, id bigint, key text, n int);
CREATE FUNCTION work() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	m record;
	held bigint;
	skip bigint[] := '{}';
BEGIN
	FOR m IN SELECT * FROM idem_fetch('inside', 1 + floor(random() * 20)::int) LOOP
		held := m.batch;
		CONTINUE WHEN m.id = ANY (skip);
		IF random() < (CASE WHEN m.attempt > 1 THEN 0.6 ELSE 0.03 END) THEN
			skip := skip || idem_nack('inside', m.batch, m.id, 'bad luck', random() * interval '50 ms');
		ELSE
			INSERT INTO applied (id, key, n) VALUES (m.id, m.key, m.payload::int);
		END IF;
	END LOOP;
	IF held IS NOT NULL THEN PERFORM idem_ack('inside', held); END IF;
END \$\$;

-- a relay; one that is refused is the last of its batch
CREATE FUNCTION relay() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	m record;
	held bigint;
	messages jsonb := '[]';
	done boolean;
BEGIN
	FOR m IN SELECT * FROM idem_fetch('relay', 10) LOOP
		held := m.batch;
		IF random() < (CASE WHEN m.attempt > 1 THEN 0.7 ELSE 0.02 END) THEN
			PERFORM idem_nack('relay', m.batch, m.id, 'refused', random() * interval '50 ms');
			EXIT;
		END IF;
		messages := messages || to_jsonb(m);
	END LOOP;
	IF held IS NOT NULL THEN
		SELECT t.done INTO done FROM dblink(\$to\$$there\$to\$, format('SELECT receive(%L)', messages)) AS t (done boolean);
		IF NOT done THEN RAISE 'a gap'; END IF;
		IF random() < 0.05 THEN RAISE 'the ack is lost'; END IF;
		PERFORM idem_ack('relay', held);
	END IF;
END \$\$;
SELECT idem_subscribe('inside'), idem_subscribe('relay', external => true);
EOS

sub sql { return $node->safe_psql('postgres', $_[0]); }

# ---- clients that begin again, until they are told to stop; consumers' processes die now and then, with a batch ----

my $dir = $node->basedir;
my %script = (publish => "SELECT publish();\n", map { $_ => <<"EOS" } qw(work relay));
BEGIN;
SELECT $_();
SELECT random() < 0.02 AS die \\gset
\\if :die
\\! kill -9 \$PPID
\\endif
COMMIT;
SELECT pg_sleep(0.005);
EOS

sub client
{
	my ($name, $commit) = @_;
	append_to_file("$dir/$name.sql", $script{$name} x 30) unless -e "$dir/$name.sql";
	my $stop = $name eq 'publish' ? 'enough' : 'stop';
	local %ENV = (%ENV, PGOPTIONS => "-c synchronous_commit=$commit -c idem.max_attempts=4", PGAPPNAME => $name);
	return start [ 'sh', '-c', 'until [ -e "$0" ]; do psql -XAtq -d "$1" -f "$2"; sleep 0.02; done', "$dir/$stop", $node->connstr('postgres'), "$dir/$name.sql" ],
		'>', '/dev/null', '2>', '/dev/null';
}

# also when a test dies
END
{
	local $?;
	if ($dir) { append_to_file("$dir/$_", '') for qw(enough stop); }
}

my @publishers = map { client('publish', $_) } qw(on off on);
my @consumers = map { client(@$_) } [ 'work', 'on' ], [ 'work', 'off' ], [ 'work', 'on' ], [ 'work', 'off' ], [ 'relay', 'on' ], [ 'relay', 'off' ];

sub work_on
{
	my ($more) = @_;
	my $had = sql('SELECT count(*) FROM applied');
	my $there = $node->safe_psql('there', 'SELECT count(*) FROM applied');
	return $node->poll_query_until('postgres', "SELECT count(*) >= $had + $more FROM applied")
		&& $node->poll_query_until('there', "SELECT count(*) >= $there + $more FROM applied");
}

# one backend dies, and the server takes all others down and starts again
sub kill_backend
{
	my ($name) = @_;
	for (1 .. 100)
	{
		my $offset = -s $node->logfile;
		my $pid = sql("SELECT pid FROM pg_stat_activity WHERE application_name = '$name' LIMIT 1");
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
		usleep(50_000);
	}
	die 'no backend was killed';
}

my @lanes = ([ 1, 1 ], [ 2, 2 ], [ 3, 2 ], [ 8, 5 ]);
for my $round (0 .. $#lanes)
{
	my ($inside, $relay) = @{ $lanes[$round] };
	sql("SELECT idem_subscribe('inside', lanes => $inside)");
	sql("SELECT idem_subscribe('relay', lanes => $relay, external => true)");
	ok(work_on(200), "$inside lanes, and $relay: messages are applied");
	$node->stop('immediate');
	$node->start;
	ok(work_on(100), '... after a crash');
	kill_backend($round % 2 ? 'work' : 'relay');
	ok(work_on(100), '... after a backend was killed');
}
# dead letters of the relay, once more
sql(q{SELECT idem_redrive('relay', id) FROM (SELECT id FROM idem_dead_letters WHERE consumer = 'relay' LIMIT 5) AS d});
append_to_file("$dir/enough", '');
$_->finish for @publishers;
ok($node->poll_query_until('postgres', q{SELECT sum(depth) = 0 AND sum(parked) = 0 FROM idem_consumers}), 'consumers come to the end');
append_to_file("$dir/stop", '');
$_->finish for @consumers;

# ---- what must be true ----

my %dead = map { $_ => sql("SELECT string_agg(id::text, ',') FROM idem_dead_letters WHERE consumer = '$_'") } qw(inside relay);
note sql('SELECT consumer, error, count(*) FROM idem_dead_letters GROUP BY 1, 2');
note sql('SELECT consumer, count(*), sum(messages) FROM idem_attempts GROUP BY 1');
is(sql('SELECT id, key, n FROM work EXCEPT ALL SELECT id, key, payload::int FROM idem_outbox'), '', 'what was done has its message');
is(sql('SELECT id FROM applied GROUP BY 1 HAVING count(*) > 1'), '', 'inside: no message is applied twice');
is(sql(q{SELECT id FROM work EXCEPT SELECT id FROM applied EXCEPT SELECT id FROM idem_dead_letters WHERE consumer = 'inside'}), '', 'inside: none is left out, but dead letters');
is(sql(q{SELECT id FROM applied INTERSECT SELECT id FROM idem_dead_letters WHERE consumer = 'inside'}), '', 'inside: and none of these was applied');
is(sql('SELECT id FROM applied EXCEPT SELECT id FROM work'), '', 'inside: nothing else is applied');
my $order = 'SELECT * FROM (SELECT key, n, lag(n) OVER (PARTITION BY key ORDER BY at) AS before FROM applied WHERE key IS NOT NULL%s) AS a WHERE n <= before';
is(sql(sprintf $order, ''), '', 'inside: messages of a key come in order');
cmp_ok($dead{inside}, 'ne', '', 'inside: there are dead letters');
is(sql(q{SELECT count(DISTINCT lane) FROM idem_consumers WHERE consumer = 'inside'}), 8, 'inside: eight lanes');
unlike(sql('SELECT string_agg(DISTINCT consumer, chr(10)) FROM idem_attempts'), qr/relay/, 'relay: no marks');

# what was redriven came later than others of its key
sub there { return $node->safe_psql('there', $_[0]); }
my $redriven = there(q{SELECT string_agg(quote_literal(message_id), ',') FROM (SELECT message_id FROM delivered GROUP BY 1 HAVING count(DISTINCT seq) > 1) AS d});
note "redriven: $redriven";
note there('SELECT source, lane, max(seq) FROM delivered GROUP BY 1, 2 ORDER BY 2');
is(there(q{SELECT string_agg(DISTINCT source, ' ') FROM delivered}), 'relay@' . sql('SELECT idem_incarnation()') . '.1', 'relay: one source, all the time');
is(there(<<'EOS'), '', 'relay: the numbers of each lane have no holes, and stand for one message each');
	SELECT source, lane, count(DISTINCT seq), max(seq), count(DISTINCT (seq, message_id)) FROM delivered GROUP BY 1, 2
	HAVING count(DISTINCT seq) <> max(seq) OR count(DISTINCT (seq, message_id)) <> max(seq)
EOS
is(there(q{SELECT count(*) FROM delivered WHERE answer = 'gap'}), 0, 'relay: none came before its turn');
cmp_ok(there(q{SELECT count(*) FROM delivered WHERE answer = 'duplicate'}), '>', 0, 'relay: some came again');
cmp_ok(there(q{SELECT count(*) FROM delivered WHERE tombstone}), '>', 0, 'relay: there are tombstones');
is(there('SELECT id FROM applied GROUP BY 1 HAVING count(*) > 1'), '', 'relay: no message is applied twice');
my %applied = map { $_ => 1 } split /\n/, there('SELECT id FROM applied');
my %is_dead = map { $_ => 1 } split /,/, $dead{relay};
is(join(' ', grep { !$applied{$_} && !$is_dead{$_} } split /\n/, sql('SELECT id FROM work')), '', 'relay: none is left out, but dead letters');
is(there(sprintf $order, $redriven eq '' ? '' : " AND id NOT IN (SELECT split_part(m, '.', 4)::bigint FROM unnest(ARRAY[$redriven]) AS m)"), '', 'relay: messages of a key come in order');
is(sql('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');
is(there('SELECT * FROM idem_verify()'), '', '... and there too');
$node->stop;
done_testing();
