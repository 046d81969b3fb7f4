# A database moves to another server by logical replication, as docs/operations.md says, word for word: under load, while the
# ring turns on both sides. No request that was done there is done again here, no message is lost or worked on twice, and
# meanwhile nobody can write to the new one.
use strict;
use warnings;
use FindBin;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($section) = slurp_file("$FindBin::RealBin/../../docs/operations.md") =~ /^## Moving by logical replication\n(.*?)^## /ms;
my ($begin, $wait, $switch) = $section =~ /^```sh\n(.*?)^```/msg;
my ($schema, $subscribe) = $begin =~ /^(pg_dump.*?\n)(.*)$/s;
my ($stop, $go) = $switch =~ /^(.*?)(psql [^\n]*setval.*)$/s;

my ($old, $new) = map {
	my $node = PostgreSQL::Test::Cluster->new($_);
	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', <<'EOC');
shared_preload_libraries = 'idem'
idem.naptime = 1s
idem.key_ttl = 1s
log_statement = none
max_connections = 40
max_prepared_transactions = 5
wal_retrieve_retry_interval = 500ms
EOC
	$node->start;
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node;
} qw(old new);
($ENV{OLD}, $ENV{NEW}) = map { sprintf 'host=%s port=%d dbname=shop', $_->host, $_->port } $old, $new;

sub as_documented
{
	my ($commands, $what) = @_;
	command_ok([ 'timeout', '180', 'bash', '-eo', 'pipefail', '-c', $commands ], $what);
	return;
}

sub on { my ($node, $sql) = @_; return $node->safe_psql('shop', $sql); }

sub until_true
{
	my ($node, $sql) = @_;
	for (1 .. 600)
	{
		return if on($node, $sql) eq 't';
		select undef, undef, undef, 0.1;
	}
	die "never true: $sql";
}

on($old, <<'EOS');
CREATE EXTENSION idem;
UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys';
CREATE TABLE orders (key text, by text);
CREATE TABLE done (at bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id bigint, key text);
CREATE TABLE undone (what jsonb);
CREATE TABLE locks (key text PRIMARY KEY, n int);
INSERT INTO locks SELECT 'key ' || i, 0 FROM generate_series(0, 3) AS i;
CREATE FUNCTION undo(what jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$ INSERT INTO undone VALUES (what) $$;
CREATE FUNCTION place(k text, life interval, by text DEFAULT 'old') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer record;
BEGIN
	SELECT * INTO answer FROM idem_claim(k, to_jsonb(k), ttl => life);
	IF answer.status = 'claimed' THEN
		INSERT INTO orders VALUES (k, by);
		UPDATE locks SET n = n + 1 WHERE key = 'key ' || length(k) % 4;
		PERFORM idem_publish('t', to_jsonb(k), 'key ' || length(k) % 4);
		PERFORM idem_complete(k, to_jsonb('done: ' || k));
	ELSIF answer.response IS DISTINCT FROM to_jsonb('done: ' || k) THEN
		RAISE 'not what was answered first: %', answer;
	END IF;
	RETURN answer.status;
END $$;
CREATE FUNCTION work(n int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	b bigint;
	messages int;
BEGIN
	WITH f AS (SELECT * FROM idem_fetch('work', n) ORDER BY id), d AS (INSERT INTO done (id, key) SELECT id, key FROM f)
	SELECT max(batch), count(*) INTO b, messages FROM f;
	IF b IS NOT NULL THEN PERFORM idem_ack('work', b); END IF;
	RETURN messages;
END $$;
SELECT idem_subscribe('work', lanes => 2), idem_subscribe('relay', external => true);
UPDATE idem_transitions SET enabled = false WHERE to_state = 'cancelled';
INSERT INTO idem_transitions (machine, from_state, to_state) VALUES ('parcel', NULL, 'sent'), ('parcel', 'sent', 'lost');
SELECT idem_guard_topic('parcels', 'parcel');
SELECT place('before ' || i, '20 hours') FROM generate_series(1, 50) AS i;
EOS

# ---- the new server gets the tables, and has a life of its own until it subscribes: it is ahead in the ring ----

as_documented($schema, 'documented: the schema');
on($new, q{UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys'});
my $session = $new->background_psql('shop', on_error_stop => 0);
like($session->query_safe(q{BEGIN; SELECT status FROM idem_claim('of its own'); SELECT idem_complete('of its own', '1'); COMMIT}), qr/^claimed/, 'a session uses the new server, which is not as documented');
until_true($new, q{SELECT step > 20 FROM idem_ring WHERE store = 'keys'});
sub upkeep { my ($node, $naptime) = @_; $node->append_conf('postgresql.conf', "idem.naptime = $naptime"); $node->reload; return; }
upkeep($new, '1d'); # so that nothing but the subscription tells the session
is($session->query(q{SELECT count(*) FROM idem_status('of its own')}), 1, 'it knows where the tables are');

# ---- it subscribes, under load ----

my $script = $old->basedir . '/place.sql';
append_to_file($script, <<'EOS');
\set k random(1, 1000000000)
\set life random(0, 1)
SELECT place('key ' || :k, CASE :life WHEN 0 THEN '500ms' ELSE '20 hours' END::interval);
\set parcel random(1, 20)
BEGIN; SELECT idem_publish('parcels', '1', :parcel::text, 'sent'); SELECT work(5); COMMIT;
EOS
my $load = start [ 'pgbench', '-nc3', '-T600', '-R', '150', '-f', $script, $ENV{OLD} ], '>&', \my $load_says;
as_documented($subscribe, 'documented: a publication and a subscription');

# verbs of each kind are refused, by a session from before too
is($session->query(q{SELECT place('x', '1s')}), '', 'refused, in the session that has claimed before');
my @verbs = (q{SELECT place('x', '1s')}, q{SELECT idem_complete('x', '1')}, q{SELECT idem_cancel('x')}, q{SELECT idem_publish('t', '1')},
	q{INSERT INTO idem_outbox (topic, payload) VALUES ('t', '1')}, q{SELECT work(1)}, q{SELECT idem_consume('s', 'm')},
	q{CALL idem_maintain()}, q{SELECT idem_status('x')}, q{SELECT idem_pending('work')});
for my $verb (@verbs)
{
	my ($out, $err);
	$new->psql('shop', "\\set VERBOSITY verbose\n$verb", stdout => \$out, stderr => \$err);
	like($err, qr/ERROR:  25006: cannot execute idem_\w+\(\) while a subscription writes idem's tables\n.*DETAIL:  Subscription "move"/, "refused: $verb");
}
upkeep($new, '1s'); # it would be the first to turn the ring
upkeep($old, '3s');
as_documented($wait, 'documented: until all is copied');

# ---- the ring turns and empties what has expired; then keys that live, in two generations ----

my $step = on($old, q{SELECT step FROM idem_ring WHERE store = 'keys'});
until_true($old, "SELECT step > $step + 8 FROM idem_ring WHERE store = 'keys'");
$old->safe_psql('postgres', q{ALTER DATABASE shop SET idem.key_ttl = '1d'});
until_true($old, q{SELECT ttl[current + 1] = 86400 FROM idem_ring WHERE store = 'keys'});
my $generations = q{SELECT count(DISTINCT g) FROM (SELECT 0 AS g, expires_at FROM idem_keys_0 UNION ALL SELECT 1, expires_at FROM idem_keys_1 UNION ALL SELECT 2, expires_at FROM idem_keys_2) AS k
	WHERE expires_at > now() + interval '1 hour'};
until_true($old, "SELECT ($generations) = 1");
on($old, q{UPDATE idem_ring SET opened_at = opened_at - interval '2 days' WHERE store = 'keys'});
until_true($old, "SELECT ($generations) = 2");

# what is not done yet: a lease, something to undo, half of a window, deliveries outside, a transaction that runs while positions are taken
my $token = on($old, q{SELECT token FROM idem_claim('leased', lease => '1 h')});
on($old, q{BEGIN; SELECT idem_claim('held'); SELECT idem_compensate_with('held', 'undo(jsonb)', '"held"', deadline => '1 h'); SELECT idem_complete('held', '1'); COMMIT});
is(on($old, q{SELECT idem_consume('s', 'm1'), idem_consume_seq('s', 0, 1)}), 't|first', 'an inbox');
my $late = $old->background_psql('shop');
$late->query_safe(q{BEGIN; SELECT place('late', '20 hours')});
on($old, q{SELECT idem_fetch('relay', 3)});
my $delivered = on($old, q{BEGIN; SELECT seq, message_id FROM idem_fetch('relay', 3); ROLLBACK});
$late->query_safe('COMMIT');
$late->quit;
on($old, q{BEGIN; SELECT place('prepared', '20 hours'); PREPARE TRANSACTION 'p'});

# ---- the switch ----

my ($shut, $rest) = $stop =~ /^(.*?)(test -z .*)$/s;
as_documented($shut, 'documented: no writing to the old server');
$load->finish;
command_fails([ 'bash', '-eo', 'pipefail', '-c', $rest ], 'not while a transaction is prepared');
on($old, q{SET default_transaction_read_only = off; COMMIT PREPARED 'p'});
as_documented($rest, 'documented: all has come');
is($old->psql('shop', q{SELECT place('x', '1s')}), 3, 'the old server takes no claim');

my $rings = q{SELECT * FROM idem_ring ORDER BY store, step};
is(on($new, $rings), on($old, $rings), 'the ring is the one that was replicated, and nobody has turned it');
is(on($new, 'SELECT count(*) FROM idem_ring'), 5, 'and no other');
is(on($new, 'SELECT * FROM idem_verify()'), '', 'sequences have followed');
cmp_ok(on($new, 'SELECT last_value FROM idem_outbox_ids'), '>', 100, 'of messages');
is(on($new, 'SELECT count(*) FROM orders'), on($old, 'SELECT count(*) FROM orders'), 'all orders have come');
$new->append_conf('postgresql.conf', 'idem.key_ttl = 1d');
$new->reload;
as_documented($go, 'documented: the new one takes over');

# ---- here ----

# first those that have not looked yet; then the session that knew another ring
my $retry = q{SELECT DISTINCT place(key, '1 day', 'again') FROM orders WHERE key IN (SELECT key FROM idem_keys WHERE expires_at > now() + interval '1 hour')
	OR key ~ '^(before|late|prepared)'};
my $living = on($old, q{SELECT count(*) FROM idem_keys WHERE expires_at > now() + interval '1 hour'});
cmp_ok($living, '>', 100, 'there are keys that live');
is(on($new, q{SELECT count(*) FROM idem_keys WHERE expires_at > now() + interval '1 hour'}), $living, 'they are here');
is($session->query($retry), 'completed', 'each replays its first answer');
is(on($new, $retry), 'completed', 'in a new session too');
is(on($new, q{SELECT * FROM orders WHERE by = 'again'}), '', 'none was done again');
is(on($new, q{SELECT place('first here', '1 day', 'new'), place('first here', '1 day', 'again')}), 'claimed|completed', 'a new one is done');

on($new, "SELECT idem_complete('leased', '1', token => $token)");
is(on($new, q{SELECT status FROM idem_claim('leased')}), 'completed', 'the token holds');
isnt(on($new, q{SELECT token FROM idem_claim('leased here', lease => '1 h')}), $token, 'and is not given out again');
is(on($new, q{SELECT status FROM idem_cancel('held')}), 'compensated', 'what is held can be undone');
is(on($new, q{SELECT status FROM idem_cancel('held')}), 'already', 'once');
is(on($new, q{SELECT count(*) FROM undone}), 1, 'was undone once');
is(on($new, q{SELECT idem_consume('s', 'm1'), idem_consume('s', 'm2'), idem_consume_seq('s', 0, 1), idem_consume_seq('s', 0, 2)}), 'f|t|duplicate|first', 'the inbox remembers');
is(on($new, q{SELECT string_agg(s, ' ') FROM idem_next_states('order', 'created') AS s}), 'paid', 'a rule that was disabled is');
is(on($new, q{SELECT count(*) FROM (SELECT idem_publish('parcels', '1', i::text, 'sent') FROM generate_series(1, 20) AS i) AS p}), 20, 'states of a guarded topic');
is(on($new, q{SELECT key FROM idem_outbox WHERE topic = 'parcels' GROUP BY key HAVING count(*) > 1}), '', 'are known');

on($new, q{BEGIN; SELECT place('of 100 ' || i, '1 day', 'new') FROM generate_series(1, 100) AS i; COMMIT});
for (1 .. 500)
{
	last if on($new, q{SELECT work(100) + work(100)}) eq '0';
}
is(on($new, 'SELECT id FROM idem_outbox WHERE id > (SELECT min(id) FROM done) EXCEPT ALL SELECT id FROM done'), '', 'each message was worked on');
is(on($new, 'SELECT id FROM done GROUP BY id HAVING count(*) > 1'), '', 'once');
is(on($new, q{SELECT * FROM (SELECT id, lag(id) OVER (PARTITION BY key ORDER BY at) AS before FROM done WHERE key IS NOT NULL) AS d WHERE id < before}), '', 'those of a key in order');
on($new, q{SELECT idem_fetch('relay', 3)});
is(on($new, q{BEGIN; SELECT seq, message_id FROM idem_fetch('relay', 3); ROLLBACK}), $delivered, 'what was delivered and not acked is again');
is(on($new, q{BEGIN; SELECT DISTINCT source LIKE 'relay@' || idem_incarnation() || '%' FROM idem_fetch('relay', 3); ROLLBACK}), 't', 'by another source');
isnt(on($new, 'SELECT idem_incarnation()'), on($old, 'SELECT idem_incarnation()'), 'of another incarnation');
on($new, 'CALL idem_maintain()');
is(on($new, 'SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');
unlike(slurp_file($new->logfile), qr/idem maintenance|tuple concurrently|duplicate key/, 'nothing went wrong meanwhile');

$session->quit;
$old->stop;
$new->stop;
done_testing();
