/*
 * json.c
 *	  Writing jsonb piece by piece: the members of an object.
 */
#include "json.h"

void
json_put_name(JsonbParseState **state, const char *name)
{
	JsonbValue	member = {
		.type = jbvString,
		.val.string = {.val = (char *) name, .len = strlen(name)}
	};

	pushJsonbValue(state, WJB_KEY, &member);
}

/*
 * A string; value NULL is a JSON null.
 */
void
json_put_string(JsonbParseState **state, const char *name, const char *value, int len)
{
	JsonbValue	member = {.type = jbvNull};

	if (value != NULL)
	{
		member.type = jbvString;
		member.val.string.val = (char *) value;
		member.val.string.len = len;
	}
	json_put_name(state, name);
	pushJsonbValue(state, WJB_VALUE, &member);
}

void
json_put_jsonb(JsonbParseState **state, const char *name, Jsonb *value)
{
	JsonbValue	member;

	JsonbToJsonbValue(value, &member);
	json_put_name(state, name);
	pushJsonbValue(state, WJB_VALUE, &member);
}
