# The example of docs/scale.md as it stands there: PL/Proxy sends each scope's requests to one of two nodes. Duplicates in
# parallel, one by one and in bulk, while both nodes crash: no request is done twice, none that was acknowledged is lost.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use FindBin;
use IPC::Run qw(start timeout);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($at_node, $at_router) = slurp_file("$FindBin::RealBin/../../docs/scale.md") =~ /^```sql\n(.*?)^```/msg;

sub server
{
	my ($name) = @_;
	my $server = PostgreSQL::Test::Cluster->new($name);
	$server->init;
	$server->append_conf('postgresql.conf', "log_statement = none\nmax_connections = 20\n");
	$server->start;
	return $server;
}

my $router = server('router');
plan skip_all => 'there is no PL/Proxy for this server'
  if $router->safe_psql('postgres', q{SELECT 1 FROM pg_available_extensions WHERE name = 'plproxy'}) eq '';
my @nodes = map { server("node$_") } 0 .. 1;

for my $node (@nodes)
{
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->safe_psql('shop', $at_node);
	$node->safe_psql('shop', q{
		CREATE ROLE app LOGIN;
		SELECT idem_grant('app', 'app');
		GRANT INSERT, SELECT ON orders TO app;
		GRANT USAGE ON SEQUENCE orders_id_seq TO app});
}
$at_router =~ s/host=node(\d) dbname=shop/'host=' . $nodes[$1]->host . ' port=' . $nodes[$1]->port . ' dbname=shop'/ge;
$router->safe_psql('postgres', $at_router);

sub routed { my ($sql) = @_; return $router->safe_psql('postgres', $sql); }
sub at { my ($node, $sql) = @_; return $nodes[$node]->safe_psql('shop', $sql); }

# which node the page's four parts make it
sub node_of { my ($scope) = @_; return hex(substr(sha256_hex($scope), 0, 8)) & 1; }

# ---- a scope is at one node, which is the same for ever ----

my @scopes = map { "shop-$_" } 1 .. 12;
my %expected = (0 => [], 1 => []);
push @{ $expected{ node_of($_) } }, $_ for @scopes;
cmp_ok(scalar @{ $expected{$_} }, '>', 0, "node $_ has some of the scopes") for 0, 1;

my $request = q{jsonb_build_object('shop', s, 'item', s || '-first', 'pence', 350)};
my $place = "SELECT count(*) FILTER (WHERE o.status = 'executed'), count(*) FILTER (WHERE o.status = 'completed')
	FROM unnest('{" . join(',', @scopes) . "}'::text[]) AS s, LATERAL place_order(s, 'first', $request) AS o";
is(routed($place), '12|0', 'the same key in each scope is done');
is(routed($place), '0|12', 'and known when it comes again');
for my $node (0, 1)
{
	is(at($node, 'SELECT shop FROM orders ORDER BY shop'), join("\n", sort @{ $expected{$node} }), "node $node has the orders of its scopes");
	is(at($node, 'SELECT scope FROM idem_keys ORDER BY scope'), join("\n", sort @{ $expected{$node} }), "node $node has their keys");
}

# ---- in bulk: each node gets what is its own, under the right scopes ----

my $arrays = "'{" . join(',', @scopes) . "}', array_fill('bulk'::text, '{12}'),
	(SELECT array_agg(jsonb_build_object('shop', s, 'item', s || '-bulk', 'pence', 350)) FROM unnest('{" . join(',', @scopes) . "}'::text[]) AS s)";
is(routed("SELECT DISTINCT status, count(*) FROM place_orders($arrays) GROUP BY status"), 'executed|12', 'many at once are done');
is(routed("SELECT DISTINCT status, count(*) FROM place_orders($arrays) GROUP BY status"), 'completed|12', 'and known when they come again');
is(at($_, q{SELECT scope FROM idem_keys WHERE key = 'bulk' ORDER BY scope}), join("\n", sort @{ $expected{$_} }), "node $_ has them under their scopes") for 0, 1;

# ---- the node commits by itself, and its errors arrive as they are ----

my $once = q{place_order('shop-1', 'undone', '{"shop": "shop-1", "item": "undone", "pence": 1}')};
is(routed("BEGIN; SELECT status FROM $once; ROLLBACK; SELECT status FROM $once"), "executed\ncompleted", 'a rollback at the router undoes nothing');
my (undef, undef, $error) = $router->psql('postgres', qq{\\set VERBOSITY sqlstate\nSELECT place_order('shop-1', '', 'null')});
like($error, qr/ERROR:  ID005$/, 'the SQLSTATE is the one of the node');
is(routed(q{SELECT status FROM place_order('shop-1', 'undone', '{"shop": "shop-1", "item": "other", "pence": 1}')}), 'mismatch', 'another request is refused');

# ---- duplicates in parallel while the nodes crash ----

# Three clients ask for the same keys, one of them in bulk, until they are told to stop; each goes on until it has an answer.
routed(<<'EOT');
CREATE TABLE stop ();
CREATE TABLE answers (client int, scope text, key text, status text, response jsonb);
CREATE TABLE failures (client int, n int);
CREATE PROCEDURE work(client int, size int) LANGUAGE plpgsql AS $$
DECLARE
	scopes text[];
	keys text[];
	requests jsonb[];
	failed int := 0;
	done boolean;
BEGIN
	FOR i IN 0 .. 100000 LOOP
		EXIT WHEN EXISTS (SELECT FROM stop);
		SELECT array_agg('shop-' || n % 12 + 1), array_agg('k' || n),
			array_agg(jsonb_build_object('shop', 'shop-' || n % 12 + 1, 'item', 'k' || n, 'pence', 1))
		INTO scopes, keys, requests FROM generate_series(i * size, i * size + size - 1) AS n;
		done := false;
		FOR try IN 1 .. 1200 LOOP
			BEGIN
				IF size = 1 THEN
					INSERT INTO answers SELECT client, scopes[1], keys[1], o.status, o.response
					FROM place_order(scopes[1], keys[1], requests[1]) AS o;
				ELSE
					INSERT INTO answers SELECT client, requests[array_position(keys, o.key)] ->> 'shop', o.key, o.status, o.response
					FROM place_orders(scopes, keys, requests) AS o;
				END IF;
				done := NOT EXISTS (SELECT FROM answers AS a WHERE a.client = work.client AND a.status = 'in_progress');
				DELETE FROM answers AS a WHERE a.client = work.client AND a.status = 'in_progress';
			EXCEPTION WHEN OTHERS THEN
				failed := failed + 1;
				PERFORM pg_sleep(0.05);
			END;
			EXIT WHEN done;
		END LOOP;
		IF NOT done THEN
			RAISE 'no answer for %', keys;
		END IF;
		COMMIT;
	END LOOP;
	INSERT INTO failures VALUES (client, failed);
END $$;
EOT

my @sizes = (1, 1, 20);
my @clients = map {
	start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $router->connstr('postgres'), '-c', "CALL work($_, $sizes[$_])" ],
		'2>', "$PostgreSQL::Test::Utils::log_path/client$_.log", timeout(300));
} 0 .. $#sizes;

# what each client has had answered
sub progress { return split /\n/, routed('SELECT count(a.key) FROM generate_series(0, 2) AS c LEFT JOIN answers AS a ON a.client = c GROUP BY c ORDER BY c'); }

# all of them have gone on since, and with both nodes
sub all_go_on
{
	my @before = progress();
	for (1 .. 600)
	{
		my @now = progress();
		return 1 if !grep { $now[$_] < $before[$_] + 40 } 0 .. $#before;
		select undef, undef, undef, 0.1;
	}
	return 0;
}

ok(all_go_on(), 'all clients get answers');
for my $round (1 .. 3)
{
	for my $node (@nodes)
	{
		$node->stop('immediate');
		$node->start;
		all_go_on() or BAIL_OUT('a client stands still');
	}
}
routed('INSERT INTO stop DEFAULT VALUES');
$_->finish for @clients;
is(join(' ', map { $_->result(0) } @clients), '0 0 0', 'every client got every answer');

# ---- what came of it ----

routed('CREATE TABLE there (node int, shop text, item text, id bigint)');
for my $node (0, 1)
{
	my $rows = at($node, q{SELECT format('(%s, %L, %L, %s)', } . $node . q{, shop, item, id) FROM orders WHERE item LIKE 'k%'});
	$router->safe_psql('postgres', 'INSERT INTO there VALUES ' . join(', ', split /\n/, $rows));
	is(at($node, 'SELECT * FROM idem_verify()'), '', "node $node: nothing is wrong");
	cmp_ok(routed("SELECT count(*) FROM there WHERE node = $node"), '>', 0, "node $node has done some of it");
}
is(routed('SELECT item, count(*) FROM there GROUP BY item HAVING count(*) > 1'), '', 'nothing was done twice, at one node or at two');
is(routed('SELECT key FROM answers AS a WHERE NOT EXISTS (SELECT FROM there AS t WHERE t.item = a.key AND t.shop = a.scope AND to_jsonb(t.id) = a.response -> \'order\')'),
	'', 'what was acknowledged is there, as it was said');
is(routed(q{SELECT key FROM answers WHERE status = 'executed' GROUP BY key HAVING count(*) > 1}), '', 'nobody was told a second time that it was done just now');
is(routed(q{SELECT DISTINCT status FROM answers ORDER BY status}), "completed\nexecuted", 'there were duplicates');
cmp_ok(routed('SELECT min(n) FROM failures'), '>', 0, 'each client has met a crash');

$_->stop for $router, @nodes;
done_testing();
