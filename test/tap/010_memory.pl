# A backend does not grow with the claims it makes: IDEM_CLAIMS of them (100,000), in transactions of one and of a thousand,
# with everything that can happen to a claim in between.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $claims = $ENV{IDEM_CLAIMS} || 100_000;

my $node = PostgreSQL::Test::Cluster->new('memory');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nautovacuum = off\nmax_locks_per_transaction = 256\nmax_wal_size = 4GB\n");
$node->start;
$node->safe_psql('postgres', <<'EOF');
CREATE EXTENSION idem;

-- n claims, so many in a transaction: completed, released, rolled back, replayed, mismatched, in progress
CREATE PROCEDURE place(prefix text, n int, in_one int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM idem_claim(prefix || i, '{"i": 1}');
		PERFORM idem_complete(prefix || i, '"done"');
		IF i % 100 = 0 THEN
			PERFORM idem_claim(prefix || i);
			IF i > in_one THEN
				PERFORM idem_claim(prefix || (i - in_one));
				PERFORM idem_claim(prefix || (i - in_one), '{"i": 2}');
			END IF;
			PERFORM idem_claim(prefix || 'released' || i);
			PERFORM idem_release(prefix || 'released' || i);
			PERFORM idem_status(prefix || i);
			BEGIN
				PERFORM idem_claim(prefix || 'undone' || i);
				PERFORM idem_complete(prefix || i, '1');
			EXCEPTION WHEN SQLSTATE 'ID003' THEN NULL;
			END;
		END IF;
		IF i % 1000 = 0 THEN
			PERFORM idem_claim('held', wait => '1us');
		END IF;
		IF i % in_one = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END $$;
EOF

my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT idem_claim('held')});

my $session = $node->background_psql('postgres', timeout => 3600);
# releasing after work warns, rightly; it is the work of other keys here
$session->query_safe("SET client_min_messages = error");
my $pid = $session->query_safe('SELECT pg_backend_pid()');

# without the statistics that wait to be reported: how many there are is a matter of time
sub contexts
{
	return split /\|/, $session->query_safe(q{SELECT sum(total_bytes), sum(used_bytes) FROM pg_backend_memory_contexts WHERE name NOT LIKE 'PgStat%'});
}

sub private_kb
{
	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m ? $1 : 0;
}

my $half = $claims / 2;
for my $in_one (1, 1000)
{
	# the caches have what they will have after as few as these
	contexts() and $session->query_safe("CALL place('warm $in_one $_ ', 5000, $in_one)") for 1 .. 2;
	my ($total, $used) = contexts();
	my $private = private_kb();

	$session->query_safe("CALL place('$in_one ', $half, $in_one)");
	my ($total_now, $used_now) = contexts();
	note "$half claims, $in_one a transaction: contexts $total -> $total_now bytes, used $used -> $used_now; private memory $private -> "
		. private_kb() . ' kB';
	cmp_ok($total_now, '<=', $total, "$in_one a transaction: its memory contexts have not grown");
	cmp_ok($used_now, '<=', $used, "$in_one a transaction: nor what is used of them");
}
is($session->query_safe(q{SELECT count(*) FROM idem_keys WHERE key !~ '^warm'}), $claims, 'all were made');

$_->quit for $session, $holder;
$node->stop;
done_testing();
