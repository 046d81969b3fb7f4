# pg_upgrade with everything in flight that outlives a server: keys, leases, compensations, tombstones, positions, watermarks,
# states. From each older server in build/older (scripts/matrix puts them there) to the next and at last to the one under test;
# where there is none, from the one under test to itself. What each server left is asked for after every step that follows.
use strict;
use warnings;
use Cwd qw(getcwd);
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# a directory with bin and lib for each server, oldest first; undef is the one under test
my @servers = sort glob(getcwd() . '/build/older/*/usr/lib/postgresql/*');
@servers = (undef) unless @servers;
push @servers, undef;

my ($node, $name, $count);
sub sql { return $node->safe_psql('postgres', $_[0]); }

# SQLSTATE of what fails
sub state_of
{
	my ($out, $err);
	return 'ok' if $node->psql('postgres', "\\set VERBOSITY sqlstate\n$_[0]", stdout => \$out, stderr => \$err) == 0;
	return $err =~ /ERROR:\s+(\w{5})/ ? $1 : $err;
}

sub new_node
{
	my ($server) = @_;
	$name = 's' . ++$count;
	my $new = PostgreSQL::Test::Cluster->new($name, $server ? (install_path => $server) : ());
	# 18 has checksums unless told otherwise, and pg_upgrade wants both alike
	$new->init(extra => $new->pg_version >= 18 ? ['--no-data-checksums'] : []);
	$new->append_conf('postgresql.conf', "log_statement = none\n");
	return $new;
}

# ---- what a server leaves ----

my %left; # by name of the server

# each key holds the name of the server on which it was made
sub leave
{
	my $left = $left{$name} = {};
	sql(<<EOF);
SELECT place('done $name'), place('long $name', '1 year'), place('cancelled $name'), place('undone $name'), place('confirmed $name');
SELECT idem_confirm('confirmed $name');
SELECT idem_cancel('cancelled $name', 'why not'), idem_cancel('never $name');
BEGIN; SELECT idem_claim('due $name'); SELECT idem_compensate_with('due $name', 'undo(jsonb)', '"due $name"', deadline => '1 us'); SELECT idem_complete('due $name', '1'); COMMIT;
SELECT idem_consume('inbox', 'message of $name');
SELECT idem_consume_seq('inbox $name', 0, 1), idem_consume_seq('inbox $name', 0, 2);
SELECT idem_subscribe('behind $name', ARRAY['t'], lanes => 2), idem_subscribe('up to date $name', ARRAY['t']), idem_subscribe('parked $name', ARRAY['t']), idem_subscribe('out $name', ARRAY['t'], external => true);
SELECT publish('$name', 20);
SELECT work('up to date $name', 100), work('behind $name', 3);
BEGIN; SELECT max(batch) AS b, max(id) AS id FROM idem_fetch('parked $name', 1) \\gset
SELECT idem_nack('parked $name', :b, :id, 'no', '1 us'); SELECT idem_ack('parked $name', :b); COMMIT;
INSERT INTO orders SELECT '$name ' || g, 'created' FROM generate_series(1, 2) AS g;
SELECT idem_publish('guarded', '1', '$name', 'created');
EOF
	$left->{$_} = sql("SELECT token FROM idem_claim('$_ $name', '{\"a\": 1}', lease => '1 day')") for qw(live over);
	sql("SELECT idem_checkpoint('over $name', $left->{over}, 'halfway', '{\"step\": 1}'), idem_renew('over $name', $left->{over}, '1 ms')");
	$left->{incarnation} = sql('SELECT idem_incarnation()');
	$left->{guarded} = sql("SELECT id FROM idem_outbox WHERE topic = 'guarded' AND key = '$name'");
	$left->{depth} = sql('SELECT consumer, lane, depth, parked FROM idem_consumers ORDER BY 1, 2');
	return;
}

# ---- and what must be there ----

sub check
{
	my ($from) = @_;
	my $left = $left{$from};
	my $what = "$from on $name";

	is(sql("SELECT status, response::text FROM idem_claim('done $from', '{\"key\": \"done $from\"}')"), qq(completed|{"key": "done $from", "pence": 1.50}), "$what: a replay answers the same");
	is(sql("SELECT place('long $from')"), 'completed', "$what: also from idem_pinned");
	is(sql("SELECT status FROM idem_claim('done $from', '{\"key\": \"another\"}')"), 'mismatch', "$what: another request is a mismatch");
	is(sql("SELECT place('cancelled $from'), place('never $from')"), 'cancelled|cancelled', "$what: what was cancelled is, tombstones stand");
	is(sql("SELECT status FROM idem_cancel('cancelled $from')"), 'already', "$what: a second cancellation too");
	is(sql("SELECT status FROM idem_cancel('confirmed $from')"), 'refused', "$what: what was confirmed is");
	is(sql("SELECT idem_consume('inbox', 'message of $from'), idem_consume_seq('inbox $from', 0, 2), idem_consume_seq('inbox $from', 0, 4)"), 'f|duplicate|gap',
		"$what: the inbox knows what it had");
	is(state_of("UPDATE orders SET state = 'completed' WHERE id = '$from 1'"), 'ID012', "$what: the guard is on");
	is(sql("SELECT idem_publish('guarded', '1', '$from', 'created')"), $left->{guarded}, "$what: a retry of a state has the first one's id");
	is(state_of("SELECT idem_publish('guarded', '1', '$from', 'completed')"), 'ID012', "$what: and none is skipped");
	return if $left->{checked}++;

	# what can be asked once only
	sql("SELECT publish('$from', 5)");
	sql("SELECT work('$_ $from', 7)") for ('behind', 'up to date', 'parked') x 12;
	is(sql(<<EOF), '', "$what: each consumer has had each message once");
		SELECT consumer, id, count(*) FROM (SELECT consumer, id FROM done UNION ALL
			SELECT c, p.id FROM published AS p, unnest('{behind $from,up to date $from,parked $from}'::text[]) AS c) AS d
		WHERE id IN (SELECT id FROM published WHERE server = '$from') AND consumer LIKE '% $from' GROUP BY 1, 2 HAVING count(*) <> 2 ORDER BY 1, 2
EOF
	is(sql("SELECT DISTINCT attempt FROM done WHERE consumer = 'parked $from' AND attempt > 1"), '2', "$what: what was parked came again, as the second attempt");
	my $incarnation = sql('SELECT idem_incarnation()');
	isnt($incarnation, $left->{incarnation}, "$what: another incarnation");
	my $delivered = '';
	for (1 .. 5) # what is to be delivered is fixed first
	{
		$delivered ||= sql(<<EOF);
BEGIN;
SELECT min(seq) AS seq, count(*) AS n, count(*) > 0 AS some, min(source) AS source FROM idem_fetch('out $from', 100) \\gset
\\if :some
ROLLBACK;
\\echo :seq :n :source
\\else
COMMIT;
\\endif
EOF
	}
	like($delivered, qr/^1 25 out $from\@$incarnation\./, "$what: to others it is another source, which begins with 1");

	is(sql("SELECT status FROM idem_cancel('undone $from')"), 'compensated', "$what: a handler that was registered there runs here");
	is(sql("CALL idem_maintain(); SELECT place('due $from')"), 'cancelled', "$what: and a deadline is kept");
	is(sql("SELECT string_agg(what, ', ' ORDER BY what) FROM undone WHERE what LIKE '% $from'"), "cancelled $from, due $from, undone $from", "$what: each once");

	is(sql("SELECT status FROM idem_claim('live $from', '{\"a\": 1}', wait => '0')"), 'in_progress', "$what: a lease is somebody's");
	is(state_of("SELECT idem_complete('live $from', '1', token => $left->{live})"), 'ok', "$what: its owner completes it");
	my ($token) = (my $claim = sql("SELECT token, status, attempt, checkpoint FROM idem_claim('over $from', '{\"a\": 1}', lease => '1 h')")) =~ /^(\d+)/;
	is($claim, qq($token|claimed|2|{"step": "halfway", "state": {"step": 1}}), "$what: one that is over is taken over, with the last checkpoint");
	is(state_of("SELECT idem_complete('over $from', '1', token => $left->{over})"), 'ID017', "$what: and its late owner is refused");
	my @tokens = map { $_->{live}, $_->{over}, $_->{taken} // 0 } values %left;
	is(scalar(grep { $_ == $token } @tokens), 0, "$what: no token is given out twice");
	cmp_ok($token & (1 << 48) - 1, '>', max(map { $_ & (1 << 48) - 1 } @tokens), "$what: for their sequence goes on");
	$left->{taken} = $token;
	return;
}

# ---- the steps ----

$node = new_node(shift @servers);
$node->start;
sql(<<'EOF');
CREATE EXTENSION idem;
CREATE TABLE undone (what text);
CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$INSERT INTO undone VALUES ($1 #>> '{}')$$;
CREATE FUNCTION place(k text, life interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	SELECT status INTO answer FROM idem_claim(k, jsonb_build_object('key', k), ttl => life);
	IF answer = 'claimed' THEN
		IF k ~ '^(cancelled|undone|confirmed)' THEN
			PERFORM idem_compensate_with(k, 'undo(jsonb)', to_jsonb(k), deadline => '1 year');
		END IF;
		PERFORM idem_complete(k, jsonb_build_object('pence', 1.50, 'key', k));
	END IF;
	RETURN answer;
END $$;
CREATE TABLE published (server text, id bigint);
CREATE FUNCTION publish(s text, n int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO published SELECT s, idem_publish('t', to_jsonb(i), 'key ' || i % 7) FROM generate_series(1, n) AS i $$;
CREATE TABLE done (consumer text, id bigint, attempt int);
CREATE FUNCTION work(c text, n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	b bigint; ids bigint[]; attempts int[];
BEGIN
	SELECT max(batch), array_agg(id), array_agg(attempt) INTO b, ids, attempts FROM idem_fetch(c, n);
	IF b IS NOT NULL THEN
		INSERT INTO done SELECT c, m.id, m.attempt FROM unnest(ids, attempts) AS m (id, attempt);
		PERFORM idem_ack(c, b);
	END IF;
END $$;
CREATE TABLE orders (id text PRIMARY KEY, state text);
SELECT idem_attach('orders', 'state', 'order'), idem_guard_topic('guarded', 'order');
EOF
# another database, whose ring turns every second
sql('CREATE DATABASE turning');
$node->safe_psql('turning', <<'EOF');
ALTER DATABASE turning SET idem.key_ttl = '1s';
CREATE EXTENSION idem;
UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys';
BEGIN; SELECT idem_claim('short', ttl => '1s'), idem_claim('long', ttl => '1 year'); SELECT idem_complete('short', '1'), idem_complete('long', '1'); COMMIT;
EOF
# and one that is upgraded while a retired generation is being shrunk, whose indexes pg_upgrade leaves out
sql('CREATE DATABASE shrinking');
$node->safe_psql('shrinking', 'CREATE EXTENSION idem');

sub begin_to_shrink
{
	my ($on) = @_;
	$on->safe_psql('shrinking', <<'EOF');
INSERT INTO idem_keys_0 (digest, claimed_at, completed_at, expires_at, scope, key, response)
SELECT idem_digest(k), now() - interval '2 days', now() - interval '2 days', now() - interval '1 day', '', k, '{"order": 4711}'
FROM generate_series(1, 200000) AS i, LATERAL (SELECT 'gone ' || i) AS r (k);
UPDATE idem_ring SET step = step + 1, current = 1, opened_at = now(), ttl = '{86400,86400,0}', ends_at = ARRAY[now(), 'infinity', '-infinity']
WHERE store = 'keys';
UPDATE idem_ring SET step = step + 1, ttl = '{86400,86400,86400}' WHERE store = 'outbox';
BEGIN; SELECT idem_claim('living'); SELECT idem_complete('living', '1'); COMMIT;
EOF
	for (1 .. 20) # until it has just begun
	{
		$on->psql('shrinking', "SET statement_timeout = '100ms'; CALL idem_maintain()");
		last if $on->safe_psql('shrinking', q{SELECT indisvalid FROM pg_index WHERE indexrelid = 'idem_keys_0_digest'::regclass}) eq 'f';
	}
	# and what a begun one is, where two indexes are
	$on->safe_psql('shrinking', q{UPDATE pg_index SET indisvalid = false, indisready = false WHERE indrelid = 'idem_outbox_2'::regclass});
	return;
}

sub goes_on_to_shrink
{
	my $lost = q{SELECT string_agg(n, ', ') FROM unnest('{idem_keys_0_digest,idem_outbox_2_id,idem_outbox_2_xid}'::text[]) AS n WHERE to_regclass(n) IS NULL};
	my $all = q{SELECT regexp_replace(indexdef, '_[012]', '', 'g'), count(*) FROM pg_indexes
		WHERE tablename ~ '_[012]$' GROUP BY 1 HAVING count(*) <> 3};
	my $shrinking = sub { return $node->safe_psql('shrinking', $_[0]); };
	is($shrinking->($lost), 'idem_keys_0_digest, idem_outbox_2_id, idem_outbox_2_xid', "$name: indexes of what was being shrunk are gone");
	is($shrinking->(q{SELECT status FROM idem_claim('living'); BEGIN; SELECT status FROM idem_claim('gone 5'); ROLLBACK}),
		"completed\nclaimed", "$name: nobody misses them");
	$shrinking->('CALL idem_maintain()');
	is($shrinking->("$lost; $all"), '', "$name: upkeep makes them again, as they were");
	is($shrinking->(q{SELECT pg_relation_size('idem_keys_0')}), 0, "$name: of what is empty");
	$shrinking->(q{UPDATE idem_ring SET step = step + 1, ends_at = ARRAY['-infinity', now() + '1 day', 'infinity'], current = 2, opened_at = 'epoch', ttl = '{86400,86400,86400}' WHERE store = 'keys'; CALL idem_maintain()});
	is($shrinking->(q{SELECT current FROM idem_ring WHERE store = 'keys'; BEGIN; SELECT idem_claim('again'); SELECT idem_complete('again', '1'); COMMIT; SELECT status FROM idem_claim('again');
		EXPLAIN (COSTS off) SELECT FROM idem_keys_0 WHERE digest = 1}) =~ /^0\n.*\ncompleted\n.*idem_keys_0_digest/s, 1, "$name: and when the ring has come round, keys are found by them");
	is($shrinking->('SELECT * FROM idem_verify()'), '', "$name: idem_verify() finds nothing there");
	$shrinking->(q{TRUNCATE idem_keys_0, idem_keys_1, idem_keys_2});
	return;
}

my ($bindir) = grep { -x "$_/pg_upgrade" } split /:/, $ENV{PATH}; # that of the servers under test

my @was;
while (@servers)
{
	note "$name: ", sql('SELECT version()');
	leave();
	is(sql('SELECT * FROM idem_verify()'), '', "$name: idem_verify() finds nothing");
	push @was, $name;

	my $old = $node;
	$node = new_node(shift @servers);
	my @bindirs = map { $_->install_path ? $_->install_path . '/bin' : $bindir } $old, $node;
	# 15.20 gives columns an option that servers older than itself, be they of a later major version, do not take
	if (!grep { /pg_attver/ } slurp_file("$bindirs[1]/postgres"))
	{
		$old->safe_psql($_, "SET allow_system_table_mods = on; UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text ~ 'pg_attver'") for qw(postgres turning shrinking);
	}
	begin_to_shrink($old);
	$old->stop;
	# the old one's libraries, where this Debian has none of that name
	local $ENV{LD_LIBRARY_PATH} = join ':', map { $_ ? "$_/lib" : () } map { $_->install_path } $node, $old;
	chdir $node->basedir;
	command_ok([ "$bindirs[1]/pg_upgrade", '--no-sync', '-d', $old->data_dir, '-D', $node->data_dir, '-b', $bindirs[0], '-B', $bindirs[1],
		'-s', $node->host, '-p', $old->port, '-P', $node->port ], $old->pg_version . ' to ' . $node->pg_version);
	$node->start;
	is(sql('SELECT consumer, lane, depth, parked FROM idem_consumers ORDER BY 1, 2'), $left{ $was[-1] }{depth}, "$name: positions are where they were");
	is(sql('SELECT * FROM idem_verify()'), '', "$name: idem_verify() finds nothing");
	check($_) for @was;
	goes_on_to_shrink();
	is(sql("SELECT place('new on $name'); CALL idem_maintain(); SELECT * FROM idem_verify()"), 'claimed', "$name: it goes on");
}

# ---- and the ring turns on ----

my $step = $node->safe_psql('turning', "SELECT step FROM idem_ring WHERE store = 'keys'");
ok($node->poll_query_until('turning', "CALL idem_maintain(); SELECT step >= $step + 2 FROM idem_ring WHERE store = 'keys'", "CALL\nt"), 'the ring turns');
is($node->safe_psql('turning', q{SELECT status FROM idem_claim('long'); BEGIN; SELECT status FROM idem_claim('short'); ROLLBACK}),
	"completed\nclaimed", 'and forgets what is over, only');
is($node->safe_psql('turning', 'SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');

$node->stop;
done_testing();
