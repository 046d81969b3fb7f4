/*
 * mark.c
 *	  What of the outbox could be seen at a moment.
 *
 * A mark is a snapshot kept as data.  It is taken in this order: first the
 * snapshot, then the last id drawn (the floor), then the next transaction id.
 * A publisher has its transaction id before it draws a message's id.  So
 *
 *	 what the snapshot sees has ids up to the floor: they were drawn before;
 *	 what it does not see and has such an id is of a late transaction: one
 *	 that it lists as running, or one between its xmax and the next id.
 *
 * Transactions are top-level ones, on both sides.  This transaction's own is
 * not in a snapshot of its own but is late like any other: what it publishes
 * must be found later.
 *
 * In another cluster, to which a dump or pg_upgrade took it, a mark's
 * transaction ids mean nothing.  That is told by the era, the cluster's system
 * identifier.  All that came along has been committed, and ids go on from
 * where they were: across eras the floor alone decides.
 */
#include "mark.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "incarnation.h"
#include "sequence.h"
#include "tables.h"
#include "utils/array.h"
#include "utils/xid8.h"

/*
 * The id in 64 bits of a transaction that is not older than 2^31 others.
 */
static FullTransactionId
widen(TransactionId xid, FullTransactionId next)
{
	return FullTransactionIdFromU64(U64FromFullTransactionId(next) -
									(TransactionId) (XidFromFullTransactionId(next) - xid));
}

static int
compare_xids(const void *a, const void *b)
{
	uint64		x = U64FromFullTransactionId(*(const FullTransactionId *) a);
	uint64		y = U64FromFullTransactionId(*(const FullTransactionId *) b);

	return x < y ? -1 : x > y;
}

void
mark_take(Mark *mark, Snapshot snapshot)
{
	TransactionId own = GetTopTransactionIdIfAny();

	Assert(!snapshot->takenDuringRecovery);
	mark->era = incarnation_era();
	mark->floor = sequence_last(idem_tables()->outbox_ids);
	mark->to = ReadNextFullTransactionId();
	mark->from = widen(snapshot->xmax, mark->to);

	mark->nrunning = 0;
	mark->running = palloc(sizeof(FullTransactionId) * (snapshot->xcnt + 1));
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		mark->running[mark->nrunning++] = widen(snapshot->xip[i], mark->to);
	if (TransactionIdIsValid(own) && TransactionIdPrecedes(own, snapshot->xmax))
		mark->running[mark->nrunning++] = widen(own, mark->to);
	qsort(mark->running, mark->nrunning, sizeof(FullTransactionId), compare_xids);
}

/*
 * A mark that sees all up to an id, whenever it is committed.
 */
void
mark_at(Mark *mark, int64 floor)
{
	mark->era = incarnation_era();
	mark->floor = floor;
	mark->from = mark->to = FirstNormalFullTransactionId;
	mark->nrunning = 0;
	mark->running = NULL;
}

bool
mark_is_late(const Mark *mark, FullTransactionId xid)
{
	if (!FullTransactionIdPrecedes(xid, mark->from))
		return FullTransactionIdPrecedes(xid, mark->to);
	return mark->nrunning > 0 &&
		bsearch(&xid, mark->running, mark->nrunning, sizeof(xid), compare_xids) != NULL;
}

/*
 * Of a message that is committed by now.
 */
bool
mark_sees(const Mark *mark, int64 era, FullTransactionId xid, int64 id)
{
	return id <= mark->floor &&
		(era != mark->era || !mark_is_late(mark, xid));
}

void
mark_copy(Mark *to, const Mark *from, MemoryContext context)
{
	*to = *from;
	to->running = NULL;
	if (from->nrunning > 0)
	{
		to->running = MemoryContextAlloc(context, sizeof(FullTransactionId) * from->nrunning);
		memcpy(to->running, from->running, sizeof(FullTransactionId) * from->nrunning);
	}
}

/*
 * From and to MARK_COLUMNS columns of a table.
 */
void
mark_get(Mark *mark, const Datum *values)
{
	ArrayType  *running = DatumGetArrayTypeP(values[4]);

	if (ARR_NDIM(running) > 1 || ARR_HASNULL(running) || ARR_ELEMTYPE(running) != XID8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the running transactions of a position are damaged"),
				 errdetail("They must be an array without NULL."),
				 errhint("Restore idem_positions from a backup, or set the consumer with idem_seek().")));
	mark->era = DatumGetInt64(values[0]);
	mark->floor = DatumGetInt64(values[1]);
	mark->from = DatumGetFullTransactionId(values[2]);
	mark->to = DatumGetFullTransactionId(values[3]);
	mark->nrunning = ArrayGetNItems(ARR_NDIM(running), ARR_DIMS(running));
	mark->running = (FullTransactionId *) ARR_DATA_PTR(running);
}

void
mark_put(const Mark *mark, Datum *values)
{
	Datum	   *running = palloc(sizeof(Datum) * (mark->nrunning + 1));

	for (int i = 0; i < mark->nrunning; i++)
		running[i] = FullTransactionIdGetDatum(mark->running[i]);
	values[0] = Int64GetDatum(mark->era);
	values[1] = Int64GetDatum(mark->floor);
	values[2] = FullTransactionIdGetDatum(mark->from);
	values[3] = FullTransactionIdGetDatum(mark->to);
	values[4] = PointerGetDatum(construct_array(running, mark->nrunning, XID8OID,
												sizeof(FullTransactionId), FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	pfree(running);
}
