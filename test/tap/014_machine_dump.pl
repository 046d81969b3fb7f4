# A guard does not stand in the way of its own restore: whole dumps and pg_upgrade carry rules, guards and states; data
# alone comes with --disable-triggers, as the error's hint says.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = PostgreSQL::Test::Cluster->new('source');
$source->init;
$source->start;
my $target = PostgreSQL::Test::Cluster->new('target');
$target->init;
$target->start;
my $dumps = $source->basedir;

# rows and keys in all states; a rule of its own, a shipped one that is disabled though a row is there
$source->safe_psql('postgres', <<'EOF');
CREATE SCHEMA i;
CREATE EXTENSION idem SCHEMA i;
CREATE TABLE orders (id int PRIMARY KEY, state text);
CREATE TABLE parted (id int, state text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
SELECT i.idem_attach('orders', 'state', 'order', 'orders'), i.idem_attach('parted', 'state', 'order'), i.idem_guard_topic('orders', 'order');
INSERT INTO orders SELECT g, 'created' FROM generate_series(1, 4) AS g;
INSERT INTO parted SELECT g * 5, 'created' FROM generate_series(1, 3) AS g;
UPDATE orders SET state = 'paid' WHERE id IN (2, 3);
UPDATE orders SET state = 'completed' WHERE id = 3;
UPDATE orders SET state = 'cancelled' WHERE id = 4;
UPDATE parted SET state = 'paid';
INSERT INTO i.idem_transitions VALUES ('order', 'paid', 'refunded'), ('own', NULL, 'a'), ('own', 'a', 'b');
SET idem.strand_rows = on;
UPDATE i.idem_transitions SET enabled = false WHERE machine = 'order' AND to_state IN ('completed', 'cancelled');
EOF

my $rules = join "\n",
	'order||created|t|t', 'order|created|cancelled|f|t', 'order|created|paid|t|t', 'order|paid|completed|f|t',
	'order|paid|refunded|t|f', 'own||a|t|f', 'own|a|b|t|f';
my $strays = $source->safe_psql('postgres', 'SELECT tbl, enabled, stray_rows FROM i.idem_guards() ORDER BY 1');
is($strays, "orders|t|2\nparted|t|0\nparted_1|t|\nparted_2|t|", 'two rows are where their machine leads no more');

sub is_whole
{
	my ($node, $database, $what) = @_;
	is($node->safe_psql($database, 'SELECT DISTINCT ON (machine, from_state, to_state) * FROM i.idem_transitions ORDER BY machine, from_state NULLS FIRST, to_state, enabled'),
		$rules, "$what: the rules");
	is($node->safe_psql($database, 'SELECT tbl, enabled, stray_rows FROM i.idem_guards() ORDER BY 1'), $strays, "$what: the guards");
	is($node->safe_psql($database, 'SELECT key, state FROM i.idem_outbox_states ORDER BY key'), "1|created\n2|paid\n3|completed\n4|cancelled",
		"$what: the states of keys");
	is($node->safe_psql($database, 'SELECT * FROM i.idem_guarded_topics'), 'orders|order', "$what: the guarded topic");
	my ($status, undef, $error) = $node->psql($database, q{UPDATE orders SET state = 'completed' WHERE id = 2});
	like($error, qr/machine "order" does not go from "paid" to "completed"/, "$what: the guard is on, the rule off");
	(undef, undef, $error) = $node->psql($database, q{UPDATE parted SET state = 'created'});
	like($error, qr/does not go from "paid" to "created"/, "$what: for partitions too");
	(undef, undef, $error) = $node->psql($database, q{SELECT i.idem_publish('orders', '1', '2', 'created')});
	like($error, qr/does not go from "paid" to "created"/, "$what: for the topic too");
	is($node->safe_psql($database, q{BEGIN; UPDATE orders SET state = 'refunded' WHERE id = 2; SELECT state FROM i.idem_outbox_states WHERE key = '2'; ROLLBACK}),
		'refunded', "$what: and it goes on");
	return;
}
is_whole($source, 'postgres', 'here');

# ---- whole ----

command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/whole.dump", '-d', $source->connstr('postgres') ], 'pg_dump');
command_ok([ 'pg_dump', '-f', "$dumps/whole.sql", '-d', $source->connstr('postgres') ], 'pg_dump as plain SQL');
$target->safe_psql('postgres', "CREATE DATABASE $_") for qw(custom plain data session);
command_ok([ 'pg_restore', '--exit-on-error', '-d', $target->connstr('custom'), "$dumps/whole.dump" ], 'restored');
command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-d', $target->connstr('plain'), '-f', "$dumps/whole.sql" ], 'restored: plain');
is_whole($target, 'custom', 'whole');
is_whole($target, 'plain', 'plain');
# and on from there
command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/again.dump", '-d', $target->connstr('custom') ], 'pg_dump of that');
$target->safe_psql('postgres', 'CREATE DATABASE again');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $target->connstr('again'), "$dumps/again.dump" ], 'restored again');
is_whole($target, 'again', 'again');

# ---- the data alone ----

command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', '-d', $target->connstr('data'), "$dumps/whole.dump" ], 'the schema');
my $old = $target->background_psql('data');
is($old->query_safe(q{SELECT i.idem_next_states('order', 'paid')}), 'completed', 'a session knows the rules from before');
command_fails_like([ 'pg_restore', '--exit-on-error', '--data-only', '-t', 'orders', '-d', $target->connstr('data'), "$dumps/whole.dump" ],
	qr/does not begin with "paid".*pg_restore --disable-triggers/s, 'the data alone is refused, and the hint says what to do');
is($target->safe_psql('data', 'SELECT count(*) FROM orders'), '0', 'nothing came');
command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-d', $target->connstr('data'), "$dumps/whole.dump" ], 'and done');
is($old->query_safe(q{SELECT i.idem_next_states('order', 'paid')}), 'refunded', 'that session knows the new rules');
$old->quit;
is_whole($target, 'data', 'data');
is($target->safe_psql('data', q{UPDATE i.idem_transitions SET enabled = true WHERE machine = 'order' AND to_state = 'completed'; SELECT i.idem_next_states('order', 'paid')}),
	"completed\nrefunded", 'data: the disabled rule can be enabled again');

# ---- one guarded table, with its guard ----

command_ok([ 'pg_dump', '-t', 'orders', '-f', "$dumps/one.sql", '-d', $source->connstr('postgres') ], 'pg_dump -t orders');
$target->safe_psql('postgres', 'CREATE DATABASE one; CREATE DATABASE without');
$target->safe_psql('one', 'CREATE SCHEMA i; CREATE EXTENSION idem SCHEMA i');
command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-d', $target->connstr('one'), '-f', "$dumps/one.sql" ], 'one table: restored');
is($target->safe_psql('one', 'SELECT tbl, enabled, stray_rows FROM i.idem_guards()'), 'orders|t|0', 'one table: the guard is on, by the rules that are there');
my (undef, undef, $error) = $target->psql('one', q{UPDATE orders SET state = 'created' WHERE id = 2});
like($error, qr/does not go from "paid" to "created"/, 'one table: it refuses');
command_fails_like([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-d', $target->connstr('without'), '-f', "$dumps/one.sql" ],
	qr/function i\.idem_guard\(\) does not exist|schema "i" does not exist/, 'one table: without the extension it fails, and not silently');
$target->stop;

# ---- pg_upgrade ----

$source->stop;
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
my ($bindir) = grep { -x "$_/pg_upgrade" } split /:/, $ENV{PATH}; # that of the servers under test
chdir $source->basedir;
command_ok([ 'pg_upgrade', '--no-sync', '-d', $source->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
	'-s', $new->host, '-p', $source->port, '-P', $new->port ], 'pg_upgrade');
$new->start;
is_whole($new, 'postgres', 'pg_upgrade');
$new->stop;
done_testing();
