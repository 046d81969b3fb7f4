/*
 * row.c
 *	  Rows written directly, without the executor.
 */
#include "row.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "catalog/index.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"

/*
 * An entry in every index of the table, those included that a DBA is just
 * building or has added.  One on an expression or with a predicate would need
 * the executor.
 */
static void
insert_index_entries(Relation rel, HeapTuple tuple, const Datum *values,
					 const bool *nulls)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);
		IndexInfo  *info = BuildIndexInfo(index);
		Datum		entry[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		if (info->ii_Expressions != NIL || info->ii_Predicate != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("index \"%s\" on table \"%s\" of extension idem is not supported",
							RelationGetRelationName(index), RelationGetRelationName(rel)),
					 errdetail("It is on an expression or has a predicate."),
					 errhint("Drop the index.")));

		for (int i = 0; i < info->ii_NumIndexAttrs; i++)
		{
			int			column = info->ii_IndexAttrNumbers[i] - 1;

			entry[i] = values[column];
			isnull[i] = nulls[column];
		}
		if (info->ii_ReadyForInserts)
			(void) index_insert(index, entry, isnull, &tuple->t_self, rel,
								info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
								false, info);
		idem_index_insert_cleanup(index, info);
		index_close(index, RowExclusiveLock);
	}
	list_free(indexes);
}

/*
 * Insert a row and its index entries.
 */
void
row_insert(Relation rel, const Datum *values, const bool *nulls)
{
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel),
										(Datum *) values, (bool *) nulls);

	simple_heap_insert(rel, tuple);
	insert_index_entries(rel, tuple, values, nulls);
	heap_freetuple(tuple);
}
