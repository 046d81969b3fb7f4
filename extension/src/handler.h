/*
 * handler.h
 *	  Handlers: functions that do the work of a key, or undo it.
 */
#ifndef IDEM_HANDLER_H
#define IDEM_HANDLER_H

#include "key.h"

typedef enum HandlerUse
{
	HANDLER_EXECUTES,			/* does the work, and returns the response */
	HANDLER_COMPENSATES			/* undoes it, later */
} HandlerUse;

/* one that was registered and not stored yet */
typedef struct Handler
{
	const struct Handler *before;	/* registered before this one */
	const char *function;		/* qualified */
	const char *owner;			/* of the function */
	const char *role;			/* who registered it */
	Datum		args;			/* jsonb */
} Handler;

extern void handler_check(Oid function, Oid role, HandlerUse use, const char *hint);
extern Datum handler_call(FmgrInfo *function, Datum args, bool *isnull);
extern Handler *handler_make(FunctionCallInfo fcinfo, int function_arg, int args_arg);
extern Datum handlers_to_jsonb(Datum stored, const Handler *newest);
extern char *handlers_first_role(Datum handlers);
extern void handlers_check_writer(Datum handlers);
extern Datum handlers_run(const IdemKey *key, Datum handlers);

#endif							/* IDEM_HANDLER_H */
