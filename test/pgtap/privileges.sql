-- Who may do what: nothing is for PUBLIC, and each profile of idem_grant is for what it says.
BEGIN;
SELECT plan(9);
CREATE ROLE regress_idem_nobody;
CREATE ROLE regress_idem_app;
CREATE ROLE regress_idem_consumer;
CREATE ROLE regress_idem_dba;
CREATE ROLE regress_idem_monitor;
SELECT lives_ok($$SELECT idem_grant('regress_idem_app', 'app'), idem_grant('regress_idem_consumer', 'consumer'), idem_grant('regress_idem_dba', 'dba'),
	idem_grant('regress_idem_monitor', 'monitor')$$, 'granted');

-- effective privileges on all objects of the extension
CREATE VIEW pg_temp.may AS
	SELECT r.rolname::text AS role, a.object, a.privilege
	FROM (
		SELECT (SELECT proname::text FROM pg_proc WHERE oid = objid) AS object, privilege, 'has_function_privilege(name,oid,text)'::regprocedure AS test, objid
		FROM pg_depend, unnest('{EXECUTE}'::text[]) AS privilege
		WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem') AND classid = 'pg_proc'::regclass
		UNION ALL
		SELECT objid::regclass::text, privilege, 'has_table_privilege(name,oid,text)'::regprocedure, objid
		FROM pg_depend, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS privilege
		WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'idem') AND classid = 'pg_class'::regclass
	) AS a, pg_roles AS r
	WHERE CASE test WHEN 'has_function_privilege(name,oid,text)'::regprocedure THEN has_function_privilege(r.rolname, objid, privilege)
	                ELSE has_table_privilege(r.rolname, objid, privilege) END;

SELECT is(count(*), 52 + 33 * 7::bigint, 'a superuser may do all') FROM pg_temp.may WHERE role = 'postgres' OR (role = current_user AND role <> 'postgres');
SELECT is_empty($$SELECT object, privilege FROM pg_temp.may WHERE role = 'regress_idem_nobody'$$, 'PUBLIC may do nothing');
SELECT bag_eq($$SELECT object, privilege FROM pg_temp.may WHERE role = 'regress_idem_app'$$, $$VALUES
	('idem_claim', 'EXECUTE'), ('idem_complete', 'EXECUTE'), ('idem_release', 'EXECUTE'), ('idem_renew', 'EXECUTE'), ('idem_checkpoint', 'EXECUTE'), ('idem_execute', 'EXECUTE'), ('idem_execute_many', 'EXECUTE'), ('idem_execute_many', 'EXECUTE'), ('idem_context', 'EXECUTE'), ('idem_claim_many', 'EXECUTE'), ('idem_complete_many', 'EXECUTE'), ('idem_compensate_with', 'EXECUTE'), ('idem_confirm', 'EXECUTE'), ('idem_cancel', 'EXECUTE'), ('idem_status', 'EXECUTE'), ('idem_digest', 'EXECUTE'),
	('idem_publish', 'EXECUTE'), ('idem_outbox', 'INSERT'), ('idem_outbox_default', 'EXECUTE'), ('idem_consume', 'EXECUTE'), ('idem_consume_seq', 'EXECUTE'), ('idem_incarnation', 'EXECUTE'), ('idem_next_states', 'EXECUTE'), ('idem_machine_dot', 'EXECUTE')
$$, 'what an app may do');
SELECT bag_eq($$SELECT object, privilege FROM pg_temp.may WHERE role = 'regress_idem_consumer'$$, $$VALUES
	('idem_subscribe', 'EXECUTE'), ('idem_fetch', 'EXECUTE'), ('idem_ack', 'EXECUTE'), ('idem_nack', 'EXECUTE'), ('idem_consume', 'EXECUTE'), ('idem_consume_seq', 'EXECUTE'),
	('idem_incarnation', 'EXECUTE'), ('idem_subscriptions', 'SELECT')
$$, 'what a consumer may do');
SELECT bag_eq($$SELECT object, privilege FROM pg_temp.may WHERE role = 'regress_idem_dba'$$, $$VALUES
	('idem_claim', 'EXECUTE'), ('idem_complete', 'EXECUTE'), ('idem_release', 'EXECUTE'), ('idem_renew', 'EXECUTE'), ('idem_checkpoint', 'EXECUTE'), ('idem_execute', 'EXECUTE'), ('idem_execute_many', 'EXECUTE'), ('idem_execute_many', 'EXECUTE'), ('idem_context', 'EXECUTE'), ('idem_claim_many', 'EXECUTE'), ('idem_complete_many', 'EXECUTE'), ('idem_compensate_with', 'EXECUTE'), ('idem_confirm', 'EXECUTE'), ('idem_cancel', 'EXECUTE'), ('idem_status', 'EXECUTE'), ('idem_digest', 'EXECUTE'),
	('idem_evict', 'EXECUTE'), ('idem_maintain', 'EXECUTE'), ('idem_verify', 'EXECUTE'), ('idem_next_xid', 'EXECUTE'),
	('idem_stats', 'SELECT'), ('idem_counters', 'EXECUTE'), ('idem_stats_reset', 'EXECUTE'), ('idem_suspects', 'EXECUTE'),
	('idem_keys', 'SELECT'), ('idem_holders', 'SELECT'), ('idem_compensations', 'SELECT'), ('idem_stores', 'SELECT'), ('idem_ring', 'SELECT'), ('idem_pinned', 'SELECT'),
	('idem_publish', 'EXECUTE'), ('idem_outbox', 'INSERT'), ('idem_outbox_default', 'EXECUTE'), ('idem_outbox', 'SELECT'), ('idem_consumers', 'SELECT'),
	('idem_subscribe', 'EXECUTE'), ('idem_fetch', 'EXECUTE'), ('idem_ack', 'EXECUTE'), ('idem_seek', 'EXECUTE'), ('idem_unsubscribe', 'EXECUTE'),
	('idem_nack', 'EXECUTE'), ('idem_redrive', 'EXECUTE'), ('idem_incarnation', 'EXECUTE'), ('idem_dead_letters', 'SELECT'), ('idem_dead_letters', 'DELETE'),
	('idem_consume', 'EXECUTE'), ('idem_consume_seq', 'EXECUTE'), ('idem_delivered', 'EXECUTE'), ('idem_pending', 'EXECUTE'), ('idem_is_past', 'EXECUTE'),
	('idem_next_states', 'EXECUTE'), ('idem_machine_dot', 'EXECUTE'), ('idem_attach', 'EXECUTE'), ('idem_detach', 'EXECUTE'), ('idem_guard', 'EXECUTE'),
	('idem_guard_topic', 'EXECUTE'), ('idem_unguard_topic', 'EXECUTE'), ('idem_guards', 'EXECUTE'),
	('idem_transitions', 'SELECT'), ('idem_transitions', 'INSERT'), ('idem_transitions', 'UPDATE'), ('idem_transitions', 'DELETE'),
	('idem_guarded_topics', 'SELECT'), ('idem_outbox_states', 'SELECT'),
	('idem_subscriptions', 'SELECT'), ('idem_parked', 'SELECT'), ('idem_attempts', 'SELECT'), ('idem_outbox_ids', 'SELECT'), ('idem_tokens', 'SELECT'),
	('idem_keys_0', 'SELECT'), ('idem_keys_1', 'SELECT'), ('idem_keys_2', 'SELECT'),
	('idem_inbox_0', 'SELECT'), ('idem_inbox_1', 'SELECT'), ('idem_inbox_2', 'SELECT'),
	('idem_outbox_0', 'SELECT'), ('idem_outbox_1', 'SELECT'), ('idem_outbox_2', 'SELECT'),
	('idem_positions_0', 'SELECT'), ('idem_positions_1', 'SELECT'), ('idem_positions_2', 'SELECT'),
	('idem_watermarks_0', 'SELECT'), ('idem_watermarks_1', 'SELECT'), ('idem_watermarks_2', 'SELECT')
$$, 'what a dba may do');
SELECT bag_eq($$SELECT object, privilege FROM pg_temp.may WHERE role = 'regress_idem_monitor'$$, $$VALUES
	('idem_holders', 'SELECT'), ('idem_consumers', 'SELECT'), ('idem_pending', 'EXECUTE'), ('idem_stores', 'SELECT'), ('idem_stats', 'SELECT'), ('idem_counters', 'EXECUTE')
$$, 'what a monitor may do');
SELECT set_eq($$
	SELECT attrelid::regclass::text, attname, privilege_type FROM pg_attribute, aclexplode(attacl) WHERE grantee = 'regress_idem_monitor'::regrole
$$, $$VALUES
	('idem_dead_letters', 'consumer'::name, 'SELECT'), ('idem_dead_letters', 'id', 'SELECT'), ('idem_dead_letters', 'attempts', 'SELECT'), ('idem_dead_letters', 'failed_at', 'SELECT'),
	('idem_compensations', 'deadline', 'SELECT'), ('idem_compensations', 'state', 'SELECT')
$$, 'of some views it may read some columns');
SELECT is_empty($$
	SELECT proname, grantee::regrole, privilege_type FROM pg_proc, aclexplode(proacl) WHERE proname LIKE 'idem\_%' AND is_grantable AND grantee <> proowner
	UNION ALL
	SELECT relname, grantee::regrole, privilege_type FROM pg_class, aclexplode(relacl) WHERE relname LIKE 'idem\_%' AND is_grantable AND grantee <> relowner
$$, 'and nobody may pass it on');

SELECT * FROM finish();
ROLLBACK;
