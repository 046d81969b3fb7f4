# Who may do what: the tables of docs/security.md against the catalogs, and each of their cells against the server, both what
# is allowed and what is refused.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @profiles = qw(app consumer dba monitor);

# ---- what the document says: {profile}{object} = privileges, sorted ----

my (%said, %named);
for (slurp_file("$FindBin::RealBin/../../docs/security.md") =~ /^(\| `idem_.*)$/mg)
{
	my (undef, $objects, @cells) = map { s/^\s+|\s+$//gr } split /\|/, $_, -1;
	pop @cells;
	BAIL_OUT("a row of docs/security.md has another number of cells: $_") if @cells != @profiles;
	for my $object ($objects =~ /`(\w+)`/g)
	{
		BAIL_OUT("$object is in docs/security.md twice") if $named{$object}++;
		for my $i (0 .. $#cells)
		{
			my $cell = $cells[$i] eq 'yes' ? 'EXECUTE' : $cells[$i];
			$said{ $profiles[$i] }{$object} = join ' ', sort($cell =~ /\w+(?: \(.*?\))?/g) if $cell ne '';
		}
	}
}

my $node = PostgreSQL::Test::Cluster->new('privileges');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION idem; ' . join '', map { "CREATE ROLE $_ LOGIN; SELECT idem_grant('$_', '$_'); " } @profiles);
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');

# ---- against the catalogs ----

my $member = q{SELECT objid FROM pg_depend WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem') AND classid};
is_deeply([ sort keys %named ], [ split /\n/, $node->safe_psql('postgres', qq{
	SELECT DISTINCT proname COLLATE "C" FROM pg_proc WHERE oid IN ($member = 'pg_proc'::regclass)
	UNION SELECT relname FROM pg_class WHERE oid IN ($member = 'pg_class'::regclass) AND relkind <> 'c' ORDER BY 1}) ], 'every object is there');
for my $role (@profiles, 'nobody')
{
	my %is = map { split /\|/, $_, 2 } split /\n/, $node->safe_psql('postgres', qq{
		WITH effective AS (
			SELECT proname AS object, 'EXECUTE' AS privilege FROM pg_proc
			WHERE oid IN ($member = 'pg_proc'::regclass) AND has_function_privilege('$role', oid, 'EXECUTE')
			UNION
			SELECT relname, p FROM pg_class, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p
			WHERE oid IN ($member = 'pg_class'::regclass) AND relkind IN ('r', 'v') AND has_table_privilege('$role', oid, p)
			UNION
			SELECT relname, p FROM pg_class, unnest('{SELECT,USAGE,UPDATE}'::text[]) AS p
			WHERE oid IN ($member = 'pg_class'::regclass) AND relkind = 'S' AND has_sequence_privilege('$role', oid, p)
			UNION
			SELECT relname, format('%s (%s)', p, string_agg(attname, ', ' ORDER BY attnum))
			FROM pg_class AS c JOIN pg_attribute AS a ON attrelid = c.oid AND attnum > 0, unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS p
			WHERE c.oid IN ($member = 'pg_class'::regclass) AND NOT has_table_privilege('$role', c.oid, p) AND has_column_privilege('$role', c.oid, attnum, p)
			GROUP BY relname, p
		)
		SELECT object, string_agg(privilege, ' ' ORDER BY privilege COLLATE "C") FROM effective GROUP BY object});
	is_deeply(\%is, $said{$role} // {}, "$role: what the catalogs say");
}

# ---- against the server ----

# A statement for each privilege on each object, with NULLs for arguments; a column that is granted alone stands for itself. For
# what is refused there is no other answer than that, but for views that nobody can write.
my @statements = split /\n/, $node->safe_psql('postgres', qq{
	SELECT proname, 'EXECUTE', format(CASE prokind WHEN 'p' THEN 'CALL %I(%s)' ELSE 'SELECT %I(%s)' END, proname,
	       (SELECT string_agg(CASE WHEN proisstrict THEN '''1''::' ELSE 'NULL::' END || format_type(t, NULL), ', ' ORDER BY n) FROM unnest(proargtypes::oid[]) WITH ORDINALITY AS a (t, n)))
	FROM pg_proc WHERE oid IN ($member = 'pg_proc'::regclass)
	UNION ALL
	SELECT relname, p, format(CASE p WHEN 'SELECT' THEN 'SELECT %2\$I FROM %1\$I LIMIT 0' WHEN 'INSERT' THEN 'INSERT INTO %1\$I DEFAULT VALUES'
	       WHEN 'UPDATE' THEN 'UPDATE %1\$I SET %2\$I = NULL WHERE false' WHEN 'DELETE' THEN 'DELETE FROM %1\$I WHERE false'
	       WHEN 'TRUNCATE' THEN 'TRUNCATE %1\$I' END, relname, attname)
	FROM pg_class AS c JOIN pg_attribute AS a ON attrelid = c.oid AND attnum > 0,
	     unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) AS p
	WHERE c.oid IN ($member = 'pg_class'::regclass) AND (p IN ('SELECT', 'UPDATE') OR attnum = 1) AND (p <> 'TRUNCATE' OR relkind = 'r')
	  AND relkind IN ('r', 'v')
	UNION ALL
	SELECT relname, 'USAGE', format('SELECT nextval(%L)', relname) FROM pg_class WHERE oid IN ($member = 'pg_class'::regclass) AND relkind = 'S'
	UNION ALL
	SELECT relname, 'UPDATE', format('SELECT setval(%L, 1)', relname) FROM pg_class WHERE oid IN ($member = 'pg_class'::regclass) AND relkind = 'S'
	UNION ALL
	SELECT relname, 'SELECT', format('SELECT last_value FROM %I', relname) FROM pg_class WHERE oid IN ($member = 'pg_class'::regclass) AND relkind = 'S'});
cmp_ok(scalar(@statements), '>', 300, 'there is a statement for each privilege on each object');
my $views = $node->safe_psql('postgres', q{SELECT string_agg(relname, '|') FROM pg_class WHERE relname LIKE 'idem\_%' AND relkind = 'v'});
for my $role (@profiles, 'nobody')
{
	my $script = join '', map { (split /\|/, $_, 3)[2] . ";\n" } @statements;
	my ($allowed, @wrong) = (0);
	my ($out, $err);
	$node->psql('postgres', "SET client_min_messages = error;\n\\set VERBOSITY sqlstate\n" . ($script =~ s/^(.*)$/\\echo ?\n$1\n\\echo :SQLSTATE/mgr),
		stdout => \$out, on_error_stop => 0, on_error_die => 0, stderr => \$err, extra_params => [ '-U', $role ]);
	my @states = map { /(\w{5})\n?\z/ ? $1 : '?' } (split /^\?\n/m, $out)[ 1 .. @statements ];
	for my $i (0 .. $#statements)
	{
		my ($object, $privilege, $sql) = split /\|/, $statements[$i], 3;
		my $may = $said{$role}{$object} // '';
		my ($columns) = $may =~ /\b$privilege \((.*?)\)/;
		my ($column) = $sql =~ /^SELECT (\w+) FROM/;
		my $yes = defined $columns ? ", $columns," =~ /, \Q$column\E,/ : $may =~ /\b$privilege\b/;
		my $refused = $states[$i] eq '42501' || ($object =~ /^(?:$views)$/ && $privilege ne 'SELECT' && $states[$i] =~ /^(?:55000|0A000)$/);
		$allowed++ if $yes;
		push @wrong, "$sql: $states[$i]" if $yes ? $states[$i] eq '42501' : !$refused;
	}
	is_deeply(\@wrong, [], "$role: each statement is " . ($allowed ? "allowed ($allowed) or " : '') . 'refused (' . (@statements - $allowed) . ') as the document says');
}

$node->stop;
done_testing();
