# Monitoring: every query of monitoring/ runs against a live server as the role that it is meant for, and returns the
# columns that become metrics; the dashboard and the alerts ask for metrics and labels that there are; each alert is
# explained.
use strict;
use warnings;
use CPAN::Meta::YAML;
use FindBin;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my %expected_of = ('queries.yaml' => 'monitor', 'verify.yaml' => 'dba'); # a file's role

sub yaml
{
	my ($name) = @_;
	return CPAN::Meta::YAML->read("$root/monitoring/$name")->[0] // die "$name: " . CPAN::Meta::YAML->errstr;
}

my $node = PostgreSQL::Test::Cluster->new('monitoring');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'idem'\nidem.naptime = 1d\nlog_statement = none\n");
$node->start;

sub sql { my ($sql, @more) = @_; return $node->safe_psql('postgres', $sql, @more); }

sub as { my ($role) = @_; return (extra_params => [ '-U', $role ]); }

# ---- something to tell of ----

sql(<<'EOT');
CREATE EXTENSION idem;
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE dba LOGIN;
SELECT idem_grant('monitor', 'monitor'), idem_grant('dba', 'dba');
CREATE FUNCTION undo(args jsonb) RETURNS void LANGUAGE sql AS '';
BEGIN; SELECT idem_claim('done', '1'), idem_complete('done', '1'); COMMIT;
SELECT idem_claim('done', '1');
SELECT idem_claim('done', '1');
SELECT idem_claim('done', '2');
BEGIN; SELECT idem_claim('held'), idem_compensate_with('held', 'undo(jsonb)', '{}', deadline => '1 hour'), idem_complete('held', '1'); COMMIT;
BEGIN; SELECT idem_claim('late'), idem_compensate_with('late', 'undo(jsonb)', '{}', deadline => '1 us'), idem_complete('late', '1'); COMMIT;
SELECT idem_subscribe('slow', lanes => 2), idem_subscribe('sick');
SELECT idem_publish('orders', '{"secret": 1}', key => k::text) FROM generate_series(1, 20) AS k;
-- one dead, one parked
BEGIN; SET LOCAL idem.max_attempts = 1; SELECT batch, id FROM idem_fetch('sick') LIMIT 1 \gset
SELECT idem_nack('sick', :batch, :id, 'no'); RESET idem.max_attempts; SELECT idem_nack('sick', :batch, :id + 1, 'no', '1 hour'); SELECT idem_ack('sick', :batch); COMMIT;
-- a generation that should have been emptied
INSERT INTO idem_keys_1 SELECT idem_digest('old'), now(), now(), now(), NULL, '', 'old', NULL, '1';
UPDATE idem_ring SET ends_at[2] = now() - interval '1 hour' WHERE store = 'keys';
EOT
# a state machine says no
$node->psql('postgres', q{SELECT idem_guard_topic('guarded', 'order'); SELECT idem_publish('guarded', '1', 'k', 'completed')}, on_error_stop => 0);
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT idem_claim('in work'); LOCK TABLE idem_keys_1 IN ACCESS SHARE MODE});

# ---- the queries ----

my (%labels_of, %rows_of);
for my $file (sort keys %expected_of)
{
	my $queries = yaml($file);
	for my $namespace (sort keys %$queries)
	{
		my %usage = map { my ($column) = keys %$_; ($column => $_->{$column}{usage}) } @{ $queries->{$namespace}{metrics} };
		my @labels = sort grep { $usage{$_} eq 'LABEL' } keys %usage;
		for my $metric (@{ $queries->{$namespace}{metrics} })
		{
			my ($column, $has) = %$metric;
			like($has->{usage}, qr/^(LABEL|COUNTER|GAUGE)$/, "$namespace.$column: usage");
			like($has->{description}, qr/\S/, "$namespace.$column: description");
			is($has->{usage} eq 'COUNTER', $column =~ /_total$/, "$namespace.$column: a counter is called so");
			$labels_of{"${namespace}_$column"} = \@labels if $has->{usage} ne 'LABEL';
		}

		my $query = $queries->{$namespace}{query};
		my @role = as($expected_of{$file});
		my %type = map { split /\|/ } split /\n/, sql("$query \\gdesc", @role);
		is(join(' ', sort keys %type), join(' ', sort keys %usage), "$namespace: its columns are its metrics and labels");
		like($type{$_}, $usage{$_} eq 'LABEL' ? qr/^text$/ : qr/^(integer|bigint|double precision)$/, "$namespace.$_: type") for sort keys %type;

		my $rows = $rows_of{$namespace} = decode_json(sql("SELECT coalesce(json_agg(q), '[]') FROM (${\($query =~ s/;?\s*$//r)}) AS q", @role));
		is((grep { !defined } map { values %$_ } @$rows), 0, "$namespace: no NULL, which would be NaN");
		my %seen;
		is((grep { $seen{ join "\0", @$_{@labels} }++ } @$rows), 0, "$namespace: a row for each set of labels");
	}
}

sub row
{
	my ($namespace, %wanted) = @_;
	my ($row) = grep { my $row = $_; !grep { $row->{$_} ne $wanted{$_} } keys %wanted } @{ $rows_of{$namespace} };
	return $row // {};
}

my $counted = row('idem');
is_deeply([ @$counted{ map { "${_}_total" } qw(claims replays mismatches takeovers refused_transitions published nacks) } ], [ 4, 2, 1, 0, 1, 20, 2 ], 'what was counted');
cmp_ok($counted->{maintained_timestamp_seconds}, '>', time - 600, 'and when upkeep was done');
is(row('idem_consumer', consumer => 'slow', lane => 0)->{depth} + row('idem_consumer', consumer => 'slow', lane => 1)->{depth}, 20, 'who lags, by lane');
cmp_ok(row('idem_consumer', consumer => 'slow', lane => 0)->{oldest_age_seconds}, '>', 0, 'and for how long');
is_deeply([ @{ row('idem_consumer', consumer => 'sick') }{qw(depth oldest_age_seconds parked)} ], [ 0, 0, 1 ], 'what is parked');
is(row('idem_dead_letter', consumer => 'sick')->{messages}, 1, 'and what is dead');
is(row('idem_store', store => 'keys', generation => 1)->{blocked_by}, 1, 'what blocks a rotation');
is(row('idem_store', store => 'keys', generation => 0)->{blocked_by}, 0, 'and what does not');
cmp_ok(row('idem_store', store => 'pinned', generation => '')->{bytes}, '>', 0, 'space of what has no generations');
cmp_ok(row('idem_ring', store => 'keys', generation => 0)->{next_rotation_timestamp_seconds}, '>', time + 80000, 'the next rotation');
cmp_ok(row('idem_ring', store => 'keys', generation => 1)->{next_rotation_timestamp_seconds}, '<', time - 3000, 'and one that is late');
is_deeply([ map { row('idem_compensation', state => $_)->{keys} } qw(leased held overdue) ], [ 0, 1, 1 ], 'what is held');
cmp_ok(row('idem_compensation', state => 'overdue')->{late_seconds}, '>', 0, 'and overdue');
is(row('idem_compensation', state => 'held')->{late_seconds}, 0, 'and what is not');
is(row('idem_holder')->{keys}, 1, 'who holds keys');
cmp_ok(row('idem_holder')->{oldest_seconds}, '>', 0, 'and for how long');
cmp_ok(row('idem_verify')->{violations}, '>', -1, 'the self-check');

# ---- the role that watches ----

for my $forbidden (
	'SELECT payload FROM idem_dead_letters', 'SELECT error FROM idem_dead_letters', 'SELECT key FROM idem_compensations', 'SELECT handlers FROM idem_compensations',
	'SELECT FROM idem_keys', 'SELECT FROM idem_outbox', 'SELECT FROM idem_pinned', 'SELECT FROM idem_parked', 'SELECT * FROM idem_verify()',
	'DELETE FROM idem_dead_letters', q{SELECT idem_claim('x')}, q{SELECT idem_evict('done')}, 'CALL idem_maintain()', q{SELECT idem_unsubscribe('slow')},
	q{SELECT * FROM idem_fetch('slow')})
{
	my (undef, undef, $error) = $node->psql('postgres', $forbidden, as('monitor'));
	like($error, qr/permission denied/, "not for profile monitor: $forbidden");
}

# ---- the dashboard and the alerts ----

my $relay = join '', map { slurp_file($_) } glob "'$root/sdk/relay/'*.cpp";
$labels_of{$_} = [qw(consumer lane cause to)] for $relay =~ /"(idem_relay_[a-z_]+)"/g;
cmp_ok((grep { /^idem_relay_/ } keys %labels_of), '>', 0, 'the relay has metrics');

my %asked;

# An expression, and what text about its result names.
sub check_expression
{
	my ($where, $expression, $text) = @_;
	my @metrics = $expression =~ /\b(idem_[a-z_]+)/g;
	ok(@metrics > 0, "$where: asks for something of ours");
	$asked{$_} = 1 for @metrics;
	is_deeply([ grep { !$labels_of{$_} } @metrics ], [], "$where: metrics that there are");

	my %of_all;
	$of_all{$_}++ for map { @{ $labels_of{$_} // [] } } @metrics;
	my @grouped = map { split /, */ } $expression =~ /\bby \(([^)]*)\)/g;
	is_deeply([ grep { $_ ne 'instance' && ($of_all{$_} // 0) != @metrics } @grouped ], [], "$where: labels that all of them have");
	while ($expression =~ /(idem_[a-z_]+)\{([^}]*)\}/g)
	{
		my ($metric, $selector) = ($1, $2);
		my %has = map { $_ => 1 } @{ $labels_of{$metric} // [] };
		is_deeply([ grep { !$has{$_} } $selector =~ /(\w+) *=/g ], [], "$where: labels that $metric has");
	}

	my %left = map { $_ => 1 } $expression =~ /\b(?:sum|max|min)(?:\(| by)/ ? @grouped : keys %of_all;
	is_deeply([ grep { !$left{$_} } $text =~ /\{\{ *(?:\$labels\.)?([a-z]\w*)/g ], [], "$where: labels that are left to name");
	return;
}

my $dashboard = decode_json(slurp_file("$root/monitoring/dashboard.json"));
my (%id, @places);
for my $panel (@{ $dashboard->{panels} })
{
	ok(!$id{ $panel->{id} }++, "panel $panel->{id}, $panel->{title}: its id is its own");
	push @places, join ' ', @{ $panel->{gridPos} }{qw(x y)};
	check_expression("panel $panel->{title} $_->{refId}", $_->{expr}, $_->{legendFormat} // '') for @{ $panel->{targets} };
}
is_deeply([ sort @places ], [ do { my %one = map { $_ => 1 } @places; sort keys %one } ], 'no panel covers another');
my ($variable) = grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} };
check_expression('variable', $variable->{query} =~ s/^label_values\((\w+), (\w+)\)$/$1\{$2="x"}/r, '');

my $operations = slurp_file("$root/docs/operations.md");
for my $group (@{ yaml('alerts.yaml')->{groups} })
{
	for my $rule (@{ $group->{rules} })
	{
		check_expression($rule->{alert}, $rule->{expr}, $rule->{annotations}{summary});
		like($rule->{labels}{severity}, qr/^(warning|critical)$/, "$rule->{alert}: severity");
		like($operations, qr/^### $rule->{alert}$/m, "$rule->{alert}: what to do is written");
	}
}
is_deeply([ grep { !$asked{$_} && !/^idem_relay_/ } sort keys %labels_of ], [], 'nothing is collected in vain');
like($operations, qr/\b\Q$_\E\b/, "docs/operations.md tells of monitoring/$_") for map { s/.*\///r } glob "'$root/monitoring/'*";

# Prometheus's own opinion, where it is installed
SKIP:
{
	skip 'no promtool', 1 if system_log('sh', '-c', 'command -v promtool') != 0;
	command_ok([ 'promtool', 'check', 'rules', "$root/monitoring/alerts.yaml" ], 'promtool checks the alerts');
}

$holder->quit;
$node->stop;
done_testing();
