/*
 * outbox.c
 *	  Publish: a message is a row that commits with the work.
 *
 * Messages are only added.  idem_publish() and INSERT INTO idem_outbox, which
 * is a view, are the same.
 *
 * A message carries its top-level transaction id, which is assigned before the
 * message's own id is drawn: mark.c relies on it.
 */
#include "outbox.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "incarnation.h"
#include "lane.h"
#include "ring.h"
#include "row.h"
#include "stats.h"
#include "subscriber.h"
#include "topic.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

PG_FUNCTION_INFO_V1(idem_publish);
PG_FUNCTION_INFO_V1(idem_outbox_insert);
PG_FUNCTION_INFO_V1(idem_outbox_refuse);
PG_FUNCTION_INFO_V1(idem_outbox_default);

/* columns of the view idem_outbox */
enum
{
	VIEW_ID,
	VIEW_TOPIC,
	VIEW_KEY,
	VIEW_TYPE,
	VIEW_PAYLOAD,
	VIEW_HEADERS,
	VIEW_CREATED_AT,
	VIEW_COLUMNS
};

/*
 * Store a message, given by the columns of the view.  Sets its id and
 * created_at there: where a guarded topic has the key in that state already,
 * those of the message that brought it there, and stores none.
 */
static void
publish(Datum *message, bool *isnull)
{
	Datum		values[OUTBOX_COLUMNS];
	bool		nulls[OUTBOX_COLUMNS] = {false};
	TopicState	state = {0};
	bool		is_guarded;
	const char *machine;
	Incarnation incarnation = incarnation_now();
	Relation	rel;

	subscriber_refuse("idem_publish()");
	idem_check_name(isnull[VIEW_TOPIC] ? NULL : DatumGetTextPP(message[VIEW_TOPIC]), "topic");
	if (isnull[VIEW_PAYLOAD])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("payload must not be NULL"),
				 errdetail("The payload is what consumers act upon."),
				 errhint("Pass 'null'::jsonb for a JSON null.")));
	if (!isnull[VIEW_HEADERS] && !JB_ROOT_IS_OBJECT(DatumGetJsonbP(message[VIEW_HEADERS])))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object"),
				 errdetail("Each header is a name and a value."),
				 errhint("Pass NULL for none.")));
	if (!isnull[VIEW_ID] || !isnull[VIEW_CREATED_AT])
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"%s\" of idem_outbox is generated",
						isnull[VIEW_ID] ? "created_at" : "id"),
				 errhint("Leave it out.")));

	rel = ring_open_current(STORE_OUTBOX, NULL);

	machine = topic_machine(message[VIEW_TOPIC]);
	is_guarded = machine != NULL;
	if (unlikely(is_guarded))
	{
		state.topic = message[VIEW_TOPIC];
		state.key = isnull[VIEW_KEY] ? (Datum) 0 : message[VIEW_KEY];
		state.type = isnull[VIEW_TYPE] ? (Datum) 0 : message[VIEW_TYPE];
		if (!topic_step(machine, &state))
		{
			message[VIEW_ID] = Int64GetDatum(state.id);
			message[VIEW_CREATED_AT] = TimestampTzGetDatum(state.since);
			isnull[VIEW_ID] = isnull[VIEW_CREATED_AT] = false;
			table_close(rel, NoLock);
			return;
		}
	}

	/* in this order */
	values[OUTBOX_XID - 1] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	message[VIEW_ID] = Int64GetDatum(nextval_internal(idem_tables()->outbox_ids, false));
	isnull[VIEW_ID] = false;
	message[VIEW_CREATED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	isnull[VIEW_CREATED_AT] = false;

	values[OUTBOX_ID - 1] = message[VIEW_ID];
	values[OUTBOX_ERA - 1] = Int64GetDatum(incarnation.era);
	values[OUTBOX_CREATED_AT - 1] = message[VIEW_CREATED_AT];
	values[OUTBOX_BRANCH - 1] = Int64GetDatum(incarnation.branch);
	values[OUTBOX_SLOT - 1] =
		Int32GetDatum(lane_slot(isnull[VIEW_KEY] ? NULL : DatumGetTextPP(message[VIEW_KEY]),
								DatumGetInt64(message[VIEW_ID])));
	values[OUTBOX_TOPIC - 1] = message[VIEW_TOPIC];
	values[OUTBOX_KEY - 1] = message[VIEW_KEY];
	nulls[OUTBOX_KEY - 1] = isnull[VIEW_KEY];
	values[OUTBOX_TYPE - 1] = message[VIEW_TYPE];
	nulls[OUTBOX_TYPE - 1] = isnull[VIEW_TYPE];
	values[OUTBOX_PAYLOAD - 1] = message[VIEW_PAYLOAD];
	values[OUTBOX_HEADERS - 1] = message[VIEW_HEADERS];
	nulls[OUTBOX_HEADERS - 1] = isnull[VIEW_HEADERS];

	row_insert(rel, values, nulls);
	table_close(rel, NoLock);
	stats_count(STAT_PUBLISHED);

	if (unlikely(is_guarded))
	{
		state.id = DatumGetInt64(message[VIEW_ID]);
		state.since = DatumGetTimestampTz(message[VIEW_CREATED_AT]);
		topic_store(&state);
	}
}

/*
 * Publish from within.
 */
void
outbox_publish(text *topic, text *key, text *type, Datum payload)
{
	Datum		message[VIEW_COLUMNS];
	bool		isnull[VIEW_COLUMNS];

	memset(isnull, true, sizeof(isnull));
	message[VIEW_TOPIC] = PointerGetDatum(topic);
	message[VIEW_KEY] = PointerGetDatum(key);
	message[VIEW_TYPE] = PointerGetDatum(type);
	message[VIEW_PAYLOAD] = payload;
	isnull[VIEW_TOPIC] = isnull[VIEW_KEY] = isnull[VIEW_TYPE] = isnull[VIEW_PAYLOAD] = false;
	publish(message, isnull);
}

/*
 * idem_publish(topic, payload, key, type, headers) -> id
 */
Datum
idem_publish(PG_FUNCTION_ARGS)
{
	static const int column[] = {VIEW_TOPIC, VIEW_PAYLOAD, VIEW_KEY, VIEW_TYPE, VIEW_HEADERS};
	Datum		message[VIEW_COLUMNS];
	bool		isnull[VIEW_COLUMNS];

	idem_require_writable("idem_publish()");
	memset(isnull, true, sizeof(isnull));
	for (int i = 0; i < (int) lengthof(column); i++)
	{
		message[column[i]] = PG_GETARG_DATUM(i);
		isnull[column[i]] = PG_ARGISNULL(i);
	}
	publish(message, isnull);
	PG_RETURN_DATUM(message[VIEW_ID]);
}

/*
 * INSTEAD OF INSERT on the view
 */
Datum
idem_outbox_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	Datum		message[VIEW_COLUMNS];
	bool		isnull[VIEW_COLUMNS];

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_INSTEAD(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("idem_outbox_insert() must be called as an INSTEAD OF INSERT trigger")));
	desc = RelationGetDescr(trigger->tg_relation);
	if (desc->natts != VIEW_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("idem_outbox_insert() is for idem_outbox alone")));

	heap_deform_tuple(trigger->tg_trigtuple, desc, message, isnull);
	publish(message, isnull);
	return PointerGetDatum(heap_form_tuple(desc, message, isnull));
}

/*
 * Default of the view's column id, which only an INSERT asks for.
 */
Datum
idem_outbox_default(PG_FUNCTION_ARGS)
{
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot insert into \"idem_outbox\" while session_replication_role is replica"),
				 errdetail("The trigger that stores the message does not run."),
				 errhint("Use idem_publish().")));
	PG_RETURN_NULL();
}

/*
 * Triggers on the view that refuse what is not an INSERT.
 */
Datum
idem_outbox_refuse(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("idem_outbox_refuse() must be called as a trigger")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s \"%s\"",
					TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "update" : "delete from",
					RelationGetRelationName(trigger->tg_relation)),
			 errdetail("Messages are only added; consumers keep positions and change no message."),
			 errhint("To correct a message publish another one. Old ones go with CALL idem_maintain(), once idem.outbox_retention is over and every consumer has passed them.")));
	return PointerGetDatum(NULL);
}
