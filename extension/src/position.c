/*
 * position.c
 *	  How far a consumer is: the latest row of its lane in idem_positions.
 */
#include "position.h"

/*
 * Also gives the row, for what it tells of its writer.
 */
bool
position_find(const text *consumer, int64 lane, Position *position, Latest *row)
{
	if (!latest_find(STORE_POSITIONS, consumer, lane, row))
		return false;

	position->n = DatumGetInt64(row->values[LATEST_N - 1]);
	position->ended = row->nulls[POSITION_LOW - 1];
	if (!position->ended)
		mark_get(&position->low, &row->values[POSITION_LOW - 1]);
	position->in_window = !row->nulls[POSITION_HIGH - 1];
	if (position->in_window)
	{
		mark_get(&position->high, &row->values[POSITION_HIGH - 1]);
		position->last_id = DatumGetInt64(row->values[POSITION_LAST_ID - 1]);
	}
	position->is_numbered = !row->nulls[POSITION_SEQ - 1];
	if (position->is_numbered)
	{
		position->seq = DatumGetInt64(row->values[POSITION_SEQ - 1]);
		position->incarnation.era = DatumGetInt64(row->values[POSITION_SEQ_ERA - 1]);
		position->incarnation.branch = DatumGetInt64(row->values[POSITION_SEQ_BRANCH - 1]);
		position->numbering = DatumGetInt64(row->values[POSITION_SEQ_NUMBERING - 1]);
		position->window_lanes = DatumGetInt32(row->values[POSITION_WINDOW_LANES - 1]);
		position->redriven_id = DatumGetInt64(row->values[POSITION_REDRIVEN_ID - 1]);
	}
	return true;
}

void
position_append(const text *consumer, int64 lane, const Position *position)
{
	Datum		values[POSITION_COLUMNS];
	bool		nulls[POSITION_COLUMNS];

	memset(nulls, true, sizeof(nulls));
	memset(nulls, false, LATEST_COLUMNS);
	values[LATEST_NAME - 1] = PointerGetDatum(consumer);
	values[LATEST_LANE - 1] = Int64GetDatum(lane);
	values[LATEST_N - 1] = Int64GetDatum(position->n);
	if (!position->ended)
	{
		mark_put(&position->low, &values[POSITION_LOW - 1]);
		memset(&nulls[POSITION_LOW - 1], false, MARK_COLUMNS);
	}
	if (position->in_window)
	{
		mark_put(&position->high, &values[POSITION_HIGH - 1]);
		memset(&nulls[POSITION_HIGH - 1], false, MARK_COLUMNS);
		values[POSITION_LAST_ID - 1] = Int64GetDatum(position->last_id);
		nulls[POSITION_LAST_ID - 1] = false;
	}
	if (position->is_numbered)
	{
		values[POSITION_SEQ - 1] = Int64GetDatum(position->seq);
		values[POSITION_SEQ_ERA - 1] = Int64GetDatum(position->incarnation.era);
		values[POSITION_SEQ_BRANCH - 1] = Int64GetDatum(position->incarnation.branch);
		values[POSITION_SEQ_NUMBERING - 1] = Int64GetDatum(position->numbering);
		values[POSITION_WINDOW_LANES - 1] = Int32GetDatum(position->window_lanes);
		values[POSITION_REDRIVEN_ID - 1] = Int64GetDatum(position->redriven_id);
		memset(&nulls[POSITION_SEQ - 1], false, POSITION_COLUMNS - POSITION_SEQ + 1);
	}
	latest_append(STORE_POSITIONS, values, nulls);
}

bool
position_is_past(const Position *position, int64 era, FullTransactionId xid, int64 id)
{
	return mark_sees(&position->low, era, xid, id) ||
		(position->in_window && id <= position->last_id &&
		 mark_sees(&position->high, era, xid, id));
}
