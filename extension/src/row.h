/*
 * row.h
 *	  Rows written directly, without the executor.
 */
#ifndef IDEM_ROW_H
#define IDEM_ROW_H

#include "idem.h"

#include "nodes/execnodes.h"
#include "utils/relcache.h"

/* a table that rows are inserted into, with its indexes open */
typedef struct RowWriter
{
	Relation	rel;
	int			count;			/* of indexes */
	Relation   *indexes;
	IndexInfo **infos;
} RowWriter;

extern void row_writer_open(RowWriter *writer, Relation rel);
extern void row_write(RowWriter *writer, const Datum *values, const bool *nulls);
extern void row_writer_close(RowWriter *writer);
extern void row_insert(Relation rel, const Datum *values, const bool *nulls);

#endif							/* IDEM_ROW_H */
