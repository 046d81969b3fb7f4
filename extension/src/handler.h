/*
 * handler.h
 *	  Handlers: functions that undo what was done under a key.
 */
#ifndef IDEM_HANDLER_H
#define IDEM_HANDLER_H

#include "key.h"

/* one that was registered and not stored yet */
typedef struct Handler
{
	const struct Handler *before;	/* registered before this one */
	const char *function;		/* qualified */
	const char *role;			/* who registered it */
	Datum		args;			/* jsonb */
} Handler;

extern Handler *handler_make(FunctionCallInfo fcinfo, int function_arg, int args_arg);
extern Datum handlers_to_jsonb(Datum stored, const Handler *newest);
extern char *handlers_first_role(Datum handlers);
extern Datum handlers_run(const IdemKey *key, Datum handlers);

#endif							/* IDEM_HANDLER_H */
