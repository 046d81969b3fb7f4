# Positions survive a move: to another cluster whose transaction ids are lower, by pg_upgrade, by promotion. Whatever the
# consumer had not had it gets, each message once; also what was running when the position was taken.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(allows_streaming => 1);
$source->append_conf('postgresql.conf', "max_prepared_transactions = 10\nlog_statement = none\n");
$source->start;
# ids of transactions that the other clusters are far from
$source->safe_psql('postgres', 'DO $$ BEGIN FOR i IN 1 .. 5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$; CREATE DATABASE elsewhere');

$source->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE done (consumer text, id bigint);
CREATE TABLE published (id bigint);
CREATE FUNCTION publish(n int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO published SELECT idem_publish('t', to_jsonb(i)) FROM generate_series(1, n) AS i $$;
CREATE FUNCTION work(c text, n int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	b bigint; ids bigint[];
BEGIN
	SELECT max(batch), array_agg(id) INTO b, ids FROM idem_fetch(c, n);
	IF b IS NOT NULL THEN
		INSERT INTO done SELECT c, unnest(ids);
		PERFORM idem_ack(c, b);
	END IF;
	RETURN cardinality(ids);
END $$;
SELECT idem_subscribe('up to date'), idem_subscribe('in a window'), idem_subscribe('behind');
SELECT publish(5);
EOS

# one that runs while positions are taken, and one in another database: they delay nobody
my $running = $source->background_psql('postgres');
$running->query_safe('BEGIN; SELECT publish(3)');
my $elsewhere = $source->background_psql('elsewhere');
$elsewhere->query_safe('BEGIN; SELECT pg_current_xact_id()');
is($source->safe_psql('postgres', q{SELECT publish(4); SELECT work('up to date', 100), work('in a window', 6)}), "\n9|6",
	'a transaction that runs, here or in another database, delays nobody');
$running->query_safe('COMMIT');
is($source->safe_psql('postgres', q{SELECT depth FROM idem_consumers ORDER BY consumer}), "12\n6\n3", 'what ran is to come');
$source->safe_psql('postgres', 'SELECT publish(2)');
$elsewhere->quit;
$running->quit;

# every consumer gets the rest, each message once, and then what is published here
sub goes_on
{
	my ($node, $database, $what) = @_;
	is($node->safe_psql($database, q{SELECT depth FROM idem_consumers ORDER BY consumer}), "14\n8\n5", "$what: as far as before");
	is($node->safe_psql($database, 'SELECT * FROM idem_verify()'), '', "$what: idem_verify() finds nothing");
	$node->safe_psql($database, 'BEGIN; SELECT publish(1); ROLLBACK; SELECT publish(3)');
	for my $round (1 .. 8)
	{
		$node->safe_psql($database, "SELECT work('$_', 4)") for 'up to date', 'in a window', 'behind';
	}
	is($node->safe_psql($database, <<'EOS'), '', "$what: each message once");
		SELECT consumer, id, count(*) FROM (SELECT * FROM done UNION ALL SELECT consumer, published.id FROM published, idem_subscriptions) AS d
		GROUP BY 1, 2 HAVING count(*) <> 2 ORDER BY 1, 2
EOS
	is($node->safe_psql($database, 'CALL idem_maintain(); SELECT * FROM idem_verify()'), '', "$what: and then");
	return;
}

# ---- dump and restore: lower transaction ids, another system identifier; and into the same cluster ----

my $dump = $source->basedir . '/dump';
command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $source->connstr('postgres') ], 'pg_dump');
my $target = PostgreSQL::Test::Cluster->new('target');
$target->init;
$target->start;
$target->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $target->connstr('restored'), $dump ], 'restored');
is($target->safe_psql('restored', 'SELECT count(*) > 0 FROM idem_outbox_0 WHERE xid > pg_current_xact_id()'), 't',
	'its messages are of transactions that are to come here');
# and on, into a third, with messages of two clusters in it
$target->safe_psql('restored', q{SELECT publish(3); SELECT work('up to date', 2)});
command_ok([ 'pg_dump', '-Fc', '-f', "$dump.2", '-d', $target->connstr('restored') ], 'pg_dump of that');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init;
$third->start;
$third->safe_psql('postgres', 'CREATE DATABASE again');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $third->connstr('again'), "$dump.2" ], 'restored');
$third->safe_psql('again', 'SELECT publish(2)');
$third->safe_psql('again', "SELECT work('$_', 4)") for ('up to date', 'in a window', 'behind') x 8;
is($third->safe_psql('again', <<'EOS'), '', 'through three clusters: each message once');
	SELECT consumer, id, count(*) FROM (SELECT * FROM done UNION ALL SELECT consumer, published.id FROM published, idem_subscriptions) AS d
	GROUP BY 1, 2 HAVING count(*) <> 2
EOS
is($third->safe_psql('again', 'SELECT count(DISTINCT era) FROM idem_outbox_0'), '3', 'of three eras');
$third->stop;

$target->safe_psql('postgres', 'DROP DATABASE restored');
$target->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $target->connstr('restored'), $dump ], 'restored once more');
goes_on($target, 'restored', 'dump and restore');
$target->stop;

$source->safe_psql('postgres', 'CREATE DATABASE beside');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $source->connstr('beside'), $dump ], 'restored beside');
goes_on($source, 'beside', 'restore into the same cluster');

# ---- pg_upgrade ----

$source->backup('base');
my $old = PostgreSQL::Test::Cluster->new('old');
$old->init_from_backup($source, 'base');
$old->append_conf('postgresql.conf', "max_prepared_transactions = 10\n");
$old->start;
$old->safe_psql('postgres', 'DROP DATABASE beside');
$old->stop;
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
my ($bindir) = grep { -x "$_/pg_upgrade" } split /:/, $ENV{PATH}; # that of the servers under test
chdir $source->basedir;
command_ok([ 'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
	'-s', $new->host, '-p', $old->port, '-P', $new->port ], 'pg_upgrade');
$new->start;
goes_on($new, 'postgres', 'pg_upgrade');
$new->stop;

# ---- promotion, with a prepared transaction that ends after it ----

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($source, 'base', has_streaming => 1);
$standby->start;
$source->safe_psql('postgres', q{BEGIN; SELECT publish(1); PREPARE TRANSACTION 'p'});
$source->safe_psql('postgres', q{SELECT publish(1); SELECT work('up to date', 100)});
$source->wait_for_catchup($standby);
$source->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', q{SELECT work('up to date', 100)}), '', 'promotion: what is prepared is not to come yet');
$standby->safe_psql('postgres', q{COMMIT PREPARED 'p'});
is($standby->safe_psql('postgres', q{SELECT work('up to date', 100)}), '1', 'promotion: committed, it is');
is($standby->safe_psql('postgres', q{SELECT publish(2); SELECT work('in a window', 3), work('in a window', 100), work('behind', 100)}) =~ /\n/, 1, 'promotion: the others go on');
$standby->safe_psql('postgres', "SELECT work('$_', 100)") for ('up to date', 'in a window', 'behind') x 3;
is($standby->safe_psql('postgres', <<'EOS'), '', 'promotion: each message once');
	SELECT consumer, id, count(*) FROM (SELECT * FROM done UNION ALL SELECT consumer, published.id FROM published, idem_subscriptions) AS d
	GROUP BY 1, 2 HAVING count(*) <> 2
EOS
is($standby->safe_psql('postgres', 'SELECT * FROM idem_verify()'), '', 'promotion: idem_verify() finds nothing');
$standby->stop;
done_testing();
