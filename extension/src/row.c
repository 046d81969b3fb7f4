/*
 * row.c
 *	  Rows written directly, without the executor.
 */
#include "row.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "catalog/index.h"
#include "utils/rel.h"

/*
 * Open every index of the table, those included that a DBA is just building or
 * has added.  One on an expression or with a predicate would need the
 * executor.
 *
 * The caller has locked the table for writing, and keeps that lock.
 */
void
row_writer_open(RowWriter *writer, Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *cell;

	writer->rel = rel;
	writer->count = 0;
	writer->indexes = palloc(list_length(indexes) * sizeof(Relation));
	writer->infos = palloc(list_length(indexes) * sizeof(IndexInfo *));
	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);
		IndexInfo  *info = BuildIndexInfo(index);

		if (info->ii_Expressions != NIL || info->ii_Predicate != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("index \"%s\" on table \"%s\" of extension idem is not supported",
							RelationGetRelationName(index), RelationGetRelationName(rel)),
					 errdetail("It is on an expression or has a predicate."),
					 errhint("Drop the index.")));
		writer->indexes[writer->count] = index;
		writer->infos[writer->count++] = info;
	}
	list_free(indexes);
}

void
row_write(RowWriter *writer, const Datum *values, const bool *nulls)
{
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(writer->rel),
										(Datum *) values, (bool *) nulls);

	simple_heap_insert(writer->rel, tuple);
	for (int i = 0; i < writer->count; i++)
	{
		IndexInfo  *info = writer->infos[i];
		Datum		entry[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		if (!info->ii_ReadyForInserts)
			continue;
		for (int j = 0; j < info->ii_NumIndexAttrs; j++)
		{
			int			column = info->ii_IndexAttrNumbers[j] - 1;

			entry[j] = values[column];
			isnull[j] = nulls[column];
		}
		(void) index_insert(writer->indexes[i], entry, isnull, &tuple->t_self, writer->rel,
							info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
							false, info);
	}
	heap_freetuple(tuple);
}

void
row_writer_close(RowWriter *writer)
{
	for (int i = 0; i < writer->count; i++)
	{
		idem_index_insert_cleanup(writer->indexes[i], writer->infos[i]);
		index_close(writer->indexes[i], RowExclusiveLock);
	}
	pfree(writer->indexes);
	pfree(writer->infos);
}

/*
 * Insert one row.
 */
void
row_insert(Relation rel, const Datum *values, const bool *nulls)
{
	RowWriter	writer;

	row_writer_open(&writer, rel);
	row_write(&writer, values, nulls);
	row_writer_close(&writer);
}
