# The extension can be created, used by name and dropped on a server of its own.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('smoke');
$node->init;
$node->start;

$node->safe_psql('postgres', 'CREATE EXTENSION idem');
is($node->safe_psql('postgres', q{SELECT default_version = installed_version FROM pg_available_extensions WHERE name = 'idem'}),
	't', 'the version that the control file names is installed');
$node->safe_psql('postgres', 'DROP EXTENSION idem');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname LIKE 'idem%'}),
	'0', 'dropping it leaves nothing');

$node->stop;
done_testing();
