/*
 * key.h
 *	  What a key is: its text, its digest, the fingerprint of its request.
 */
#ifndef IDEM_KEY_H
#define IDEM_KEY_H

#include "idem.h"

#define FINGERPRINT_BYTES 32

typedef struct IdemKey
{
	const char *scope;			/* not terminated */
	const char *key;
	int			scope_len;
	int			key_len;
	int64		digest;			/* set by key_digest() */
} IdemKey;

extern void key_set_name(const text *name, IdemKey *key);
extern void key_set_scope(const text *scope, IdemKey *key);
extern void key_from_args(FunctionCallInfo fcinfo, int key_arg, int scope_arg,
						  IdemKey *key);
extern bool key_equal(const IdemKey *a, const IdemKey *b);
extern void key_digest(IdemKey *key);
extern void key_locktag(const IdemKey *key, LOCKTAG *tag);

extern void fingerprint_request(Datum jsonb, uint8 *fingerprint);

#endif							/* IDEM_KEY_H */
