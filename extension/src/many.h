/*
 * many.h
 *	  Many keys in one call.
 */
#ifndef IDEM_MANY_H
#define IDEM_MANY_H

#include "claim.h"

/* one of the call's keys, in the order in which they were given */
typedef struct ManyItem
{
	IdemKey		key;
	Datum		name;			/* text: the key as given */
	Jsonb	   *value;			/* request or response; NULL: none */
	Jsonb	   *context;		/* what comes along with the request, or NULL */
	bool		claimed;		/* by this call */
	const struct ManyItem *first;	/* of the same key and request, which was claimed */
	const char *status;
	Datum		response;		/* jsonb; 0: none */
	TimestampTz cacheable_until;	/* DT_NOBEGIN: not at all */
} ManyItem;

extern ManyItem *many_items(FunctionCallInfo fcinfo, int keys_arg, const char *values_name,
						bool values_needed, int *count);
extern void many_set_scope(FunctionCallInfo fcinfo, int arg, ManyItem *items, int count);
extern void many_set_scopes(FunctionCallInfo fcinfo, int arg, ManyItem *items, int count);
extern void many_set_contexts(FunctionCallInfo fcinfo, int arg, ManyItem *items, int count);
extern void many_claim(ManyItem *items, int count);
extern void many_repeat(ManyItem *item, ClaimAnswer answer);
extern void many_answer(FunctionCallInfo fcinfo, const ManyItem *items, int count);

#endif							/* IDEM_MANY_H */
