/*
 * json.h
 *	  Writing jsonb piece by piece: the members of an object.
 */
#ifndef IDEM_JSON_H
#define IDEM_JSON_H

#include "idem.h"

#include "utils/jsonb.h"

extern void json_put_name(JsonbParseState **state, const char *name);
extern void json_put_string(JsonbParseState **state, const char *name,
							const char *value, int len);
extern void json_put_jsonb(JsonbParseState **state, const char *name, Jsonb *value);

#endif							/* IDEM_JSON_H */
