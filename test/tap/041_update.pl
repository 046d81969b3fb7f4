# ALTER EXTENSION UPDATE under load: from each version that has an install script to one that comes after all of them, which
# this test makes. Sessions that have the old library are refused and write nothing; who reconnects goes on.
use strict;
use warnings;
use IPC::Run qw(run start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# ---- a copy of the server, in which files may be replaced ----

my ($bindir) = grep { -x "$_/postgres" } split /:/, $ENV{PATH};
$bindir =~ m{^(.*?)(/usr/.*|/bin)$} or die $bindir;
my ($tree, $inside) = ($1, $2);
my $copy = PostgreSQL::Test::Utils::tempdir() . '/server';
run [ 'cp', '-R', $tree, $copy ] or die 'no copy';
$ENV{PATH} = "$copy$inside:$ENV{PATH}";

my $node = PostgreSQL::Test::Cluster->new('update');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nmax_connections = 50\n");
$node->start;
my $files = $node->safe_psql('postgres', q{SELECT setting || '/extension' FROM pg_config WHERE name = 'SHAREDIR'});
my $library = $node->safe_psql('postgres', q{SELECT setting || '/idem.so' FROM pg_config WHERE name = 'PKGLIBDIR'});
like($_, qr/^\Q$copy/, 'the files are the copy') for $files, $library;
my $now = $node->safe_psql('postgres', q{SELECT default_version FROM pg_available_extensions WHERE name = 'idem'});
my @versions = split /\n/, $node->safe_psql('postgres', q{SELECT version FROM pg_available_extension_versions WHERE name = 'idem'});
(my $next = $now) =~ s/\.(\d+)\./'.' . ($1 + 1) . '.'/e;
isnt($next, $now, "from @versions to $next");

# as a package manager does: a new file in the old one's place
sub replace
{
	my ($file, $content) = @_;
	append_to_file("$file.new", $content);
	chmod 0755, "$file.new";
	rename "$file.new", $file or die $!;
	return;
}

my $old_library = slurp_file($library);
(my $new_library = $old_library) =~ s/\Q$now\E/$next/g or die 'the library does not know its version';
length $new_library == length $old_library or die "$next is longer than $now";
my $old_control = slurp_file("$files/idem.control");

append_to_file("$files/idem--$now--$next.sql", <<'EOF');
UPDATE @extschema@.idem_ring SET step = step WHERE false;
CREATE FUNCTION idem_next() RETURNS pg_catalog.text LANGUAGE sql AS $$SELECT 'here'$$;
EOF

sub failure
{
	my ($session, $sql) = @_;
	$session->{stderr} = '';
	$session->query($sql);
	my $error = $session->{stderr};
	$session->{stderr} = '';
	return $error;
}

for my $from (@versions)
{
	my $database = "from $from";
	my $sql = sub { return $node->safe_psql($database, $_[0]) };
	replace("$files/idem.control", $old_control);
	replace($library, $old_library);
	$node->safe_psql('postgres', qq{CREATE DATABASE "$database"});
	$sql->(<<"EOF");
CREATE EXTENSION idem VERSION '$from';
CREATE TABLE orders (key text, library text);
CREATE FUNCTION place(k text, library text) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	answer text;
BEGIN
	SELECT status INTO answer FROM idem_claim(k);
	IF answer = 'claimed' THEN
		INSERT INTO orders VALUES (k, library);
		PERFORM idem_complete(k, to_jsonb(k));
	END IF;
	RETURN answer;
END \$\$;
EOF
	my ($idle, $open, $busy) = map { $node->background_psql($database, on_error_stop => 0) } 1 .. 3;
	$_->query_safe('\set VERBOSITY verbose') for $idle, $open, $busy;
	is($idle->query_safe(q{SELECT place('before', 'old')}), 'claimed', "$from: a session loads the library");
	is($open->query_safe(q{BEGIN; SELECT status FROM idem_claim('open')}), 'claimed', "$from: another one has a transaction open");

	# clients that reconnect whenever they are refused; those that never do
	my $stop = $node->basedir . "/stop $from";
	append_to_file($node->basedir . "/load $from.sql", q{SELECT place('k' || 1 + floor(random() * 300)::int, 'load');} x 50 . "\n");
	my @load = map { start([ 'sh', '-c', 'until [ -e "$0" ]; do psql -XAtq -d "$1" -f "$2" -v ON_ERROR_STOP=1; done', $stop, $node->connstr($database),
		$node->basedir . "/load $from.sql" ], '>', '/dev/null', '2>', '/dev/null') } 1 .. 3;
	$node->poll_query_until($database, q{SELECT count(*) >= 50 FROM orders}) or die 'no load';

	# the new files
	replace($library, $new_library);
	(my $control = $old_control) =~ s/\Q$now\E/$next/ or die;
	replace("$files/idem.control", $control);
	is($sql->(q{SELECT place('before', 'new'), place('between', 'new')}), 'completed|claimed', "$from: the new library works with the old SQL");
	is($busy->query_safe(q{SELECT place('by busy', 'new')}), 'claimed', "$from: as does a session that is connected, and loads it now");
	is($idle->query_safe(q{SELECT place('between', 'old')}), 'completed', "$from: the old one goes on meanwhile");

	# under a layout that it does not know it says what to do
	my (undef, undef, $error) = $node->psql($database, '\set VERBOSITY verbose
		BEGIN; ALTER TABLE idem_pinned ADD COLUMN more int; SELECT idem_claim(\'x\'); ROLLBACK');
	like($error, qr/ERROR:  55000: .*\Q$next\E.*idem_pinned.*DETAIL:  .*\Q$from\E.*HINT:  Run ALTER EXTENSION idem UPDATE/s, "$from: but only where it knows its tables");

	# the update; those with the old library end with it
	my $rows = q{SELECT count(*) FROM idem_keys};
	$sql->('ALTER EXTENSION idem UPDATE');
	my $refused = qr/ERROR:  55000: .*\Q$now\E.*older.*\Q$next\E.*DETAIL: .*HINT:  Reconnect/s;
	like(failure($idle, q{SELECT place('after', 'old')}), $refused, "$from: after the update the old library is refused");
	like(failure($idle, q{SELECT place('before', 'old')}), $refused, "$from: its replays too");
	like(failure($idle, q{CALL idem_maintain()}), $refused, "$from: and upkeep");
	like(failure($idle, q{SELECT idem_publish('t', '1')}), $refused, "$from: and messages");
	like(failure($open, q{SELECT idem_complete('open', '1')}), $refused, "$from: and who has claimed before can not complete");
	failure($open, 'COMMIT');
	is($busy->query_safe(q{SELECT place('by busy', 'new'), place('after', 'new')}), 'completed|claimed', "$from: a session with the new library goes on");
	is($sql->('SELECT idem_next()'), 'here', "$from: the new SQL is there");

	my $so_far = $sql->(q{SELECT count(*) FROM orders WHERE key LIKE 'k%'});
	$node->poll_query_until($database, qq{SELECT count(*) > least($so_far, 299) FROM orders WHERE key LIKE 'k%'}) or die 'the load does not go on';
	append_to_file($stop, '');
	$_->finish for @load;
	is($sql->(q{SELECT key FROM orders GROUP BY key HAVING count(*) > 1}), '', "$from: no effect twice");
	is($sql->(q{SELECT DISTINCT place(key, 'again') FROM orders}), 'completed', "$from: every key is known");
	is($sql->(q{SELECT count(*) FROM orders WHERE key IN ('open', 'x') OR key = 'after' AND library = 'old'}), '0', "$from: nothing was written by who was refused");
	is($sql->(q{SELECT count(*) FROM idem_keys WHERE key IN ('open', 'x')}), '0', "$from: and none of their keys");
	is($sql->('CALL idem_maintain(); SELECT * FROM idem_verify()'), '', "$from: idem_verify() finds nothing");
	$_->quit for $idle, $open, $busy;
}

# ---- a library whose server was not restarted serves nobody ----

replace($library, $old_library);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'idem'\n");
$node->restart;
replace($library, $new_library);
my (undef, undef, $error) = $node->psql("from $now", q{SELECT place('x', 'preloaded')});
like($error, qr/HINT:  Restart the server/, 'preloaded: reconnecting would not help');
$node->restart;
is($node->safe_psql("from $now", q{SELECT place('x', 'restarted')}), 'claimed', 'and after that all is well');

$node->stop;
done_testing();
