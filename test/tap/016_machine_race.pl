# Histories are paths: many sessions move rows and publish for keys, at all isolation levels, with rollbacks and savepoints,
# between partitions, while rules change and maintenance runs. Every key's messages are a path of the machine, by id, and as
# they were delivered; every row is where its messages say.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('race');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nmax_connections = 50\n");
$node->start;
my $dir = $node->basedir;

# any state may be asked for; what is refused or fails to serialize does nothing
$node->safe_psql('postgres', <<'EOF');
CREATE EXTENSION idem;
CREATE TABLE parted (id int, place int, state text, PRIMARY KEY (id, place)) PARTITION BY LIST (place);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
CREATE TABLE parted_1 (state text, place int NOT NULL, id int NOT NULL, PRIMARY KEY (id, place));
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1);
CREATE TABLE plain (id int PRIMARY KEY, state text);
CREATE TABLE history (n bigserial, id int, state text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO history (id, state) VALUES (NEW.id, NEW.state);
	RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION note();
SELECT idem_attach('plain', 'state', 'order', 'plain'), idem_attach('parted', 'state', 'order'), idem_guard_topic('plain', 'order'), idem_guard_topic('keys', 'order');
INSERT INTO plain SELECT i, 'created' FROM generate_series(1, 300) AS i;
INSERT INTO parted SELECT i, 0, 'created' FROM generate_series(1, 300) AS i;
SELECT idem_subscribe('c', ARRAY['keys'], start => 'earliest');
CREATE TABLE delivered (n bigserial, key text, type text);
CREATE FUNCTION state(n int) RETURNS text LANGUAGE sql RETURN (ARRAY['created', 'paid', 'completed', 'cancelled'])[n];
CREATE PROCEDURE try(k int, s int, how int) LANGUAGE plpgsql AS $$ BEGIN
	BEGIN
		UPDATE plain SET state = state(s) WHERE id = k;
		PERFORM idem_publish('keys', to_jsonb(how), k::text, state(s));
		UPDATE parted SET state = state(s), place = 1 - place WHERE id = k;
		IF how % 5 = 0 THEN
			RAISE EXCEPTION 'taken back' USING ERRCODE = 'ID012';
		END IF;
	EXCEPTION WHEN SQLSTATE 'ID012' OR serialization_failure THEN NULL;
	END;
	IF how % 7 = 0 THEN
		ROLLBACK;
	END IF;
END $$;
EOF

# and without a row that would queue them: all clients for one key, then for the next
$node->safe_psql('postgres', <<'EOF');
CREATE SEQUENCE turn;
CREATE PROCEDURE tell(s int, how int) LANGUAGE plpgsql AS $$ BEGIN
	BEGIN
		PERFORM idem_publish('keys', to_jsonb(how), 'turn ' || nextval('turn') / 24, state(s));
		IF how % 5 = 0 THEN
			RAISE EXCEPTION 'taken back' USING ERRCODE = 'ID012';
		END IF;
	EXCEPTION WHEN SQLSTATE 'ID012' OR serialization_failure THEN NULL;
	END;
END $$;
EOF
append_to_file("$dir/tell.sql", <<'EOF');
\set s random(1, 4)
\set how random(1, 1000)
CALL tell(:s, :how);
EOF

append_to_file("$dir/try.sql", <<'EOF');
\set k random(1, 300)
\set s random(1, 4)
\set how random(1, 1000)
\set level random(1, 3)
\if :level = 1
SET default_transaction_isolation = 'read committed';
\elif :level = 2
SET default_transaction_isolation = 'repeatable read';
\else
SET default_transaction_isolation = 'serializable';
\endif
CALL try(:k, :s, :how);
EOF
append_to_file("$dir/rules.sql", <<'EOF');
SET idem.strand_rows = on;
UPDATE idem_transitions SET enabled = NOT enabled WHERE machine = 'order' AND to_state = 'completed';
INSERT INTO idem_transitions VALUES ('order', 'cancelled', 'buried') ON CONFLICT DO NOTHING;
CALL idem_maintain();
DELETE FROM idem_transitions WHERE to_state = 'buried';
\sleep 20 ms
EOF
append_to_file("$dir/consume.sql", <<'EOF');
BEGIN;
WITH f AS (SELECT * FROM idem_fetch('c', 20) ORDER BY id), d AS (INSERT INTO delivered (key, type) SELECT key, type FROM f ORDER BY id)
SELECT idem_ack('c', batch) FROM f GROUP BY batch;
COMMIT;
\sleep 5 ms
EOF
my @running = map {
	start [ 'pgbench', '-n', '-c', $_->[1], '-T10', '--max-tries=100', '-f', "$dir/$_->[0].sql", '-p', $node->port, '-h', $node->host, 'postgres' ], '>&', \my $out
} [ 'try', 6 ], [ 'tell', 6 ], [ 'rules', 1 ], [ 'consume', 1 ];
$_->finish for @running;
is(join(' ', map { $_->result(0) } @running), '0 0 0 0', 'no client met an error');

$node->safe_psql('postgres', q{UPDATE idem_transitions SET enabled = true});
is($node->safe_psql('postgres', q{SELECT type, count(*) > 0 FROM idem_outbox WHERE topic = 'keys' GROUP BY 1 ORDER BY 1}),
	"cancelled|t\ncompleted|t\ncreated|t\npaid|t", 'all states were reached');
my $paths = <<'EOF';
	SELECT DISTINCT path FROM (SELECT string_agg(%s, ' ' ORDER BY %s) AS path FROM %s GROUP BY %s) AS p
	WHERE path NOT IN ('created', 'created paid', 'created cancelled', 'created paid completed')
EOF
is($node->safe_psql('postgres', sprintf($paths, 'type', 'id', q{idem_outbox WHERE topic = 'keys'}, 'key')), '', 'each key of a topic: a path');
is($node->safe_psql('postgres', sprintf($paths, 'type', 'id', q{idem_outbox WHERE topic = 'plain'}, 'key')), '', 'each row that publishes: a path');
is($node->safe_psql('postgres', q{SELECT p.id FROM plain AS p JOIN idem_outbox_states AS s ON s.topic = 'plain' AND s.key = p.id::text WHERE p.state <> s.state}), '',
	'and it is where its last message says');
is($node->safe_psql('postgres', sprintf($paths, 'state', 'n', q{(SELECT id, state, min(n) AS n FROM history GROUP BY 1, 2) AS h}, 'id')), '', 'each row: a path');
is($node->safe_psql('postgres', q{SELECT s.key FROM idem_outbox_states AS s WHERE (topic, key, state, id) NOT IN (SELECT DISTINCT ON (topic, key) topic, key, type, id FROM idem_outbox ORDER BY topic, key, id DESC)}), '',
	"each key's state is that of its last message");
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT id FROM parted GROUP BY id HAVING count(*) = 1) AS p}), '300', 'no row was lost between partitions');
$node->safe_psql('postgres', <<'EOF');
DO $$ DECLARE nothing text; BEGIN
	LOOP
		WITH f AS (SELECT * FROM idem_fetch('c', 1000) ORDER BY id), d AS (INSERT INTO delivered (key, type) SELECT key, type FROM f ORDER BY id)
		SELECT idem_ack('c', batch) INTO nothing FROM f GROUP BY batch;
		EXIT WHEN NOT FOUND;
		COMMIT;
	END LOOP;
END $$;
EOF
is($node->safe_psql('postgres', sprintf($paths, 'type', 'n', 'delivered', 'key')), '', 'and so they were delivered');
is($node->safe_psql('postgres', 'SELECT * FROM idem_verify()'), '', 'idem_verify() finds nothing');
$node->stop;
done_testing();
