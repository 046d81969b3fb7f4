# A scope moves between two nodes under load, there and back, while the nodes crash and the mover begins again: clients ask
# whichever node they like, and go on until they have an answer. No request is done twice, none that was acknowledged is lost.
use strict;
use warnings;
use FindBin;
use IPC::Run qw(start timeout);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @nodes = map { PostgreSQL::Test::Cluster->new("node$_") } 0 .. 1;
for my $node (@nodes)
{
	$node->init;
	# no help from the WAL writer: what nobody flushes is lost
	$node->append_conf('postgresql.conf', "log_statement = none\nmax_connections = 20\nwal_writer_delay = 10s\n");
	$node->start;
	$node->safe_psql('postgres', <<'EOT');
CREATE EXTENSION idem;
CREATE TABLE orders (scope text, key text, answer text);
CREATE TABLE undone (key text);
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$INSERT INTO undone VALUES ($1 ->> 'key')$$;
CREATE FUNCTION place(scope text, key text, deadline interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	claim record;
	answer text := gen_random_uuid();
BEGIN
	SELECT * INTO claim FROM idem_claim(key, to_jsonb(key), scope);
	IF claim.status = 'claimed' THEN
		INSERT INTO orders VALUES (scope, key, answer);
		IF deadline IS NOT NULL THEN
			PERFORM idem_compensate_with(key, 'undo(jsonb)', jsonb_build_object('key', key), scope, deadline);
		END IF;
		RETURN idem_complete(key, to_jsonb(answer), scope) #>> '{}';
	END IF;
	RETURN CASE WHEN claim.status = 'completed' THEN claim.response #>> '{}' END;
END $$;
EOT
}
sub at { my ($n, $sql) = @_; return $nodes[$n]->safe_psql('postgres', $sql); }

# the scope is at node 0, and node 1 knows it
at(1, q{INSERT INTO idem_scopes VALUES ('s', 'closed', 0, '', NULL, now())});

# ---- clients, on a server of their own: each asks for every key, at a node by chance, and again for those of long ago ----

my $clients = PostgreSQL::Test::Cluster->new('clients');
$clients->init;
$clients->append_conf('postgresql.conf', "log_statement = none\nfsync = off\n");
$clients->start;
sub client { my ($sql) = @_; return $clients->safe_psql('postgres', $sql); }
client(<<'EOT');
CREATE EXTENSION dblink;
CREATE TABLE nodes (n int, connection text);
CREATE TABLE answers (client int, key text, answer text);
CREATE TABLE failures (client int, sqlstate text);
CREATE TABLE stop ();
CREATE PROCEDURE work(me int) LANGUAGE plpgsql AS $$
DECLARE
	key text;
	node record;
	told text;
BEGIN
	FOR i IN 1 .. 1000000 LOOP
		EXIT WHEN EXISTS (SELECT FROM stop);
		key := 'k' || CASE WHEN i % 4 = 0 THEN 1 + (random() * (i - 1))::int ELSE i END;
		told := NULL;
		FOR try IN 1 .. 6000 LOOP
			SELECT * INTO node FROM nodes ORDER BY random() LIMIT 1;
			BEGIN
				IF NOT node.n::text = ANY (coalesce(dblink_get_connections(), '{}')) THEN
					PERFORM dblink_connect(node.n::text, node.connection);
				END IF;
				SELECT t INTO told FROM dblink(node.n::text, format('SELECT place(%L, %L)', 's', key)) AS d (t text);
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO failures VALUES (me, SQLSTATE);
				IF SQLSTATE <> 'ID018' THEN
					BEGIN
						PERFORM dblink_disconnect(node.n::text);
					EXCEPTION WHEN OTHERS THEN
						NULL;
					END;
				END IF;
				PERFORM pg_sleep(0.02);
			END;
			EXIT WHEN told IS NOT NULL;
		END LOOP;
		IF told IS NULL THEN
			RAISE 'no answer for %', key;
		END IF;
		INSERT INTO answers VALUES (me, key, told);
		COMMIT;
	END LOOP;
END $$;
EOT
client("INSERT INTO nodes VALUES ($_, '" . $nodes[$_]->connstr('postgres') =~ s/'/''/gr . "')") for 0, 1;
my @work = map {
	start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $clients->connstr('postgres'), '-c', "CALL work($_)" ],
		'2>', "$PostgreSQL::Test::Utils::log_path/client$_.log", timeout(300));
} 0 .. 2;

# all clients have had answers since
sub progress { return split /\n/, client('SELECT count(a.key) FROM generate_series(0, 2) AS c LEFT JOIN answers AS a ON a.client = c GROUP BY c ORDER BY c'); }
sub all_go_on
{
	my @before = progress();
	for (1 .. 600)
	{
		my @now = progress();
		return 1 if !grep { $now[$_] < $before[$_] + 50 } 0 .. $#before;
		select undef, undef, undef, 0.1;
	}
	BAIL_OUT('a client stands still');
}

# ---- the mover ----

sub crash { my ($n) = @_; $nodes[$n]->stop('immediate'); $nodes[$n]->start; return; }

# a session of it: what it answers, or undef if it did not get through; $fault happens meanwhile
sub ask
{
	my ($n, $sql, $fault) = @_;
	my ($out, $err) = ('', '');
	my $file = $nodes[$n]->basedir . '/page.sql';
	unlink $file;
	append_to_file($file, $sql);
	my $run = start [ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $nodes[$n]->connstr('postgres'), '-f', $file ], '<', \undef, '>', \$out, '2>', \$err, timeout(120);
	if ($fault)
	{
		# anywhere between connecting and the answer
		select undef, undef, undef, rand 0.1;
		$fault->($run);
	}
	$run->finish;
	chomp $out;
	if ($run->full_result(0))
	{
		BAIL_OUT("the mover is told $err") if !$fault;
		return undef;
	}
	return $out;
}

# What goes wrong is told by the number of the call. Whenever the mover does not know where it is, it begins again.
sub move
{
	my ($from, $to, $faults) = @_;
	my ($position, $call, $closed) = ('close', 0, 0);
	while (1)
	{
		my ($during, $after) = @{ $faults->{ ++$call } // [] };
		my $page = ask($from, "SELECT idem_export('s', '$position', 40)", $during);
		$after->() if $after;
		if (!defined $page) { $position = 'close'; next; }

		($during, $after) = @{ $faults->{ ++$call } // [] };
		my $next = ask($to, "SELECT idem_import(\$page\$$page\$page\$)", $during);
		$after->() if $after;
		last if defined $next && $next eq '';
		BAIL_OUT('the move has no end') if $call > 1000;
		$position = $next // 'close';
	}
	return $call;
}

at(0, q{SELECT count(place('s', 'p' || n)) FROM generate_series(1, 300) AS n; SELECT place('s', 'due', '1 us')});
all_go_on();

# each end crashes after each of its pages
my $calls = move(0, 1, { map { my $n = $_; $n => [ undef, sub { crash($n % 2 == 0) } ] } 1 .. 8 });
cmp_ok($calls, '>', 8, 'there were more pages than crashes');
is(at(0, q{SELECT state FROM idem_scopes}) . at(1, q{SELECT state FROM idem_scopes}), 'closedhere', 'it is there');
all_go_on();

# a deadline is kept where the scope is
at($_, 'CALL idem_maintain()') for 0, 1;
is(at($_, 'SELECT count(*) FROM undone'), $_, "undone at node $_") for 0, 1;

# and back: each end is stopped while it is asked, and the mover killed, whose statement goes on without it
my $killed = [ sub { $_[0]->signal('KILL') } ];
move(1, 0, { (map { my $n = $_; $n => [ sub { crash($n % 2) } ] } 3, 6, 9, 14), 11 => $killed, 12 => $killed, 17 => $killed, 18 => $killed });
is(at(0, q{SELECT state FROM idem_scopes}) . at(1, q{SELECT state FROM idem_scopes}), 'hereclosed', 'it is back');
all_go_on();

# by the loop in docs/scale.md as it stands there; twice at the same time, neither knows of the other
my ($loop) = slurp_file("$FindBin::RealBin/../../docs/scale.md") =~ /^```sh\n(.*?)^```/ms;
$loop =~ s/shop-17/s/ or BAIL_OUT('the loop in docs/scale.md is for another scope');
my @movers = map {
	local %ENV = (%ENV, source => $nodes[0]->connstr('postgres'), destination => $nodes[1]->connstr('postgres'));
	my $directory = PostgreSQL::Test::Utils::tempdir();
	start([ 'sh', '-c', "cd '$directory'\n$loop" ], timeout(120));
} 0, 1;
$_->finish for @movers;
is(join(' ', map { $_->full_result(0) } @movers), '0 0', 'both come to the end');
is(at(0, q{SELECT state FROM idem_scopes}) . at(1, q{SELECT state FROM idem_scopes}), 'closedhere', 'it is there again');
all_go_on();
client('INSERT INTO stop DEFAULT VALUES');
$_->finish for @work;
is(join(' ', map { $_->result(0) } @work), '0 0 0', 'every client got every answer');

# ---- what came of it ----

client('CREATE TABLE there (node int, key text, answer text)');
for my $n (0, 1)
{
	my $file = $clients->basedir . "/orders$n";
	append_to_file($file, at($n, "SELECT $n, key, answer FROM orders WHERE key LIKE 'k%'") . "\n");
	client("COPY there FROM '$file' (DELIMITER '|')");
	is(at($n, 'SELECT * FROM idem_verify()'), '', "node $n: nothing is wrong");
	cmp_ok(client("SELECT count(*) FROM there WHERE node = $n"), '>', 100, "node $n has done some of it");
}
is(client('SELECT key, count(*) FROM there GROUP BY key HAVING count(*) > 1'), '', 'nothing was done twice');
is(client('SELECT key FROM answers AS a WHERE NOT EXISTS (SELECT FROM there AS t WHERE t.key = a.key AND t.answer = a.answer)'), '', 'what was acknowledged was done, and everybody was told the same');
cmp_ok(client(q{SELECT count(*) FROM failures WHERE sqlstate = 'ID018'}), '>', 100, 'clients were sent to the other node');
cmp_ok(client(q{SELECT count(*) FROM failures WHERE sqlstate <> 'ID018'}), '>', 10, 'and met crashes');
is(client(q{SELECT DISTINCT sqlstate FROM failures WHERE sqlstate !~ '^(ID018|08|57P|XX000)'}), '', '... and nothing else');

# ---- what leaves the node is durable there, also if it was committed after the close by who does not wait for that ----

my $here = $nodes[1]->connstr('postgres') =~ s/'/''/gr;
client(qq{
	SELECT dblink_connect('a', '$here'), dblink_connect('mover', '$here');
	SELECT dblink_exec('a', 'BEGIN');
	SELECT dblink_exec('a', 'SET LOCAL synchronous_commit = off');
	SELECT FROM dblink('a', 'SELECT place(''u'', ''late'')') AS d (t text);
	SELECT FROM dblink('mover', 'SELECT idem_export(''u'')') AS d (t jsonb);
	SELECT dblink_exec('a', 'COMMIT');
	CREATE TABLE page AS SELECT * FROM dblink('mover', 'SELECT idem_export(''u'', ''scan'')') AS d (page jsonb)});
crash(1);
is(client(q{SELECT page #>> '{keys,0,key}' FROM page}), 'late', 'it is on the page');
is(at(1, q{SELECT key FROM orders WHERE scope = 'u'}), 'late', 'and was not lost');

$_->stop for $clients, @nodes;
done_testing();
