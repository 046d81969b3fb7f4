# An asynchronous standby is promoted under load, while the old primary goes on: it has delivered more than the standby has, and
# ids and seqs that were given out are given out again for other messages. The receiver, which knows (source, lane, seq) and
# message ids, applies each message of either server once; one that goes by the watermark alone, whoever the source is, loses.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $receiver = PostgreSQL::Test::Cluster->new('receiver');
$receiver->init;
$receiver->append_conf('postgresql.conf', "log_statement = none\n");
$receiver->start;
$receiver->safe_psql('postgres', <<'EOS');
CREATE EXTENSION idem;
CREATE TABLE delivered (at bigint GENERATED ALWAYS AS IDENTITY, source text, lane int, seq bigint, message_id text, answer text);
CREATE TABLE applied (at bigint GENERATED ALWAYS AS IDENTITY, message_id text, key text, n int);
CREATE TABLE applied_naively (message_id text);
CREATE TABLE lost_naively (message_id text);

-- the rows of a batch, in one transaction
CREATE FUNCTION receive(messages jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	m record;
	answer text;
BEGIN
	FOR m IN SELECT * FROM jsonb_to_recordset(messages) AS r (source text, lane int, seq bigint, message_id text, key text, payload int) ORDER BY seq LOOP
		answer := idem_consume_seq(m.source, m.lane, m.seq);
		INSERT INTO delivered (source, lane, seq, message_id, answer) VALUES (m.source, m.lane, m.seq, m.message_id, answer);
		IF answer = 'gap' THEN RETURN false; END IF;
		IF answer = 'first' AND idem_consume('relay', m.message_id) THEN
			INSERT INTO applied (message_id, key, n) VALUES (m.message_id, m.key, m.payload);
		END IF;

		-- a lesser receiver
		IF idem_consume_seq('relay', m.lane, m.seq) = 'first' THEN
			INSERT INTO applied_naively VALUES (m.message_id);
		ELSIF NOT EXISTS (SELECT FROM applied_naively AS a WHERE a.message_id = m.message_id) THEN
			INSERT INTO lost_naively VALUES (m.message_id);
		END IF;
	END LOOP;
	RETURN true;
END $$;
CREATE INDEX ON applied_naively (message_id);
EOS
my $to = $receiver->connstr('postgres');

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "log_statement = none\nmax_connections = 50\nmax_prepared_transactions = 5\n");
$primary->start;
$primary->safe_psql('postgres', <<"EOS");
CREATE EXTENSION idem;
CREATE EXTENSION dblink;
CREATE TABLE account (key text PRIMARY KEY, n int NOT NULL);
INSERT INTO account SELECT 'k' || g, 0 FROM generate_series(1, 12) AS g;
CREATE FUNCTION publish() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	chosen text := 'k' || 1 + floor(random() * 12)::int;
	a account;
BEGIN
	IF random() < 0.3 THEN
		PERFORM idem_publish('t', '0'), pg_sleep(random() / 20);
	ELSE
		UPDATE account SET n = n + 1 WHERE key = chosen RETURNING * INTO a;
		PERFORM idem_publish('t', to_jsonb(a.n), a.key);
	END IF;
	IF random() < 0.1 THEN RAISE 'rolled back'; END IF;
END \$\$;

-- acks what the receiver has committed; and sometimes dies between the two
CREATE FUNCTION relay() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	b bigint;
	messages jsonb;
	done boolean;
BEGIN
	SELECT max(batch), jsonb_agg(to_jsonb(f) ORDER BY seq) INTO b, messages FROM idem_fetch('relay', 10) AS f;
	IF b IS NOT NULL THEN
		SELECT t.done INTO done FROM dblink(\$to\$$to\$to\$, format('SELECT receive(%L)', messages)) AS t (done boolean);
		IF NOT done THEN RAISE 'a gap'; END IF;
		IF random() < 0.1 THEN RAISE 'the ack is lost'; END IF;
		PERFORM idem_ack('relay', b);
	END IF;
END \$\$;
SELECT idem_subscribe('relay', lanes => 3, external => true);
EOS
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\n");
$standby->start;

# ---- clients that begin again until they are told to stop ----

my $dir = $receiver->basedir;
append_to_file("$dir/publish.sql", "SELECT publish();\n" x 20);
append_to_file("$dir/relay.sql", "SELECT relay();\nSELECT pg_sleep(0.01);\n" x 20);
my %clients;

sub begin
{
	my ($node, $name, $count) = @_;
	unlink "$dir/" . $node->name . "-$name-stop";
	push @{ $clients{ $node->name . $name } }, start([ 'sh', '-c', 'until [ -e "$0" ]; do psql -XAtq -d "$1" -f "$2"; sleep 0.02; done',
		"$dir/" . $node->name . "-$name-stop", $node->connstr('postgres'), "$dir/$name.sql" ], '>', '/dev/null', '2>', '/dev/null')
		for 1 .. $count;
	return;
}

sub end
{
	my ($node, $name) = @_;
	append_to_file("$dir/" . $node->name . "-$name-stop", '');
	$_->finish for @{ delete $clients{ $node->name . $name } };
	return;
}

# also when a test dies
END
{
	local $?;
	if ($dir)
	{
		append_to_file("$dir/$_-stop", '') for map { ("$_-publish", "$_-relay") } qw(primary standby);
	}
}

# messages by message_id: era, timeline and installation, id
sub published
{
	my ($node) = @_;
	my %messages = map { my ($message_id, $key, $n) = split /\|/; $message_id => "$key|$n" }
		split /\n/, $node->safe_psql('postgres', q{
			SELECT format('%s.%s.%s.%s', era, branch >> 32, branch & 4294967295, id), key, payload
			FROM (SELECT * FROM idem_outbox_0 UNION ALL SELECT * FROM idem_outbox_1 UNION ALL SELECT * FROM idem_outbox_2) AS m});
	return \%messages;
}

sub delivers
{
	my ($node, $more) = @_;
	my $had = $receiver->safe_psql('postgres', 'SELECT count(*) FROM applied');
	$receiver->poll_query_until('postgres', "SELECT count(*) >= $had + $more FROM applied") or die 'nothing is delivered';
	return;
}

sub is_delivered
{
	my ($node) = @_;
	return $node->poll_query_until('postgres', q{SELECT sum(depth) = 0 FROM idem_consumers});
}

begin($primary, publish => 4);
begin($primary, relay => 3);
delivers($primary, 300);
my $old_source = 'relay@' . $primary->safe_psql('postgres', 'SELECT idem_incarnation()');

# the standby gets no more; what is in line then, both are going to deliver
end($primary, 'relay');
$primary->poll_query_until('postgres', q{SELECT sum(depth) > 50 FROM idem_consumers}) or die 'nothing is published';
$primary->wait_for_catchup($standby);
$standby->append_conf('postgresql.conf', "primary_conninfo = 'host=/nowhere'\n");
$standby->reload;
$primary->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_replication') or die 'it streams on';
begin($primary, relay => 3);
delivers($primary, 300);
$standby->promote;
my $new_source = 'relay@' . $standby->safe_psql('postgres', 'SELECT idem_incarnation()');
isnt($new_source, $old_source, 'promoted, it is another incarnation');

# both deliver for a while, and the new one crashes in between
begin($standby, publish => 4);
begin($standby, relay => 3);
delivers($standby, 300);
$standby->stop('immediate');
$standby->start;
is('relay@' . $standby->safe_psql('postgres', 'SELECT idem_incarnation()'), $new_source, 'after a crash it is the same');
delivers($standby, 300);
for my $node ($primary, $standby)
{
	end($node, 'publish');
	ok(is_delivered($node), $node->name . ': everything is delivered');
	end($node, 'relay');
	is($node->safe_psql('postgres', 'SELECT * FROM idem_verify()'), '', $node->name . ': idem_verify() finds nothing');
}

# ---- what must be true ----

my ($old, $new) = map { published($_) } $primary, $standby;
my %applied;
$applied{ (split /\|/)[0] } .= '1' for split /\n/, $receiver->safe_psql('postgres', 'SELECT message_id FROM applied');
for ([ 'old', $old ], [ 'new', $new ])
{
	my ($which, $messages) = @$_;
	is(join(' ', grep { ($applied{$_} // '') ne '1' } sort keys %$messages), '', "each message of the $which primary is applied, once");
}
is(join(' ', grep { !$old->{$_} && !$new->{$_} } sort keys %applied), '', 'and nothing else is');

my %id = map { /\.(\d+)$/; $1 => 1 } grep { !$new->{$_} } keys %$old;
my @again = grep { /\.(\d+)$/ && $id{$1} } grep { !$old->{$_} } keys %$new;
note scalar(keys %id) . ' messages are on the old primary only, ' . @again . ' ids were given out again';
cmp_ok(scalar @again, '>', 0, 'ids of lost messages were given out again, and the receiver has both');

my $seqs = $receiver->safe_psql('postgres', q{SELECT source, lane, max(seq) FROM delivered GROUP BY 1, 2 ORDER BY 1, 2});
note $seqs;
is($receiver->safe_psql('postgres', q{SELECT string_agg(DISTINCT source, ' ' ORDER BY source) FROM delivered}), join(' ', sort "$old_source.1", "$new_source.1"), 'two sources');
is($receiver->safe_psql('postgres', <<'EOS'), '', 'the numbers of each lane have no holes, and stand for one message each');
	SELECT source, lane, count(DISTINCT seq), max(seq), count(DISTINCT (seq, message_id)) FROM delivered GROUP BY 1, 2
	HAVING count(DISTINCT seq) <> max(seq) OR count(DISTINCT (seq, message_id)) <> max(seq)
EOS
is($receiver->safe_psql('postgres', q{SELECT count(*) FROM delivered WHERE answer = 'gap'}), 0, 'none came before its turn');
cmp_ok($receiver->safe_psql('postgres', q{SELECT count(*) FROM delivered WHERE answer = 'duplicate'}), '>', 0, 'acks were lost, and messages redelivered');
cmp_ok($receiver->safe_psql('postgres', q{SELECT count(*) FROM (SELECT message_id FROM delivered WHERE answer = 'first' GROUP BY 1 HAVING count(*) > 1) AS d}), '>', 0,
	'the new primary has redelivered some that the old one had: the message id tells');

# of each key, what one server has published
for my $source ($old_source, $new_source)
{
	(my $prefix = $source) =~ s/relay@//;
	is($receiver->safe_psql('postgres', <<"EOS"), '', "$prefix: messages of a key are applied in their order");
		SELECT * FROM (SELECT key, n, lag(n) OVER (PARTITION BY key ORDER BY at) AS before FROM applied
		               WHERE key IS NOT NULL AND message_id LIKE '$prefix.%') AS a
		WHERE n <> before + 1
EOS
}

# the control
my %lost = map { $_ => 1 } split /\n/, $receiver->safe_psql('postgres',
	'SELECT message_id FROM lost_naively EXCEPT SELECT message_id FROM applied_naively');
my $lost = grep { $lost{$_} } keys %$new;
note "by the watermark alone, under one name: $lost lost";
cmp_ok($lost, '>', 0, 'a watermark that does not know the incarnation loses messages');
is($receiver->safe_psql('postgres', 'SELECT * FROM idem_verify()'), '', 'receiver: idem_verify() finds nothing');
$_->stop for $primary, $standby, $receiver;
done_testing();
