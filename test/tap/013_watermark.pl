# The watermark form of the inbox costs the same for the first message of a lane and for the ten-millionth: IDEM_MESSAGES of
# them (600,000) in two lanes, with maintenance now and then, as after a minute each time.
use strict;
use warnings;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $messages = $ENV{IDEM_MESSAGES} || 600_000;
my $step = 100_000;

my $node = PostgreSQL::Test::Cluster->new('watermark');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nautovacuum = off\nmax_wal_size = 4GB\n");
$node->start;
$node->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;

-- the next messages of both lanes up to this one, a thousand in a transaction: what was answered
CREATE TABLE answered (answer text, count bigint);
CREATE PROCEDURE consume(after bigint, up_to bigint) LANGUAGE plpgsql AS $$
BEGIN
	WHILE after < up_to LOOP
		INSERT INTO answered SELECT idem_consume_seq('source', lane, seq), count(*)
			FROM generate_series(after + 1, after + 500) AS seq, generate_series(1, 2) AS lane GROUP BY 1;
		after := after + 500;
		COMMIT;
	END LOOP;
END $$;

-- the pages that one call looks at: the next one, one that was had, one that is too far
CREATE FUNCTION pages(seq bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE format('EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) SELECT idem_consume_seq(%L, 1, %s)', 'source', seq) INTO plan;
	RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
END $$;
EOS

my $session = $node->background_psql('postgres', timeout => 3600);
my $lane = 0; # how far each of the two is

sub consume
{
	my ($up_to) = @_;
	$session->query_safe("CALL consume($lane, $up_to)");
	$lane = $up_to;
	return;
}

# a call of each kind, the pages that it looks at
sub pages
{
	my $sql = join ', ', map { 'pages(' . ($lane + $_) . ')' } 0, 2, 1;
	my $pages = $session->query_safe("BEGIN; SELECT pages($lane + 1); ROLLBACK; BEGIN; SELECT $sql; ROLLBACK");
	return map { split /\|/ } (split /\n/, $pages)[-1];
}

sub bytes
{
	return $session->query_safe(q{SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname ~ '^idem_watermarks_[0-2]$'});
}

sub maintain
{
	$session->query_safe(<<'EOS');
		UPDATE idem_ring SET opened_at = opened_at - interval '61 s', ends_at = (SELECT array_agg(e - interval '61 s' ORDER BY g) FROM unnest(ends_at) WITH ORDINALITY AS u (e, g))
		WHERE store = 'watermarks';
EOS
	$session->query_safe('CALL idem_maintain()');
	return;
}

# once around the ring: so many generations there are, and so high their indexes
my $cycle = 400_000;

consume(5_000);
pages(); # catalogs are read
my @early = pages();
note "after 10000: @early pages, " . bytes() . ' bytes';
my (@most, @bytes);
for (my $n = $step; $n <= $messages; $n += $step)
{
	my $part = $n <= $cycle ? 0 : 1;
	consume($n / 2);
	maintain();
	my @now = pages();
	my $bytes = bytes();
	$most[$part][$_] = max($now[$_], $most[$part][$_] // 0) for 0 .. $#now;
	$bytes[$part] = max($bytes, $bytes[$part] // 0);
	note "after $n: @now pages, $bytes bytes";
}

my @kind = ('one that was had', 'one that is too far', 'the next one');
for (0 .. $#kind)
{
	cmp_ok($most[0][$_], '<=', $early[$_] + 4, "$kind[$_]: another level of an index, another generation, no more");
	cmp_ok($most[1][$_], '<=', $most[0][$_], "$kind[$_]: from then on as many pages");
}
cmp_ok($bytes[1], '<=', $bytes[0] * 1.01, 'and as many bytes');
is($session->query_safe('SELECT answer, sum(count) FROM answered GROUP BY 1'), "first|$messages", 'each was the first');
is($session->query_safe("SELECT string_agg(idem_consume_seq('source', lane, $lane + seq), ' ' ORDER BY lane, seq) FROM generate_series(1, 2) AS lane, unnest('{0,2}'::int[]) AS seq"),
	'duplicate gap duplicate gap', 'and the lanes are where they should be');
is($session->query_safe('SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');
$session->quit;
$node->stop;
done_testing();
