/*
 * shrink.c
 *	  Making a retired generation small before it is truncated.
 *
 * TRUNCATE's commit removes the files.  Where these are gigabytes, the file
 * system is busy with that for a good part of a second, and everybody's commits
 * with it.  So the ends of the files are cut off first, some megabytes at a
 * time, each in a transaction of its own, with long pauses.
 *
 * What is left of the table between two steps, or after a crash, must do no
 * harm.  Its indexes lose their ends before the heap does; so before all they
 * are marked as not to be used, and that is made durable.  The heap goes before what
 * its rows refer to in the TOAST table, whose index stays whole.  The ring does
 * not open a generation with such indexes, nor one with a block in it, which is
 * left to TRUNCATE.
 *
 * pg_upgrade leaves such indexes out.  Until the end they are missing, then they
 * are made again.
 */
#include "shrink.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_index.h"
#include "catalog/storage.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_utilcmd.h"
#include "portability/instr_time.h"
#include "storage/bufmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/*
 * Blocks a step.  Each looks through all of shared_buffers, so it is more where
 * these are large.
 */
#define STEP ((BlockNumber) Max(8 * 1024 * 1024 / BLCKSZ, NBuffers / 128))

/*
 * The pause after it is so many times as long as it took, that it makes no
 * hundredth of all commits wait.
 */
#define PAUSE_SHARE 150
#define PAUSE_MIN_US 150000

static TimestampTz next_step = 0;	/* not before this */
static bool waiting = false;	/* for that */

static BlockNumber
blocks_of(Oid relid)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);

	relation_close(rel, AccessShareLock);
	return blocks;
}

/*
 * Is it too large to be truncated at once?
 */
bool
shrink_is_due(Oid relid)
{
	Relation	heap = table_open(relid, AccessShareLock);
	uint64		blocks = RelationGetNumberOfBlocks(heap);
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(heap))
		blocks += blocks_of(lfirst_oid(cell));
	if (OidIsValid(heap->rd_rel->reltoastrelid))
		blocks += blocks_of(heap->rd_rel->reltoastrelid);
	table_close(heap, AccessShareLock);
	return blocks > STEP;
}

/*
 * Is it time for a step?  Otherwise it is remembered that one waits.
 */
bool
shrink_may_step(void)
{
	TimestampTz now = GetCurrentTimestamp();

	waiting = now < next_step;
	return !waiting;
}

/*
 * How long until a step that was put off, in ms; -1: there is none.
 */
long
shrink_wait_ms(void)
{
	long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_step);

	if (!waiting)
		return -1;
	waiting = false;
	return ms;
}

/*
 * Cut up to *left blocks off its end, but for the first ones that are to stay.
 */
static void
cut(Oid relid, BlockNumber stay, BlockNumber *left)
{
	Relation	rel = relation_open(relid, NoLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);

	if (*left > 0 && blocks > stay)
	{
		BlockNumber off = Min(*left, blocks - stay);

		RelationTruncate(rel, blocks - off);
		*left -= off;
	}
	relation_close(rel, NoLock);
}

/*
 * Say of its indexes whether anybody may use them: queries, VACUUM.  False when
 * that is what is said already.
 */
static bool
mark_indexes(Relation heap, bool usable)
{
	Relation	catalog = table_open(IndexRelationId, RowExclusiveLock);
	bool		changed = false;
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(heap))
	{
		HeapTuple	tuple = SearchSysCacheCopy1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index form;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(cell));
		form = (Form_pg_index) GETSTRUCT(tuple);
		if (form->indisvalid == usable && form->indisready == usable)
			continue;
		form->indisvalid = form->indisready = usable;
		CatalogTupleUpdate(catalog, &tuple->t_self, tuple);
		changed = true;
	}
	table_close(catalog, RowExclusiveLock);
	if (changed)
		CacheInvalidateRelcache(heap);
	return changed;
}

/*
 * The n-th index that idem reads a generation by.  NULL: there are no more.
 */
static const Oid *
index_of(Store store, int generation, int n)
{
	if (n == 0)
		return &idem_tables()->generation[store][generation].index;
	if (n == 1 && store == STORE_OUTBOX)
		return &idem_tables()->outbox_by_xid[generation];
	return NULL;
}

/*
 * Was it begun, and not ended by TRUNCATE?
 */
bool
shrink_is_under_way(Store store, int generation)
{
	Relation	heap = table_open(idem_tables()->generation[store][generation].heap, AccessShareLock);
	bool		under_way = false;
	const Oid  *needed;
	ListCell   *cell;

	for (int n = 0; (needed = index_of(store, generation, n)) != NULL; n++)
		under_way |= !OidIsValid(*needed);
	foreach(cell, RelationGetIndexList(heap))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		under_way |= !(index->rd_index->indisvalid && index->rd_index->indisready);
		index_close(index, AccessShareLock);
	}
	table_close(heap, AccessShareLock);
	return under_way;
}

/*
 * Take a step, with all that belongs to the heap locked as for TRUNCATE.
 */
void
shrink_step(Relation heap)
{
	Oid			toast = heap->rd_rel->reltoastrelid;
	BlockNumber left = STEP;
	instr_time	began;
	instr_time	took;
	ListCell   *cell;

	if (mark_indexes(heap, false))
	{
		ForceSyncCommit();
		return;
	}
	INSTR_TIME_SET_CURRENT(began);
	foreach(cell, RelationGetIndexList(heap))
		cut(lfirst_oid(cell), 0, &left);
	cut(RelationGetRelid(heap),
		OidIsValid(toast) && blocks_of(toast) > 0 ? 0 : 1, &left);
	if (OidIsValid(toast))
		cut(toast, 1, &left);
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, began);
	next_step = GetCurrentTimestamp() +
		Max(PAUSE_MIN_US, (int64) INSTR_TIME_GET_MICROSEC(took) * PAUSE_SHARE);
}

/*
 * Make an index of the heap that is like one of another generation.
 */
static void
make_index(Relation heap, Oid like)
{
	Relation	index = index_open(like, AccessShareLock);
	int			prefix = strlen(get_rel_name(index->rd_index->indrelid));
	RangeVar   *name = makeRangeVar(get_namespace_name(RelationGetNamespace(heap)),
									pstrdup(RelationGetRelationName(heap)), -1);
	/* of plain columns, so that there are no attributes to map */
	IndexStmt  *stmt = generateClonedIndexStmt(name, index, NULL, NULL);

	stmt->idxname = psprintf("%s%s", name->relname, RelationGetRelationName(index) + prefix);
	index_close(index, AccessShareLock);
	(void) idem_define_index(RelationGetRelid(heap), stmt);
}

/*
 * It has been truncated, and its indexes with it.  Those of the current
 * generation are whole.
 */
void
shrink_end(Relation heap, Store store, int generation, int current)
{
	const Oid  *index;

	(void) mark_indexes(heap, true);
	for (int n = 0; (index = index_of(store, generation, n)) != NULL; n++)
		if (!OidIsValid(*index))
			make_index(heap, *index_of(store, current, n));
}
