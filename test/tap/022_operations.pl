# docs/operations.md: every SQL example runs, as the role that it is for, and what it says of the others is so.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $text = slurp_file("$FindBin::RealBin/../../docs/operations.md");
my @examples = $text =~ /^```sql\n(.*?)^```/msg;

my $node = PostgreSQL::Test::Cluster->new('operations');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'idem'\n");
$node->start;
$node->safe_psql('postgres', <<'EOT');
CREATE EXTENSION idem;
CREATE ROLE dba LOGIN IN ROLE pg_monitor;
SELECT idem_grant('dba', 'dba');
BEGIN; SELECT idem_claim('order-4711'), idem_complete('order-4711', '1'); COMMIT;
SELECT idem_subscribe('takings');
SELECT setval('idem_outbox_ids', 4710);
SELECT idem_publish('orders', '1');
BEGIN; SET LOCAL idem.max_attempts = 1; SELECT batch, id FROM idem_fetch('takings') \gset
SELECT idem_nack('takings', :batch, :id, 'no'); SELECT idem_ack('takings', :batch); COMMIT;
EOT
my %superuser = (ALTER => 1, CREATE => 1); # who installs and makes roles

my @answers;
for my $example (@examples)
{
	my ($first) = $example =~ /^(.*)/;
	my $who = (grep { $superuser{$_} } $example =~ /^(\w+)/mg) ? 'postgres' : 'dba';
	my ($out, $err);
	is($node->psql('postgres', $example, on_error_stop => 1, extra_params => [ '-U', $who ], stdout => \$out, stderr => \$err), 0, "as $who: $first") or diag($err);
	push @answers, { sql => $example, out => $out };
}
cmp_ok(scalar @examples, '>=', 15, 'there are examples');

sub answer { my ($part) = @_; my ($one) = grep { $_->{sql} =~ $part } @answers; return $one->{out}; }

# those whose answers mean something
like(answer(qr/FROM idem_consumers ORDER/), qr/^takings\|0\|0\|\|\|0\|1$/, 'who lags: the dead letter is told');
like(answer(qr/FROM idem_status/), qr/^completed\|1\|.*\n\|order-4711\|completed\|/, 'one request');
is(answer(qr/idem_delivered/), 'takings|dead', 'one message');
like(answer(qr/idem_redrive/), qr/^takings\|4711\|orders\|\|1\|.*\|no\n$/, 'what failed');
is($node->safe_psql('postgres', 'SELECT * FROM idem_delivered(4711)'), 'takings|parked', 'is to be delivered again');
is(answer(qr/^SELECT \* FROM idem_verify\(\);$/), '', 'nothing is wrong');
is(answer(qr/idem_evict/), 't', 'a key is forgotten');
is($node->safe_psql('postgres', q{SELECT status FROM idem_status('order-4711')}), 'unknown', 'and can be claimed anew');
like(answer(qr/pg_settings/), qr/^idem\.key_ttl\|86400\|s$/m, 'settings');

# a link leads somewhere
for my $target ($text =~ /\]\((?!http)([^)#]*(?:#[^)]*)?)\)/g)
{
	my ($file, $heading) = $target =~ /^([^#]*)#?(.*)$/;
	my $there = $file eq '' ? $text : -d "$FindBin::RealBin/../../docs/$file" ? '' : slurp_file("$FindBin::RealBin/../../docs/$file");
	my %headings = map { (lc($_) =~ s/[^a-z0-9 -]//gr =~ tr/ /-/r => 1) } $there =~ /^#+ (.*)$/mg;
	ok($heading eq '' || $headings{$heading}, "link: $target");
}

$node->stop;
done_testing();
