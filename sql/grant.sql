--
-- Privileges: nothing for PUBLIC, what idem_grant gives, and what it does not.
--
\set fails '\\g \\echo :SQLSTATE'
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_idem_app, regress_idem_consumer, regress_idem_dba, regress_idem_none, "regress idem ""odd"" röle";
RESET client_min_messages;
CREATE ROLE regress_idem_app;
CREATE ROLE regress_idem_consumer;
CREATE ROLE regress_idem_dba;
CREATE ROLE regress_idem_none;
CREATE ROLE "regress idem ""odd"" röle";

-- of every object of the extension, what PUBLIC may
CREATE VIEW pg_temp.acl AS
	SELECT p.oid::regprocedure::text AS object, (aclexplode(coalesce(proacl, acldefault('f', proowner)))).*
	FROM pg_depend AS d JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem')
	UNION ALL
	SELECT c.oid::regclass::text, (aclexplode(coalesce(relacl, acldefault('r', relowner)))).*
	FROM pg_depend AS d JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem');
SELECT count(DISTINCT object) > 15 AS all_objects FROM pg_temp.acl;
SELECT object, privilege_type FROM pg_temp.acl WHERE grantee = 0;

-- what idem_grant gives, no more
SELECT idem_grant('regress_idem_app', 'app');
SELECT idem_grant('regress_idem_app', 'app');
SELECT idem_grant('regress_idem_dba', 'dba');
SELECT idem_grant('regress idem "odd" röle', 'app');
SELECT object, privilege_type,
       bool_or(grantee = 'regress_idem_app'::regrole) AS app,
       bool_or(grantee = 'regress_idem_dba'::regrole) AS dba,
       bool_or(grantee = '"regress idem ""odd"" röle"'::regrole) AS odd,
       bool_or(is_grantable) AS grantable
FROM pg_temp.acl WHERE grantee IN (SELECT oid FROM pg_roles WHERE rolname LIKE 'regress%idem%') AND grantee <> grantor
GROUP BY object, privilege_type ORDER BY object COLLATE "C";
SELECT has_schema_privilege('regress_idem_app', 'public', 'USAGE') AS usage,
       has_schema_privilege('regress_idem_app', 'public', 'CREATE') AS "create";

-- an app claims, completes, replays, releases, asks
SET SESSION AUTHORIZATION regress_idem_app;
BEGIN;
SELECT status FROM idem_claim('granted', '{}', 'grant', ttl => '30 days');
SELECT status, holder_pid = pg_backend_pid() AS mine FROM idem_status('granted', 'grant');
SELECT idem_complete('granted', '1', 'grant');
SELECT status FROM idem_claim('granted too', scope => 'grant');
SELECT idem_complete('granted too', '1', 'grant');
COMMIT;
SELECT status, response FROM idem_claim('granted', scope => 'grant');
SELECT status, response FROM idem_status('granted', 'grant');
SELECT idem_digest('granted', 'grant');
BEGIN; SELECT status FROM idem_claim('released', scope => 'grant'); SELECT idem_release('released', 'grant'); COMMIT;
SET idem.claim_wait = '1 s';
RESET idem.claim_wait;
-- and nothing else
SELECT idem_evict('granted', 'grant') :fails
CALL idem_maintain() :fails
SELECT * FROM idem_verify() :fails
SELECT idem_grant('regress_idem_none', 'app') :fails
SELECT count(*) FROM idem_keys :fails
SELECT count(*) FROM idem_holders :fails
SELECT count(*) FROM idem_stores :fails
SELECT count(*) FROM idem_ring :fails
SELECT count(*) FROM idem_keys_0 :fails
SELECT count(*) FROM idem_pinned :fails
DELETE FROM idem_pinned :fails
INSERT INTO idem_keys_0 SELECT :fails
UPDATE idem_ring SET current = 3 :fails
TRUNCATE idem_keys_0 :fails
-- the settings that weaken a guarantee are not its to set
SET idem.key_ttl = '1 s' :fails
SET idem.require_completion = off :fails
RESET SESSION AUTHORIZATION;

-- an app publishes, a consumer fetches; both use the inbox
SET SESSION AUTHORIZATION regress_idem_app;
SELECT idem_publish('grant', '1') > 0 AS published;
INSERT INTO idem_outbox (topic, payload) VALUES ('grant', '2') RETURNING id > 0 AS published;
SELECT idem_consume('grant', 'm1'), idem_consume_seq('grant', 1, 1);
SELECT topic FROM idem_outbox :fails
SELECT idem_subscribe('grant') :fails
SELECT * FROM idem_fetch('grant') :fails
RESET SESSION AUTHORIZATION;
SELECT idem_grant('regress_idem_consumer', 'consumer');
SET SESSION AUTHORIZATION regress_idem_consumer;
SELECT idem_subscribe('grant', '{grant}', start => 'earliest');
SELECT lanes, external FROM idem_subscriptions WHERE consumer = 'grant';
SET idem.client = 'me';
SET idem.max_attempts = 1;
SELECT idem_nack('grant', batch, id, 'bad'), idem_ack('grant', batch) FROM idem_fetch('grant', 1);
RESET idem.max_attempts;
BEGIN; SELECT payload FROM idem_fetch('grant'); SELECT idem_ack('grant', 3); COMMIT;
SELECT idem_incarnation() <> '' AS incarnation;
SELECT idem_consume('grant', 'm1'), idem_consume_seq('grant', 1, 1);
SELECT idem_publish('grant', '1') :fails
SELECT idem_claim('k') :fails
SELECT idem_seek('grant', now()) :fails
SELECT idem_redrive('grant', 1) :fails
SELECT count(*) FROM idem_dead_letters :fails
SELECT idem_unsubscribe('grant') :fails
SELECT count(*) FROM idem_consumers :fails
RESET SESSION AUTHORIZATION;

-- a DBA reads and evicts too
SET SESSION AUTHORIZATION regress_idem_dba;
SELECT key, response FROM idem_keys WHERE scope = 'grant' ORDER BY key;
SELECT count(*) FROM idem_holders;
SELECT count(*) FROM idem_stores;
SELECT consumer, depth FROM idem_consumers WHERE consumer = 'grant';
SELECT consumer, state FROM idem_outbox, idem_delivered(id) WHERE topic = 'grant' AND consumer = 'grant';
SELECT consumer, payload, error FROM idem_dead_letters WHERE consumer = 'grant';
SELECT idem_redrive(consumer, id) FROM idem_dead_letters WHERE consumer = 'grant';
SET idem.max_attempts = 1;
SELECT idem_nack('grant', batch, id, 'still bad'), idem_ack('grant', batch) FROM idem_fetch('grant', 1);
RESET idem.max_attempts;
DELETE FROM idem_dead_letters WHERE consumer = 'grant' RETURNING error;
SELECT idem_seek('grant', now()), idem_unsubscribe('grant');
SELECT * FROM idem_verify();
SELECT idem_evict('granted', 'grant');
SELECT idem_evict('granted too', 'grant');
CALL idem_maintain();
SELECT status FROM idem_status('granted', 'grant');
BEGIN; SELECT status FROM idem_claim('by dba', scope => 'grant'); SELECT idem_complete('by dba', '1', 'grant'); COMMIT;
-- but neither writes nor grants
SELECT idem_grant('regress_idem_none', 'app') :fails
DELETE FROM idem_pinned :fails
SET idem.key_ttl = '1 s' :fails
RESET SESSION AUTHORIZATION;

-- who was granted nothing
SET SESSION AUTHORIZATION regress_idem_none;
SELECT * FROM idem_claim('k') :fails
SELECT idem_complete('k', '1') :fails
SELECT idem_release('k') :fails
SELECT * FROM idem_status('k') :fails
SELECT idem_evict('k') :fails
SELECT idem_digest('k') :fails
SELECT * FROM idem_verify() :fails
SELECT idem_grant('regress_idem_none', 'app') :fails
CALL idem_maintain() :fails
SELECT count(*) FROM idem_keys :fails
RESET SESSION AUTHORIZATION;
-- the current role counts, also within a transaction that has claimed
BEGIN;
SELECT status FROM idem_claim('set role', scope => 'grant');
SET LOCAL ROLE regress_idem_none;
SAVEPOINT s;
SELECT idem_complete('set role', '1', 'grant') :fails
ROLLBACK TO s;
SET LOCAL ROLE "regress idem ""odd"" röle";
SELECT idem_complete('set role', '1', 'grant');
COMMIT;

-- set before the library is loaded: not taken
\c
SET SESSION AUTHORIZATION regress_idem_app;
SET idem.require_completion = off;
SET idem.key_ttl = '1 s';
SET idem.claim_wait = '2 s';
SELECT idem_digest('granted', 'grant');
SHOW idem.require_completion;
SHOW idem.key_ttl;
SHOW idem.claim_wait;
SELECT status FROM idem_claim('left open', scope => 'grant') :fails
RESET SESSION AUTHORIZATION;

-- bad input
CREATE FUNCTION pg_temp.error_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', state, regexp_replace(message, '\d+\.\d+\.\d+', 'VERSION'), nullif(detail, ''), nullif(hint, ''));
END $$;
\t on
\a
\t off
\a
SELECT idem_grant('regress_idem_none', 'App') :fails
SELECT idem_grant('regress_idem_none', '') :fails
SELECT idem_grant('regress_idem_nobody', 'app') :fails
SELECT idem_grant('', 'app') :fails
SELECT idem_grant('public', 'app') :fails
SELECT idem_grant(NULL, 'app') :fails
SELECT idem_grant('regress_idem_none', NULL) :fails

-- undone with REVOKE
REVOKE EXECUTE ON FUNCTION idem_claim FROM regress_idem_app;
SET ROLE regress_idem_app;
SELECT * FROM idem_claim('k') :fails
RESET ROLE;
DROP OWNED BY regress_idem_app, regress_idem_consumer, regress_idem_dba, regress_idem_none, "regress idem ""odd"" röle";
DROP ROLE regress_idem_app, regress_idem_consumer, regress_idem_dba, regress_idem_none, "regress idem ""odd"" röle";
