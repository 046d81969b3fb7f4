# The server's lock table, at stock settings: 16 sessions hold what a call with 500 keys takes, while another runs DDL. When
# the table is full, the call says so, nothing of it is done, and nobody else is harmed.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('many_locks');
$node->init;
# the stock settings, which the test's own configuration may have changed
$node->append_conf('postgresql.conf', "max_connections = 100\nmax_locks_per_transaction = 64\nmax_prepared_transactions = 0\nmax_wal_senders = 10\nwal_level = replica\n");
$node->start;
$node->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE orders (item text PRIMARY KEY);
CREATE FUNCTION place(jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO orders VALUES ($1 ->> 'item') RETURNING to_jsonb(item)$$;
CREATE FUNCTION place_many(prefix text, n int) RETURNS SETOF idem_many_result LANGUAGE sql AS $$
	SELECT * FROM idem_execute_many('place(jsonb)', ARRAY(SELECT prefix || i FROM generate_series(1, n) AS i),
		ARRAY(SELECT jsonb_build_object('item', prefix || i) FROM generate_series(1, n) AS i))
$$;
-- a schema with so many tables, of four locks each, made and dropped in one transaction
CREATE PROCEDURE ddl(tables int) LANGUAGE plpgsql AS $$
BEGIN
	CREATE SCHEMA many;
	FOR i IN 1 .. tables LOOP
		EXECUTE format('CREATE TABLE many.t%s (id bigserial PRIMARY KEY, what text)', i);
		EXECUTE format('ALTER TABLE many.t%s ADD COLUMN more int DEFAULT 1', i);
	END LOOP;
	DROP SCHEMA many CASCADE;
END $$;
EOS

my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 16;
for my $i (1 .. 16)
{
	$sessions[$i - 1]->query_safe('BEGIN');
	is($sessions[$i - 1]->query_safe("SELECT status, count(*) FROM place_many('s$i ', 500) GROUP BY status"),
		'executed|500', "session $i: 500 keys, in an open transaction");
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM idem_holders}), 8000, 'all of them are held at once');

# what is left is for others
my ($ret, $out, $err) = $node->psql('postgres', 'SET client_min_messages = error; CALL ddl(100)');
is($ret, 0, 'DDL on 100 tables in one transaction') or diag $err;
is($node->safe_psql('postgres', q{SELECT count(*) FROM place_many('autocommit ', 500) WHERE status = 'executed'}), 500, 'and a call of 500 in a seventeenth session');
$sessions[0]->query_safe('COMMIT');
is($sessions[0]->query_safe(q{SELECT DISTINCT status FROM place_many('s1 ', 500)}), 'completed', 'replays need no locks');

# full: one transaction after another with 500 more, until one is refused
my $refused;
for my $n (1 .. 40)
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	push @sessions, $session;
	$session->query_safe('BEGIN');
	my $answer = $session->query("\\set VERBOSITY verbose\nSELECT count(*) FROM place_many('more $n ', 500)");
	next if $answer eq '500';
	$refused = $n;
	like($session->{stderr}, qr/53200: out of shared memory.*HINT:  You might need to increase "?max_locks_per_transaction/s, 'then a call is refused, with what to raise');
	$session->query('ROLLBACK');
	last;
}
ok($refused, 'at some number of sessions') and note 'that was with ' . (15 + $refused) . ' transactions of 500 keys at once';
is($node->safe_psql('postgres', "SELECT count(*) FROM orders WHERE item LIKE 'more $refused %'"), 0, 'nothing of it was done');

$_->query('COMMIT') for @sessions;
is($node->safe_psql('postgres', "SELECT status, count(*) FROM place_many('more $refused ', 500) GROUP BY status"), 'executed|500', 'and a retry does it');
is($node->safe_psql('postgres', 'SELECT count(*) FROM orders'), (17 + $refused) * 500, 'each order is there once');
is($node->safe_psql('postgres', q{SELECT count(*) FROM idem_keys}), (17 + $refused) * 500, 'and each key');
is($node->safe_psql('postgres', 'SELECT * FROM idem_verify()'), '', 'all is well');

$_->quit for @sessions;
$node->stop;
done_testing();
