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

#define APP	1					/* claims keys and completes them */
#define DBA	2					/* reads everything, maintains, evicts */

static const struct
{
	const char *privilege;
	const char *object;			/* kind and name; %s stands for the schema */
	int			profiles;
}			matrix[] =

{
	{"USAGE", "SCHEMA %s", APP | DBA},
	{"EXECUTE", "ROUTINE %s.idem_claim(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, "
		"pg_catalog.interval, pg_catalog.interval, pg_catalog.interval)", APP | DBA},
	{"EXECUTE", "ROUTINE %s.idem_complete(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, pg_catalog.int8)", APP | DBA},
	{"EXECUTE", "ROUTINE %s.idem_release(pg_catalog.text, pg_catalog.text, pg_catalog.int8)", APP | DBA},
	{"EXECUTE", "ROUTINE %s.idem_status(pg_catalog.text, pg_catalog.text)", APP | DBA},
	{"EXECUTE", "ROUTINE %s.idem_digest(pg_catalog.text, pg_catalog.text)", APP | DBA},
	{"EXECUTE", "ROUTINE %s.idem_evict(pg_catalog.text, pg_catalog.text)", DBA},
	{"EXECUTE", "ROUTINE %s.idem_maintain()", DBA},
	{"EXECUTE", "ROUTINE %s.idem_verify()", DBA},
	{"SELECT", "TABLE %s.idem_keys", DBA},
	{"SELECT", "TABLE %s.idem_holders", DBA},
	{"SELECT", "TABLE %s.idem_stores", DBA},
	/* idem_verify reads these as its caller */
	{"SELECT", "TABLE %s.idem_ring", DBA},
	{"SELECT", "TABLE %s.idem_keys_0", DBA},
	{"SELECT", "TABLE %s.idem_keys_1", DBA},
	{"SELECT", "TABLE %s.idem_keys_2", DBA},
	{"SELECT", "TABLE %s.idem_pinned", DBA},
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
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("profile \"consumer\" is not supported by idem %s", IDEM_VERSION),
				 errdetail("There is no outbox to consume from yet."),
				 errhint("Use profile \"app\" for roles that claim keys.")));
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown profile \"%s\"", profile),
				 errdetail("Profiles are \"app\", \"consumer\" and \"dba\"."),
				 errhint("Use \"app\" for roles that claim keys, \"dba\" for those who look after them.")));
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
