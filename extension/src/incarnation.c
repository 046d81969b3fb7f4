/*
 * incarnation.c
 *	  Which life of the database this is.
 *
 * A standby that is promoted, or a backup that is restored, may lack the last
 * things that its predecessor did, and do others under the same numbers: a
 * message's id, or the seq of a delivery.  So what leaves the database carries
 * the incarnation in which it was numbered.  A promotion begins another
 * timeline, initdb gives another system identifier, and a dump's restore is
 * another installation of the extension, be it in the same database.
 */
#include "incarnation.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/xid8.h"

PG_FUNCTION_INFO_V1(idem_incarnation);
PG_FUNCTION_INFO_V1(idem_next_xid);

int64
incarnation_era(void)
{
	return (int64) GetSystemIdentifier();
}

Incarnation
incarnation_now(void)
{
	Incarnation now;

	now.era = incarnation_era();
	now.branch = (int64) GetWALInsertionTimeLine() << 32 |
		hash_combine(murmurhash32(MyDatabaseId), murmurhash32(idem_tables()->extension));
	return now;
}

bool
incarnation_equal(const Incarnation *a, const Incarnation *b)
{
	return a->era == b->era && a->branch == b->branch;
}

char *
incarnation_text(const Incarnation *incarnation)
{
	return psprintf(UINT64_FORMAT ".%u.%u", (uint64) incarnation->era,
					(uint32) (incarnation->branch >> 32), (uint32) incarnation->branch);
}

/*
 * () -> system identifier, timeline and installation
 */
Datum
idem_incarnation(PG_FUNCTION_ARGS)
{
	Incarnation now;

	(void) fcinfo;
	idem_require_primary("idem_incarnation()");
	now = incarnation_now();
	PG_RETURN_TEXT_P(cstring_to_text(incarnation_text(&now)));
}

/*
 * () -> the transaction id that is drawn next
 */
Datum
idem_next_xid(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_FULLTRANSACTIONID(ReadNextFullTransactionId());
}
