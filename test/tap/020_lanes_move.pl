# What consumers with lanes have to do survives a move: parked messages, dead letters, lanes, and where an external consumer is. Into
# another cluster, beside in the same one, by pg_upgrade: there it is another source, which begins with 1, and nothing is lost.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = PostgreSQL::Test::Cluster->new('source');
$source->init;
$source->append_conf('postgresql.conf', "log_statement = none\n");
$source->start;
$source->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE done (at bigint GENERATED ALWAYS AS IDENTITY, id bigint, key text);
CREATE TABLE delivered (source text, lane int, seq bigint, message_id text, id bigint, tombstone boolean);

-- all that there is, in as many transactions as it takes; then its retries
CREATE PROCEDURE inside() LANGUAGE plpgsql AS $$
DECLARE
	b bigint;
BEGIN
	LOOP
		WITH f AS (SELECT * FROM idem_fetch('inside', 3) ORDER BY id), d AS (INSERT INTO done (id, key) SELECT id, key FROM f)
		SELECT max(batch) INTO b FROM f;
		EXIT WHEN b IS NULL;
		PERFORM idem_ack('inside', b);
		COMMIT;
	END LOOP;
END $$;
CREATE PROCEDURE outside() LANGUAGE plpgsql AS $$
DECLARE
	b bigint;
	nothing int := 0;
BEGIN
	WHILE nothing < 12 LOOP
		WITH f AS (SELECT * FROM idem_fetch('outside', 3)),
		d AS (INSERT INTO delivered SELECT f.source, f.lane, f.seq, f.message_id, f.id, f.payload IS NULL FROM f)
		SELECT max(batch) INTO b FROM f;
		IF b IS NULL THEN
			nothing := nothing + 1;
		ELSE
			nothing := 0;
			PERFORM idem_ack('outside', b);
		END IF;
		COMMIT;
	END LOOP;
END $$;
-- its next one fails
CREATE FUNCTION fails(consumer text, give_up boolean, lane int = NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	m record;
BEGIN
	PERFORM set_config('idem.max_attempts', CASE WHEN give_up THEN '1' ELSE '5' END, true);
	SELECT * INTO m FROM idem_fetch(consumer, 1, lane => lane);
	PERFORM idem_nack(consumer, m.batch, m.id, 'it fails', '0');
	PERFORM idem_ack(consumer, m.batch);
	RETURN m.id;
END $$;
SELECT idem_subscribe('inside', lanes => 4), idem_subscribe('outside', lanes => 3, external => true);
SELECT count(idem_publish('t', to_jsonb(i), 'k' || i % 12)) FROM generate_series(1, 120) AS i;
EOS

sub sql { return $source->safe_psql('postgres', $_[0]); }

# inside: a retry with others behind it, a dead letter
my $retry = sql(q{SELECT fails('inside', false, 0)});
my $dead = sql(q{SELECT fails('inside', true, 1)});
sql(qq{DO \$\$ DECLARE b bigint; BEGIN FOR l IN 0 .. 3 LOOP
	WITH f AS (SELECT * FROM idem_fetch('inside', 20, lane => l) ORDER BY id), d AS (INSERT INTO done (id, key) SELECT id, key FROM f)
	SELECT max(batch) INTO b FROM f;
	IF b IS NOT NULL THEN PERFORM idem_ack('inside', b); END IF;
END LOOP; END \$\$});
cmp_ok(sql(q{SELECT count(*) FROM idem_parked WHERE state = 'waiting'}), '>', 0, 'messages wait behind one that is retried');

# outside: one lane has delivered and acked some, and some that are not; one has a tombstone to deliver, one a redriven message
sql("SELECT * FROM idem_fetch('outside', 5, lane => $_)") for 0 .. 2;
sql(q{BEGIN; WITH f AS (SELECT * FROM idem_fetch('outside', 5, lane => 0)), d AS (INSERT INTO delivered SELECT source, lane, seq, message_id, id, payload IS NULL FROM f)
	SELECT idem_ack('outside', max(batch)) FROM f; COMMIT});
my $unacked = sql(q{BEGIN; SELECT count(*) FROM idem_fetch('outside', 5, lane => 0); ROLLBACK});
is($unacked, 5, 'delivered, not acked');
my $tombstone = sql(q{SELECT fails('outside', true, 1)});
my $redriven = sql(q{SELECT fails('outside', true, 2)});
sql(q{BEGIN; WITH f AS (SELECT * FROM idem_fetch('outside', 1000, lane => 2)), d AS (INSERT INTO delivered SELECT source, lane, seq, message_id, id, payload IS NULL FROM f)
	SELECT idem_ack('outside', max(batch)) FROM f; COMMIT});
sql("SELECT idem_redrive('outside', $redriven)");
sql(q{SELECT * FROM idem_fetch('outside', 5, lane => 2)});
is(sql(qq{BEGIN; SELECT id FROM idem_fetch('outside', 5, lane => 2); ROLLBACK}), $redriven, 'a redriven message is delivered, not acked');

# and a client was lost
my $client = $source->background_psql('postgres');
my $pid = $client->query_safe('SELECT pg_backend_pid()');
$client->query_safe(q{BEGIN; SELECT * FROM idem_fetch('inside', 10, lane => 1)});
$client->quit;
$source->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
is(sql('SELECT count(*) FROM idem_attempts'), 1, 'a mark');
is(sql('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');

my $incarnation = sql('SELECT idem_incarnation()');
my $parked = q{SELECT * FROM idem_parked ORDER BY consumer, id, state};
my $consumers = q{SELECT consumer, lane, depth, parked, dead FROM idem_consumers ORDER BY 1, 2};
my ($parked_was, $consumers_are) = map { sql($_) } $parked, $consumers;
note $consumers_are;

sub goes_on
{
	my ($node, $database, $what) = @_;
	my $do = sub { return $node->safe_psql($database, $_[0]) };
	is($do->($parked), $parked_was, "$what: what is parked is");
	is($do->($consumers), $consumers_are, "$what: lanes are where they were");
	is($do->('SELECT * FROM idem_verify()'), '', "$what: idem_verify() finds nothing");
	my $now = $do->('SELECT idem_incarnation()');
	isnt($now, $incarnation, "$what: another incarnation");

	$do->(q{SELECT count(idem_publish('t', to_jsonb(i), 'k' || i % 12)) FROM generate_series(1, 24) AS i});
	for (1 .. 5)
	{
		$do->('CALL inside()');
		$do->('UPDATE idem_parked SET due_at = now() WHERE due_at IS NOT NULL');
	}
	is($do->(q{SELECT id FROM idem_outbox EXCEPT ALL SELECT id FROM done}), $dead, "$what, inside: all but the dead letter, once");
	is($do->(q{SELECT * FROM (SELECT id, lag(id) OVER (PARTITION BY key ORDER BY at) AS before FROM done) AS d WHERE id < before}), '', "$what, inside: in order");
	$do->("SELECT idem_redrive('inside', $dead); CALL inside()");
	is($do->(q{SELECT id FROM idem_outbox EXCEPT ALL SELECT id FROM done}), '', "$what, inside: redriven, that too");

	$do->('CALL outside()');
	is($do->(q{SELECT id FROM idem_outbox EXCEPT SELECT id FROM delivered WHERE NOT tombstone}), $tombstone, "$what, outside: nothing is lost");
	is($do->(q{SELECT id FROM delivered WHERE tombstone ORDER BY lane}), "$tombstone\n$redriven", "$what, outside: tombstones");
	is($do->(qq{SELECT count(*) FROM delivered WHERE id = $redriven AND NOT tombstone AND source ~ '^outside\@$now'}), 1, "$what, outside: the redriven one");
	is($do->(q{SELECT lane, min(seq), max(seq) - count(DISTINCT seq), count(*) - count(DISTINCT seq) FROM delivered
		WHERE source ~ ('^outside@' || idem_incarnation()) GROUP BY 1 ORDER BY 1}), "0|1|0|0\n1|1|0|0\n2|1|0|0", "$what, outside: numbers begin with 1");
	is($do->(qq{SELECT id FROM delivered WHERE message_id <> (CASE WHEN id <= 120 THEN '$incarnation' ELSE '$now' END) || '.' || id}), '',
		"$what, outside: messages have the ids that they had");
	is($do->(q{SELECT count(*) FROM idem_attempts}), 0, "$what: no marks");
	is($do->('SELECT * FROM idem_verify()'), '', "$what: idem_verify() finds nothing in the end");
	return;
}

my $dump = $source->basedir . '/dump';
command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $source->connstr('postgres') ], 'pg_dump');
my $target = PostgreSQL::Test::Cluster->new('target');
$target->init;
$target->start;
for ([ $target, 'dump and restore' ], [ $source, 'restore into the same cluster' ])
{
	my ($node, $what) = @$_;
	$node->safe_psql('postgres', 'CREATE DATABASE restored');
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], $what);
	is($node->safe_psql('restored', 'SELECT count(*) FROM idem_attempts'), 0, "$what: marks stay behind");
	goes_on($node, 'restored', $what);
}
$target->stop;

$source->safe_psql('postgres', 'DROP DATABASE restored');
$source->stop;
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
my ($bindir) = grep { -x "$_/pg_upgrade" } split /:/, $ENV{PATH}; # that of the servers under test
chdir $source->basedir;
command_ok([ 'pg_upgrade', '--no-sync', '-d', $source->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
	'-s', $new->host, '-p', $source->port, '-P', $new->port ], 'pg_upgrade');
$new->start;
goes_on($new, 'postgres', 'pg_upgrade');
$new->stop;
done_testing();
