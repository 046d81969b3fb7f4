/*
 * sequence.c
 *	  What has been drawn from a sequence, by anybody.
 */
#include "sequence.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "commands/sequence.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

/*
 * The last number drawn, or 0.
 */
int64
sequence_last(Oid sequence)
{
	Relation	rel = relation_open(sequence, AccessShareLock);
	Buffer		buffer = ReadBuffer(rel, 0);
	ItemId		item;
	HeapTupleData tuple;
	Form_pg_sequence_data data;
	int64		last;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	item = PageGetItemId(BufferGetPage(buffer), FirstOffsetNumber);
	tuple.t_data = (HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item);
	data = (Form_pg_sequence_data) GETSTRUCT(&tuple);
	last = data->is_called ? data->last_value : 0;
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return last;
}

/*
 * Let the next number be above this one. Others who do so wait.
 */
void
sequence_reach(Oid sequence, int64 value)
{
	if (sequence_last(sequence) >= value)
		return;
	LockRelationOid(sequence, ShareUpdateExclusiveLock);
	if (sequence_last(sequence) < value)
		(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(value));
	UnlockRelationOid(sequence, ShareUpdateExclusiveLock);
}
