# idem_pinned is rewritten at the very instant at which a claim looks whether it is empty: the file that the claim knows is emptied
# under its eyes. What was kept there is found in the new one.
use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $node = PostgreSQL::Test::Cluster->new('pinned_rewrite');
my $library = $node->basedir . '/hold_lseek.so';
my $control = $node->basedir . '/hold';
system_or_bail('cc', '-shared', '-fPIC', '-o', $library, dirname(__FILE__) . '/hold_lseek.c');

$node->init;
$node->append_conf('postgresql.conf', "idem.claim_wait = 0\nautovacuum = off\n");
{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{HOLD_LSEEK} = $control;
	$node->start;
}
$node->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
BEGIN;
SELECT idem_claim('charge', ttl => '1 year');
SELECT idem_complete('charge', '{"charge": 17}');
COMMIT;
EOS

my $session = $node->background_psql('postgres');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_safe(q{SELECT status FROM idem_status('charge')});    # it knows the tables

for my $rewrite ('VACUUM FULL idem_pinned', 'CLUSTER idem_pinned USING idem_pinned_expires_at')
{
	my $file = $node->safe_psql('postgres', q{SELECT pg_relation_filepath('idem_pinned')});
	append_to_file("$control.new", "$pid /$file");
	rename "$control.new", $control;
	$session->query_until(qr/asked/, "\\echo asked\nSELECT status, response FROM idem_claim('charge');\n");
	for (1 .. 1000) { last if -e "$control.held"; Time::HiRes::usleep(10_000) }
	ok(-e "$control.held", 'the claim looks whether the table is empty');

	$node->safe_psql('postgres', $rewrite);
	is((stat($node->data_dir . "/$file"))[7], 0, "$rewrite: the file that it looks at is empty now");
	unlink "$control.held";
	is($session->query_safe('SELECT 1') =~ s/\n1\z//r, 'completed|{"charge": 17}', 'and it answers from the new one');
}
$session->quit;
$node->stop;
done_testing();
