# The README's examples are what it says they are: the SQL runs and answers as shown there, the C++ is the example that
# the SDK's tests build and run.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $readme = slurp_file("$root/README.md");
my ($sql, @more) = $readme =~ /^```sql\n(.*?)^```/msg;
my @refused = grep { /^-- ERROR/m } @more;
my ($cpp) = $readme =~ /^```cpp\n(.*?)^```/ms;

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION idem');
$node->safe_psql('postgres', 'CREATE TABLE orders (id bigserial PRIMARY KEY, item text, pence bigint)');

# each answer stands below its statement, as psql prints it
my @shown = $sql =~ /^--  +(claimed|completed) +\| *(\{.*?\})? *(?:only .*)?$/mg;
my @given = split /[|\n]/, $node->safe_psql('postgres', $sql);
is_deeply([ map { $_ // '' } @shown ], [ 'claimed', '', 'completed', '{"order": 1}' ], 'the README shows both answers');
is_deeply(\@given, [ 'claimed', '', '{"order": 1}', 'completed', '{"order": 1}' ], 'the SQL example answers as shown');
is($node->safe_psql('postgres', 'SELECT count(*) FROM orders'), '1', 'the work was done once');

# and what is refused stands below the statement that is
is(@refused, 2, 'both guards are shown');
for my $example (@refused)
{
	my (undef, undef, $error) = $node->psql('postgres', $example, on_error_stop => 0);
	is($error =~ s/^psql:.*?: //mgr =~ s/^(?!ERROR|HINT).*\n?//mgr, join("\n", $example =~ /^-- ((?:ERROR|HINT):.*)$/mg), 'refused as shown');
}
is($node->safe_psql('postgres', 'SELECT state FROM purchases UNION ALL SELECT type FROM idem_outbox'), "created\ncreated", 'and it is where it was');

# a message, and a cancellation
my ($message) = grep { /idem_fetch/ } @more;
$node->safe_psql('postgres', 'SELECT idem_unguard_topic(\'orders\'); CREATE TABLE takings AS SELECT 0 AS pence');
my ($row) = $message =~ /^-- +(\d.*)$/m;
is($node->safe_psql('postgres', $message), "\nt\n" . $row =~ s/ +\| +/|/gr . "\n", 'the message comes as shown');
is($node->safe_psql('postgres', 'SELECT pence FROM takings'), '350', 'and is worked on');

my ($failing) = grep { /idem_nack/ } @more;
($row) = $failing =~ /^-- +(\d.*)$/m;
is($node->safe_psql('postgres', $failing), "t\n{}\n\n" . $row =~ s/ +\| +/|/gr, 'one that fails is parked as shown');

my ($cancel) = grep { /idem_cancel/ } @more;
my @answers = $cancel =~ /^SELECT status .*; -- (\w+)/mg;
is($node->safe_psql('postgres', $cancel), join("\n", 'claimed', '', '{"order": 4712}', @answers[1 .. 4]), 'cancellations answer as shown');
is($node->safe_psql('postgres', 'SELECT count(*) FROM orders'), '1', 'and undo the order');

my ($lease) = grep { /idem_renew/ } @more;
is($node->safe_psql('postgres', $lease), "\nt\n\n{\"order\": 4720}", 'a lease answers as shown');
is($node->safe_psql('postgres', q{SELECT fate, handlers -> 0 -> 'args' FROM idem_pinned WHERE key = 'order-4720'}), 'held|{"id": 4720}', 'and keeps its compensation');

my ($execute) = grep { /idem_execute/ } @more;
my @rows = $execute =~ /^-- +([\w-]+ +\| +(?:executed|completed).*|executed.*)$/mg;
is($node->safe_psql('postgres', $execute), join("\n", map { s/ +\| +/|/gr } @rows), 'one statement, and many keys, answer as shown');

like(slurp_file("$root/sdk/examples/quickstart.cpp"), qr/\Q$cpp\E/, 'the C++ example is the one that is built and run');

# every test that a document names is there
for my $document ("$root/README.md", glob "$root/docs/*.md")
{
	my $text = slurp_file($document);
	my @missing = grep { !-e "$root/$_" } $text =~ /`((?:test|sql)\/[\w\/.]+)`/g;
	push @missing, grep { !-e "$root/test/isolation/specs/$_" } $text =~ /`(\w+\.spec)`/g;
	is_deeply(\@missing, [], 'the tests that ' . ($document =~ s/.*\///r) . ' names are there');
}

$node->stop;
done_testing();
