/*
 * grant.c
 *	  idem_grant(role, profile): who may do what, as one table.
 */
#include "idem.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "tables.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(idem_grant);

#define APP	1					/* claims and cancels keys, publishes, uses the inbox */
#define CONSUMER 2				/* subscribes and fetches, uses the inbox */
#define DBA	4					/* all that, attaches machines, reads everything, maintains */
#define MONITOR 8				/* reads how it goes, and none of what users have stored */
#define ALL	(APP | CONSUMER | DBA)

static const struct
{
	const char *privilege;
	const char *object;			/* kind and name; %1$s stands for the schema */
	int			profiles;
}			matrix[] =

{
	{"USAGE", "SCHEMA %1$s", ALL | MONITOR},
	{"EXECUTE", "ROUTINE %1$s.idem_claim(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, "
		"pg_catalog.interval, pg_catalog.interval, pg_catalog.interval)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_complete(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, pg_catalog.int8)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_release(pg_catalog.text, pg_catalog.text, pg_catalog.int8)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_renew(pg_catalog.text, pg_catalog.int8, pg_catalog.interval, pg_catalog.text), "
		"%1$s.idem_checkpoint(pg_catalog.text, pg_catalog.int8, pg_catalog.text, pg_catalog.jsonb, pg_catalog.text)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_execute(pg_catalog.regprocedure, pg_catalog.text, pg_catalog.jsonb, "
		"pg_catalog.text, pg_catalog.interval)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_execute_many(pg_catalog.regprocedure, pg_catalog.text[], pg_catalog.jsonb[], pg_catalog.text), "
		"%1$s.idem_execute_many(pg_catalog.regprocedure, pg_catalog.text[], pg_catalog.jsonb[], pg_catalog.text[], pg_catalog.jsonb[]), "
		"%1$s.idem_context()", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_claim_many(pg_catalog.text[], pg_catalog.jsonb[], pg_catalog.text), "
		"%1$s.idem_complete_many(pg_catalog.text[], pg_catalog.jsonb[], pg_catalog.text)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_compensate_with(pg_catalog.text, pg_catalog.regprocedure, pg_catalog.jsonb, "
		"pg_catalog.text, pg_catalog.interval, pg_catalog.int8)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_confirm(pg_catalog.text, pg_catalog.text)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_cancel(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.interval)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_status(pg_catalog.text, pg_catalog.text)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_digest(pg_catalog.text, pg_catalog.text)", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_publish(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, "
		"pg_catalog.text, pg_catalog.jsonb)", APP | DBA},
	{"INSERT, SELECT (id, created_at)", "TABLE %1$s.idem_outbox", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_outbox_default()", APP | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_subscribe(pg_catalog.text, pg_catalog.text[], pg_catalog.int4, "
		"pg_catalog.text, pg_catalog.bool)", CONSUMER | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_fetch(pg_catalog.text, pg_catalog.int4, pg_catalog.interval, pg_catalog.int8)", CONSUMER | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_ack(pg_catalog.text, pg_catalog.int8)", CONSUMER | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_nack(pg_catalog.text, pg_catalog.int8, pg_catalog.int8, pg_catalog.text, "
		"pg_catalog.interval)", CONSUMER | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_incarnation()", ALL},
	{"SELECT", "TABLE %1$s.idem_subscriptions", CONSUMER | DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_redrive(pg_catalog.text, pg_catalog.int8)", DBA},
	{"SELECT, DELETE", "TABLE %1$s.idem_dead_letters", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_consume(pg_catalog.text, pg_catalog.text)", ALL},
	{"EXECUTE", "ROUTINE %1$s.idem_consume_seq(pg_catalog.text, pg_catalog.int8, pg_catalog.int8)", ALL},
	{"EXECUTE", "ROUTINE %1$s.idem_seek(pg_catalog.text, pg_catalog.timestamptz)", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_unsubscribe(pg_catalog.text)", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_delivered(pg_catalog.int8)", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_next_states(pg_catalog.text, pg_catalog.text), "
		"%1$s.idem_machine_dot(pg_catalog.text)", APP | DBA},
	/* CREATE TRIGGER asks for the last one */
	{"EXECUTE", "ROUTINE %1$s.idem_attach(pg_catalog.regclass, pg_catalog.name, pg_catalog.text, pg_catalog.text, pg_catalog.name[]), "
		"%1$s.idem_detach(pg_catalog.regclass), %1$s.idem_guard()", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_guard_topic(pg_catalog.text, pg_catalog.text), "
		"%1$s.idem_unguard_topic(pg_catalog.text), %1$s.idem_guards()", DBA},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE %1$s.idem_transitions", DBA},
	{"SELECT", "TABLE %1$s.idem_guarded_topics, %1$s.idem_outbox_states", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_evict(pg_catalog.text, pg_catalog.text)", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_export(pg_catalog.text, pg_catalog.text, pg_catalog.int4), "
		"%1$s.idem_import(pg_catalog.jsonb)", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_maintain()", DBA},
	{"EXECUTE", "ROUTINE %1$s.idem_verify(), %1$s.idem_suspects(pg_catalog.interval), %1$s.idem_stats_reset()", DBA},
	{"SELECT", "TABLE %1$s.idem_keys, %1$s.idem_holders, %1$s.idem_compensations, %1$s.idem_outbox, %1$s.idem_consumers, %1$s.idem_stores, %1$s.idem_stats", DBA},
	/* the functions and views read these as their caller */
	{"EXECUTE", "ROUTINE %1$s.idem_counters(), %1$s.idem_next_xid(), %1$s.idem_pending(pg_catalog.text), "
		"%1$s.idem_is_past(pg_catalog.text, pg_catalog.int8, pg_catalog.xid8, pg_catalog.int4, pg_catalog.int8)", DBA},
	{"SELECT", "TABLE %1$s.idem_ring, %1$s.idem_scopes, %1$s.idem_pinned, %1$s.idem_parked, %1$s.idem_attempts, %1$s.idem_outbox_ids, %1$s.idem_tokens", DBA},
	{"SELECT", "TABLE %1$s.idem_keys_0, %1$s.idem_keys_1, %1$s.idem_keys_2", DBA},
	{"SELECT", "TABLE %1$s.idem_inbox_0, %1$s.idem_inbox_1, %1$s.idem_inbox_2", DBA},
	{"SELECT", "TABLE %1$s.idem_outbox_0, %1$s.idem_outbox_1, %1$s.idem_outbox_2", DBA},
	{"SELECT", "TABLE %1$s.idem_positions_0, %1$s.idem_positions_1, %1$s.idem_positions_2", DBA},
	{"SELECT", "TABLE %1$s.idem_watermarks_0, %1$s.idem_watermarks_1, %1$s.idem_watermarks_2", DBA},
	/* figures */
	{"SELECT", "TABLE %1$s.idem_holders, %1$s.idem_consumers, %1$s.idem_stores, %1$s.idem_stats", MONITOR},
	{"EXECUTE", "ROUTINE %1$s.idem_counters(), %1$s.idem_pending(pg_catalog.text)", MONITOR},
	{"SELECT (consumer, id, attempts, failed_at)", "TABLE %1$s.idem_dead_letters", MONITOR},
	{"SELECT (deadline, state)", "TABLE %1$s.idem_compensations", MONITOR},
};

Datum
idem_grant(PG_FUNCTION_ARGS)
{
	const char *role;
	const char *profile;
	const char *schema;
	int			bit;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role and profile must not be NULL"),
				 errdetail("Both say who may do what."),
				 errhint("Call idem_grant('some_role', 'app').")));
	role = NameStr(*PG_GETARG_NAME(0));
	profile = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (strcmp(profile, "app") == 0)
		bit = APP;
	else if (strcmp(profile, "dba") == 0)
		bit = DBA;
	else if (strcmp(profile, "consumer") == 0)
		bit = CONSUMER;
	else if (strcmp(profile, "monitor") == 0)
		bit = MONITOR;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown profile \"%s\"", profile),
				 errdetail("Profiles are \"app\", \"consumer\", \"dba\" and \"monitor\"."),
				 errhint("Use \"app\" for roles that claim keys and publish, \"consumer\" for those that fetch, \"dba\" for those who look after them, \"monitor\" for programs that only watch.")));
	(void) get_role_oid(role, false);
	idem_require_writable("idem_grant()");

	schema = quote_identifier(get_namespace_name(idem_tables()->schema));
	role = quote_identifier(role);

	SPI_connect();
	for (int i = 0; i < (int) lengthof(matrix); i++)
	{
		if (matrix[i].profiles & bit)
		{
			char	   *object = psprintf(matrix[i].object, schema);

			if (SPI_execute(psprintf("GRANT %s ON %s TO %s",
									 matrix[i].privilege, object, role),
							false, 0) != SPI_OK_UTILITY)
				elog(ERROR, "could not grant on %s", object);
		}
	}
	SPI_finish();
	PG_RETURN_VOID();
}
