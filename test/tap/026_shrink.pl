# A large generation is cut down in steps before it is truncated. Whatever step the server crashes at, what is left of it
# is harmless: it can be read, vacuumed and dumped, claims go on, and the next upkeep finishes the work.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('shrink');
$node->init;
$node->append_conf('postgresql.conf', "restart_after_crash = on\nautovacuum = off\nlog_statement = none");
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Three quarters of it in the heap and the index, the rest beside it; and what lives, in the next generation.
sql(<<'EOF');
CREATE EXTENSION idem;
INSERT INTO idem_keys_0 (digest, claimed_at, completed_at, expires_at, scope, key, response)
SELECT idem_digest(k), now() - interval '2 days', now() - interval '2 days', now() - interval '1 day', '', k,
       CASE WHEN i % 260 = 0 THEN (SELECT to_jsonb(string_agg(md5(i || '/' || n), '')) FROM generate_series(1, 300) AS n) ELSE '{"order": 4711}' END
FROM generate_series(1, 400000) AS i, LATERAL (SELECT 'gone ' || i) AS r (k);
UPDATE idem_ring
SET step = 2, current = 1, opened_at = now(), ttl = '{86400,86400,0}', ends_at = ARRAY[now(), 'infinity', '-infinity']
WHERE store = 'keys';
EOF
sql(q{BEGIN; SELECT idem_claim('living'); SELECT idem_complete('living', '"here"'); COMMIT; CHECKPOINT});

sub size { return sql(q{SELECT pg_total_relation_size('idem_keys_0')}); }
sub usable { return sql(q{SELECT bool_and(indisvalid AND indisready) FROM pg_index WHERE indrelid = 'idem_keys_0'::regclass}); }
my $full = size();
cmp_ok($full, '>', 40_000_000, 'it is large');

# ---- crashes, each after some more of it has gone ----

my ($crashes, %seen) = (0);
for (1 .. 40)
{
	my $before = size();
	my $upkeep = start [ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'CALL idem_maintain()' ], '>', \my $out, '2>', \my $err;
	for (1 .. 600)
	{
		last if sql(qq{SELECT pg_total_relation_size('idem_keys_0') < $before}) eq 't' || !$upkeep->pumpable;
		$upkeep->pump_nb;
		select undef, undef, undef, 0.005;
	}
	$node->stop('immediate');
	$upkeep->finish;
	$node->start;
	$crashes++;
	last if sql(q{SELECT pg_relation_size('idem_keys_0') + pg_relation_size(reltoastrelid) = 0 FROM pg_class WHERE relname = 'idem_keys_0'}) eq 't';

	is(usable(), 'f', "crash $crashes: nobody uses its indexes");
	$seen{ sql(q{SELECT CASE WHEN pg_relation_size('idem_keys_0_digest') > 0 THEN 'index' WHEN pg_relation_size('idem_keys_0') > 0 THEN 'heap' ELSE 'toast' END}) }++;
	is( sql(q{SELECT (SELECT count(*) FROM idem_keys), (SELECT count(*) FROM idem_keys WHERE digest = idem_digest('gone 1')), (SELECT count(*) FROM idem_keys WHERE digest = idem_digest('living'))}),
		'1|0|1', "crash $crashes: the view is of what lives");
	is(sql(q{SELECT status, response FROM idem_claim('living')}), 'completed|"here"', "crash $crashes: it replays");
	is(sql(q{BEGIN; SELECT status FROM idem_claim('gone 5'); ROLLBACK}), 'claimed', "crash $crashes: what has expired is claimed");
	is(sql('SELECT * FROM idem_verify()'), '', "crash $crashes: idem_verify() finds nothing");
	is($node->psql('postgres', 'VACUUM idem_keys_0; ANALYZE idem_keys_0'), 0, "crash $crashes: it can be vacuumed");
	command_ok([ 'pg_dump', '-f', $node->basedir . '/dump.sql', $node->connstr('postgres') ], "crash $crashes: and dumped");
	sql('REINDEX TABLE idem_keys_0') if $crashes == 2;
}
cmp_ok($crashes, '>', 3, 'it was cut down in steps');
is(join(' ', sort keys %seen), 'heap index toast', 'the crashes came while each was cut');

# ---- and the end ----

sql('CALL idem_maintain()');
cmp_ok(size(), '<', 1_000_000, 'it is empty in the end');
is(usable(), 't', 'its indexes are whole again');
is(sql(q{SELECT indexrelid::regclass FROM pg_index WHERE NOT (indisvalid AND indisready)}), '', 'as are all');

# It takes keys once more, when the ring comes round.
sql(q{UPDATE idem_ring SET step = step + 1, ends_at = ARRAY['-infinity', now() + '1 day', 'infinity'], current = 2, opened_at = 'epoch', ttl = '{86400,86400,86400}' WHERE store = 'keys'});
sql('CALL idem_maintain()');
is(sql(q{SELECT current FROM idem_ring WHERE store = 'keys'}), '0', 'the ring has come round');
is( sql(q{BEGIN; SELECT idem_claim('gone 7'); SELECT idem_complete('gone 7', '1'); COMMIT; SELECT status FROM idem_claim('gone 7')}) =~ /completed$/,
	1, 'a key in it is found again');

# Nor does it ever come to one whose indexes are not whole, should the rows be gone before them.
sql(q{TRUNCATE idem_keys_1;
UPDATE pg_index SET indisvalid = false, indisready = false WHERE indexrelid = 'idem_keys_1_digest'::regclass;
UPDATE idem_ring SET step = step + 1, ends_at = ARRAY['infinity', '-infinity', now() + '1 day'], opened_at = 'epoch' WHERE store = 'keys';
CALL idem_maintain()});
is(sql(q{SELECT current, indisvalid, indisready FROM idem_ring, pg_index WHERE store = 'keys' AND indexrelid = 'idem_keys_1_digest'::regclass}),
	'1|t|t', 'one with a cut index is emptied again before it is opened');

done_testing();
