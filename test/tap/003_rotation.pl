# The ring turns every half second under claims at every isolation level, readers with old snapshots, VACUUM, pg_dump and
# writers that stall; no key is lost before its time, none is claimed from a stale snapshot, and nobody gets an error that
# a retry does not cure.
use strict;
use warnings;
use IPC::Run qw(start finish);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { ROUNDS => 5, SECONDS => 4, STEPS => 40 };

my $node = PostgreSQL::Test::Cluster->new('rotation');
$node->init;
$node->append_conf('postgresql.conf', <<'EOF');
max_connections = 40
log_statement = none
deadlock_timeout = 100ms
autovacuum_naptime = 1s
EOF
$node->start;
$node->safe_psql('postgres', <<'EOF');
ALTER DATABASE postgres SET idem.key_ttl = '1s';
ALTER DATABASE postgres SET enable_seqscan = off;
CREATE EXTENSION idem;
UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys';

-- n: how many earlier effects of this key the transaction could see
CREATE TABLE effects (key text, n bigint, ttl interval, at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON effects (key);

-- sleeps between snapshot and claim, and between claim and effect; some are undone; ttl below, at and above the ring's
CREATE FUNCTION work(k text, early float, late float) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	life interval := (ARRAY['300ms', '1s', '1s', '2s'])[1 + floor(random() * 4)]::interval;
BEGIN
	PERFORM pg_sleep(early);
	SELECT status INTO answer FROM idem_claim(k, wait => '2s', ttl => life);
	IF answer = 'claimed' THEN
		PERFORM pg_sleep(late);
		INSERT INTO effects SELECT k, count(*), life FROM effects WHERE key = k;
		PERFORM idem_complete(k, '1');
		IF random() < 0.05 THEN
			RAISE EXCEPTION 'undo' USING ERRCODE = 'P0001';
		END IF;
	ELSIF answer NOT IN ('completed', 'in_progress') THEN
		RAISE EXCEPTION 'unexpected answer %', answer USING ERRCODE = 'XX000';
	END IF;
	RETURN answer;
EXCEPTION WHEN SQLSTATE 'P0001' THEN
	RETURN 'undone';
END $$;
EOF

my %script;

sub script
{
	my ($name, $text) = @_;
	$script{$name} = $node->basedir . "/$name.sql";
	append_to_file($script{$name}, $text);
	return;
}

my $pick = "\\set k random(1, 50)\n\\set nap random(1, 100)\n";
for my $level ('read committed', 'repeatable read', 'serializable')
{
	my $begin = "BEGIN ISOLATION LEVEL $level;\n";
	script("quick $level", "$pick${begin}SELECT work(:k::text, 0, 0);\nCOMMIT;\n");
	script("slow $level",
		"$pick${begin}SELECT count(*) FROM effects WHERE key = 'none';\nSELECT work(:k::text, :nap * 0.015, 0.1);\nCOMMIT;\n");
}
script('two keys', "$pick\\set l random(1, 50)\nBEGIN;\nSELECT work('a' || :k, 0, 0);\nSELECT work('a' || :l, 0, 0);\nCOMMIT;\n");
script('maintain', "CALL idem_maintain();\n\\sleep 20 ms\n");
script('reader', <<'EOF');
\set nap random(1, 100)
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM idem_keys;
SELECT pg_sleep(:nap * 0.01);
SELECT count(*) FROM idem_keys;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM idem_keys;
SELECT pg_sleep(:nap * 0.005);
COMMIT;
SELECT 1 / (count(*) = 0)::int FROM idem_verify();
EOF
script('vacuum', join('', map { "VACUUM (FREEZE) $_;\nVACUUM ANALYZE $_;\n\\sleep 100 ms\n" } map { "idem_keys_$_" } 0 .. 2)
	. "VACUUM idem_pinned;\nVACUUM (FREEZE) idem_ring;\n");
# a writer that has read which generation is current waits here for longer than that generation lives
script('stall', "\\set g random(0, 2)\nBEGIN;\nLOCK TABLE idem_keys_:g IN SHARE MODE;\nSELECT pg_sleep(1.8);\nCOMMIT;\n\\sleep 700 ms\n");

my @running;

sub clients
{
	my ($count, @names) = @_;
	my $out = '';
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port);
	my $run = start [ 'pgbench', '-n', '-c', $count, '-T', SECONDS, '--max-tries=1000', (map { ('-f', $script{$_}) } @names), 'postgres' ],
		'>&', \$out;
	push @running, [ $names[0], $run, \$out ];
	return;
}

# A transaction with an open claim holds nothing that the ring needs.
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT idem_claim('held')});

my ($steps, $dumps, $filenodes) = (0, 0, '');
my %broken;
for my $round (1 .. ROUNDS)
{
	clients(6, map { ("quick $_", "slow $_") } 'read committed', 'repeatable read', 'serializable');
	clients(2, 'two keys');
	clients(2, 'maintain');
	clients(2, 'reader');
	clients(1, 'vacuum');
	clients(1, 'stall');
	for my $n (1 .. 1000)
	{
		system_or_bail('pg_dump', '-f', '/dev/null', '-d', $node->connstr('postgres'));
		$dumps++;
		last unless $running[0][1]->pump_nb;
	}
	for (splice @running)
	{
		my ($name, $run, $out) = @$_;
		$run->finish;
		$broken{$name} .= $$out if $run->result(0) != 0 || $$out =~ /ERROR/;
	}
	$steps = $node->safe_psql('postgres', q{SELECT step FROM idem_ring WHERE store = 'keys'});
	note "round $round: step $steps, $dumps dumps, effects: ", $node->safe_psql('postgres', 'SELECT count(*) FROM effects');
	last if $steps >= STEPS || %broken;
}
is_deeply(\%broken, {}, 'no client met an error that a retry does not cure');
cmp_ok($steps, '>=', STEPS, 'the ring went round at least twice');

is($node->safe_psql('postgres', q{
	SELECT * FROM (SELECT *, lead(at) OVER (PARTITION BY key ORDER BY at) AS again FROM effects) AS e WHERE again < at + ttl}),
	'', 'no key took effect again within its ttl');
is($node->safe_psql('postgres', q{
	SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY at) - 1 AS before FROM effects) AS e WHERE n <> before}),
	'', 'every claim saw all earlier effects of its key');
is($node->safe_psql('postgres', 'SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');

is($holder->query_safe(q{SELECT idem_complete('held', '"kept"'); COMMIT; SELECT response FROM idem_claim('held')}),
	qq{"kept"\n"kept"}, 'a claim held all the while is completed');
$holder->quit;

$node->stop;
done_testing();
