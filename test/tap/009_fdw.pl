# A claim left open refuses the COMMIT before postgres_fdw has committed anything on the other server, whichever of the two
# was loaded or used first.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('fdw');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\n");
$node->start;
my ($host, $port) = ($node->host, $node->port);
$node->safe_psql('postgres', <<EOF);
CREATE EXTENSION idem;
CREATE EXTENSION postgres_fdw;
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE TABLE remote (t text);
CREATE FOREIGN TABLE there (t text) SERVER loopback OPTIONS (table_name 'remote');
CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO there VALUES (1); RETURN NULL; END';
CREATE TABLE here (t text);
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON here DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
EOF

my $load = "SELECT idem_digest('k');";
my $claim = "SELECT FROM idem_claim('k');";
my $insert = 'INSERT INTO there VALUES (1);';
my $copy = "COPY there FROM stdin;\n1\n\\.\n";
my %order = (
	'INSERT first used after the claim' => "BEGIN; $claim $insert",
	'INSERT before the claim' => "$load BEGIN; $insert $claim",
	'INSERT before the library' => "BEGIN; $insert $claim",
	'INSERT before and after the claim' => "BEGIN; $insert $claim $insert",
	'COPY first used after the claim' => "BEGIN; $claim $copy",
	'COPY before the claim' => "$load BEGIN; $copy $claim",
	'COPY before the library' => "BEGIN; $copy $claim",
	'TRUNCATE first used after the claim' => "BEGIN; $claim TRUNCATE there;",
	'TRUNCATE before the claim' => "$load BEGIN; TRUNCATE there; $claim",
	'used in a transaction before' => "SELECT FROM there; BEGIN; $claim $insert",
	'in a savepoint' => "BEGIN; $claim SAVEPOINT s; $insert RELEASE s;",
	'in a savepoint, claim rolled back in another' => "BEGIN; $claim SAVEPOINT s; SELECT FROM idem_claim('l'); ROLLBACK TO s; $insert",
	'in a DO block' => "BEGIN; $claim DO \$\$ BEGIN $insert END \$\$;",
	'in a cursor' => "BEGIN; $claim DECLARE c CURSOR FOR SELECT * FROM there FOR UPDATE; FETCH c;",
	'in a cursor, with a write before' => "BEGIN; $claim DECLARE c CURSOR FOR SELECT * FROM there FOR UPDATE; FETCH c; $insert",
	'by a prepared statement' => "PREPARE i AS $insert BEGIN; $claim EXECUTE i;",
	'by EXPLAIN ANALYZE' => "BEGIN; $claim EXPLAIN ANALYZE $insert",
	'by CREATE TABLE AS' => "BEGIN; $claim CREATE TABLE as_well AS WITH i AS (SELECT 1) SELECT * FROM i; $insert",
	'by a deferred trigger' => "BEGIN; $claim INSERT INTO here VALUES (1);",
	'by a deferred trigger, set immediate' => "BEGIN; $claim INSERT INTO here VALUES (1); SET CONSTRAINTS ALL IMMEDIATE;",
	'claim and INSERT in one statement' => "BEGIN; INSERT INTO there SELECT status FROM idem_claim('k');",
);
for my $case (sort keys %order)
{
	$node->safe_psql('postgres', q{TRUNCATE remote; INSERT INTO remote VALUES ('before')});
	my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$order{$case}\nCOMMIT;", on_error_stop => 1);
	like($err, qr/ERROR:  ID004/, "$case: COMMIT is refused");
	is($node->safe_psql('postgres', 'SELECT * FROM remote'), 'before', "$case: nothing remote stands");
}

$node->stop;
done_testing();
