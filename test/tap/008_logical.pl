# A publication FOR ALL TABLES, and so of the key tables too, troubles no verb; what they wrote can be decoded.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('logical');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', "log_statement = none\nmax_connections = 20\n");
$node->start;
$node->safe_psql('postgres', <<'EOF');
ALTER DATABASE postgres SET idem.key_ttl = '1s';
CREATE EXTENSION idem;
UPDATE idem_ring SET ttl = '{1,0,0}' WHERE store = 'keys';
CREATE PUBLICATION everything FOR ALL TABLES;
SELECT pg_create_logical_replication_slot('text', 'test_decoding');
SELECT pg_create_logical_replication_slot('binary', 'pgoutput');
EOF

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql('CREATE FUNCTION undo(jsonb) RETURNS void LANGUAGE sql AS $$$$');

sub place
{
	my ($key, $ttl) = @_;
	return sql("BEGIN; SELECT status FROM idem_claim('$key', ttl => '$ttl'); SELECT idem_complete('$key', '\"done\"'); COMMIT");
}

is(place('in the ring', '1s'), qq{claimed\n"done"}, 'claim and complete');
is(place('pinned', '1 day'), qq{claimed\n"done"}, 'the same with a longer ttl');
is(place('purged', '1100ms'), qq{claimed\n"done"}, 'and one that will expire');
is(sql(q{SELECT idem_evict('pinned')}), 't', 'evict');
is(place('pinned', '1 day'), qq{claimed\n"done"}, 'and claim anew');
sql(q{BEGIN; SELECT idem_claim('held'); SELECT idem_compensate_with('held', 'undo(jsonb)', '{"undo": 1}'); SELECT idem_complete('held', '1'); COMMIT});
is(sql(q{SELECT status FROM idem_cancel('held')}), 'compensated', 'cancel');

my $emptied = 0;
for (1 .. 600)
{
	$emptied = sql(q{CALL idem_maintain(); SELECT pg_relation_size('idem_keys_0') = 0 AND NOT EXISTS (SELECT FROM idem_pinned WHERE key = 'purged')}) eq 't';
	last if $emptied;
	select undef, undef, undef, 0.1;
}
ok($emptied, 'maintain truncates and purges');
is(sql(q{SELECT status, response FROM idem_claim('pinned')}), 'completed|"done"', 'and the rest replays');

my $text = sql(q{SELECT data FROM pg_logical_slot_get_changes('text', NULL, NULL)});
for my $change (qr/idem_keys_0: INSERT: .*'in the ring'/, qr/idem_pinned: INSERT: .*'purged'/, qr/idem_pinned: DELETE: .*'pinned'/,
	qr/idem_pinned: DELETE: .*'purged'/, qr/idem_pinned: UPDATE: old-key: .*'held'.*new-tuple: .*'compensated'/, qr/idem_ring: UPDATE: /)
{
	like($text, $change, "decoded: $change");
}
cmp_ok(sql(q{SELECT count(*) FROM pg_logical_slot_peek_binary_changes('binary', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')}),
	'>', 10, 'pgoutput decodes it too');

$node->stop;
done_testing();
