# Behind pgbouncer in transaction mode, from SQL: each transaction may have another server connection. What spans transactions is
# kept by key and token, not by session; what a connection has planned or remembers does not outlive a change of the tables.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

$ENV{PATH} .= ':/usr/sbin';
plan skip_all => 'no pgbouncer here' unless IPC::Run::run([ 'sh', '-c', 'command -v pgbouncer' ], '>', \my $path);

my $node = PostgreSQL::Test::Cluster->new('pooler');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nidem.key_ttl = 1d\n");
$node->start;
$node->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE orders (key text);
CREATE FUNCTION place(k text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	SELECT status INTO answer FROM idem_claim(k, wait => '1 min');
	IF answer = 'claimed' THEN
		INSERT INTO orders VALUES (k);
		PERFORM idem_complete(k, to_jsonb(k));
	END IF;
	RETURN answer;
END $$;
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql AS 'DELETE FROM orders';
EOS

# ---- three server connections, which take turns ----

use constant CONNECTIONS => 3;
my $dir = PostgreSQL::Test::Utils::tempdir_short();
append_to_file("$dir/ini", <<"EOC");
[databases]
* = host=@{[ $node->host ]} port=@{[ $node->port ]} user=@{[ scalar getpwuid $< ]}
[pgbouncer]
pool_mode = transaction
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = $dir
logfile = $dir/log
default_pool_size = @{[ CONNECTIONS ]}
server_round_robin = 1
EOC
my $pgbouncer = IPC::Run::start([ 'pgbouncer', '-q', "$dir/ini" ], '>&', \my $says);
END { local $?; $pgbouncer->kill_kill if $pgbouncer; }
for (1 .. 600) { last if -S "$dir/.s.PGSQL.6432"; select undef, undef, undef, 0.1; }
my $pool = bless { %$node, _host => $dir, _port => 6432, _pid => undef }, ref $node;
my @client = map { $pool->background_psql('postgres') } 1 .. CONNECTIONS;

sub on { my ($n, $sql) = @_; return $client[$n]->query_safe($sql); }

sub connections { return join ' ', sort map { on($_, 'SELECT pg_backend_pid()') } 0 .. CONNECTIONS - 1; }

# each of them, whatever the turn is
sub on_all
{
	my ($sql) = @_;
	on($_, 'BEGIN') for 0 .. CONNECTIONS - 1;
	my $pids = connections();
	my @answers = map { on($_, $sql) } 0 .. CONNECTIONS - 1;
	on($_, 'COMMIT') for 0 .. CONNECTIONS - 1;
	return ($pids, join ' ', @answers);
}

my ($pids, $answers) = on_all(q{SELECT place('of ' || pg_backend_pid())});
my %seen = map { $_ => 1 } split / /, $pids;
is(scalar keys %seen, CONNECTIONS, 'three connections');
is($answers, 'claimed claimed claimed', 'each has planned a claim');
my @turns = map { on(0, 'SELECT pg_backend_pid()') } 1 .. 2;
isnt($turns[0], $turns[1], 'a client has another one each time');

# ---- what one transaction did, the next one goes on with ----

is(on(0, q{SELECT place('order')}), 'claimed', 'placed');
is(on(0, q{SELECT place('order')}), 'completed', 'replayed, elsewhere') for 1 .. CONNECTIONS;
my $token = on(0, q{SELECT token FROM idem_claim('leased', lease => '1 h')});
is(on(1, q{SELECT status FROM idem_claim('leased', wait => '0')}), 'in_progress', 'leased');
isnt(on(0, "SELECT idem_renew('leased', $token, '1 h')"), '', 'renewed, elsewhere');
on(0, "SELECT idem_checkpoint('leased', $token, 'one', '1')");
on(0, "SELECT idem_compensate_with('leased', 'undo(jsonb)', '1', token => $token)");
is(on(0, "SELECT idem_complete('leased', '1', token => $token)"), '1', 'completed, elsewhere');
on(0, q{SELECT idem_confirm('leased')});
is(on(0, q{SELECT status FROM idem_cancel('leased')}), 'refused', 'confirmed, elsewhere');

# a claim without a lease ends with its transaction
my $careless = $pool->background_psql('postgres', on_error_stop => 0);
$careless->query(q{SELECT status FROM idem_claim('lost')});
like($careless->{stderr} . slurp_file($node->logfile), qr/idempotency key "lost"/, 'a claim that is to be completed by the next transaction fails');
$careless->query(q{SELECT idem_complete('lost', '1')});
is(on(0, q{SELECT place('lost')}), 'claimed', 'and leaves nothing');
$careless->quit;

# what is prepared within a transaction is there within it
is(on(0, q{BEGIN; PREPARE p AS SELECT place($1); EXECUTE p('prepared'); DEALLOCATE p; COMMIT}), 'claimed', 'PREPARE and EXECUTE in one transaction');

# ---- what connections know does not outlive a change ----

my ($before, undef) = on_all(q{SELECT place('order')});
for my $turn (1 .. 4)
{
	on(0, q{UPDATE idem_ring SET opened_at = opened_at - interval '2 days' WHERE store = 'keys'}) if $turn == 1;
	on($turn % CONNECTIONS, 'CALL idem_maintain()');
	is((on_all(q{SELECT place('order')}))[1], 'completed completed completed', "while the ring turns: $turn");
	is((on_all("SELECT place('$turn ' || pg_backend_pid())"))[1], 'claimed claimed claimed', "each connection writes where it is to: $turn");
}
cmp_ok(on(0, q{SELECT current FROM idem_ring WHERE store = 'keys'}), '>', 0, 'it has turned');
on(0, q{ALTER TABLE orders ADD COLUMN at timestamptz DEFAULT now()});
is((on_all(q{SELECT place('altered ' || pg_backend_pid())}))[1], 'claimed claimed claimed', 'a table was altered');
on(0, q{REINDEX TABLE idem_keys_0; VACUUM FULL idem_keys_1});
is((on_all(q{SELECT place('altered ' || pg_backend_pid())}))[1], 'completed completed completed', "idem's tables were rewritten");
is(on(0, 'SELECT * FROM idem_verify()'), '', 'nothing is wrong');
on(0, q{DROP EXTENSION idem; CREATE EXTENSION idem});
is((on_all(q{SELECT place('anew ' || pg_backend_pid())}))[1], 'claimed claimed claimed', 'the extension was installed anew');
is((on_all('SELECT 1'))[0], $before, 'they were the same connections all the time');
is(on(0, 'SELECT * FROM idem_verify()'), '', 'nothing is wrong');

$_->quit for @client;
$node->stop;
done_testing();
