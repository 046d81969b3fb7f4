-- Nobody may pass on what idem_grant gives. What that is: docs/security.md and test/tap/061_privileges.pl.
BEGIN;
SELECT plan(2);
CREATE ROLE regress_idem_app;
CREATE ROLE regress_idem_consumer;
CREATE ROLE regress_idem_dba;
CREATE ROLE regress_idem_monitor;
SELECT lives_ok($$SELECT idem_grant('regress_idem_app', 'app'), idem_grant('regress_idem_consumer', 'consumer'), idem_grant('regress_idem_dba', 'dba'),
	idem_grant('regress_idem_monitor', 'monitor')$$, 'granted');
SELECT is_empty($$
	SELECT proname, grantee::regrole, privilege_type FROM pg_proc, aclexplode(proacl) WHERE proname LIKE 'idem\_%' AND is_grantable AND grantee <> proowner
	UNION ALL
	SELECT relname, grantee::regrole, privilege_type FROM pg_class, aclexplode(relacl) WHERE relname LIKE 'idem\_%' AND is_grantable AND grantee <> relowner
$$, 'and nobody may pass it on');

SELECT * FROM finish();
ROLLBACK;
