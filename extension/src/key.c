/*
 * key.c
 *	  What a key is: its text, its digest, the fingerprint of its request.
 *
 * Digests and fingerprints are stored, dumped and restored elsewhere, so their
 * values may never change: not with a version, a platform, a byte order or the
 * database's encoding.  A test pins known ones.
 */
#include "key.h"

#ifdef USE_OPENSSL
#include <openssl/evp.h>
#endif

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

StaticAssertDecl(FINGERPRINT_BYTES == PG_SHA256_DIGEST_LENGTH,
				 "a fingerprint is one SHA-256");

/* numeric_send: number of digits, weight, sign; decimals to show; the digits */
#define NUMERIC_SENT_DSCALE	6
#define NUMERIC_SENT_DIGITS	8

PG_FUNCTION_INFO_V1(idem_digest);

#ifdef USE_OPENSSL

/*
 * The server's own wrapper looks the algorithm up for every use, which costs
 * more than the hashing of a key.
 */
static void
sha256(const void *data, size_t len, uint8 *result)
{
	static EVP_MD *algorithm = NULL;
	static EVP_MD_CTX *ctx = NULL;

	if (algorithm == NULL)
		algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (ctx == NULL)
		ctx = EVP_MD_CTX_new();
	if (algorithm == NULL || ctx == NULL ||
		!EVP_DigestInit_ex2(ctx, algorithm, NULL) ||
		!EVP_DigestUpdate(ctx, data, len) ||
		!EVP_DigestFinal_ex(ctx, result, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute SHA-256")));
}

#else

static void
sha256(const void *data, size_t len, uint8 *result)
{
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);

	if (pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, data, len) < 0 ||
		pg_cryptohash_final(ctx, result, PG_SHA256_DIGEST_LENGTH) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute SHA-256: %s",
						pg_cryptohash_error(ctx))));
	pg_cryptohash_free(ctx);
}

#endif

/*
 * Text in UTF-8, whatever the database's encoding; *len becomes its length.
 * Bytes of no known encoding stay as they are.
 */
static const char *
to_utf8(const char *text, int *len)
{
	const char *converted;

	if (GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII)
		return text;
	converted = pg_server_to_any(text, *len, PG_UTF8);
	if (converted != text)
		*len = strlen(converted);
	return converted;
}

/*
 * The text of a key, checked; a NULL pointer stands for NULL.  The key points
 * into it.
 */
void
key_set_name(const text *name, IdemKey *key)
{
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_INVALID_KEY),
				 errmsg("idempotency key must not be NULL"),
				 errdetail("A key is text of 1 to %d bytes.", IDEM_MAX_NAME_BYTES),
				 errhint("Pass the key that the client sent, or one derived from the request's own identity.")));
	key->key = VARDATA_ANY(name);
	key->key_len = VARSIZE_ANY_EXHDR(name);
	if (key->key_len == 0 || key->key_len > IDEM_MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_INVALID_KEY),
				 key->key_len == 0 ?
				 errmsg("idempotency key must not be empty") :
				 errmsg("idempotency key is too long"),
				 errdetail("The key has %d bytes; a key is text of 1 to %d bytes.",
						   key->key_len, IDEM_MAX_NAME_BYTES),
				 key->key_len == 0 ?
				 errhint("Pass the key that the client sent, or one derived from the request's own identity.") :
				 errhint("Use a hash of the long value as the key.")));
}

/*
 * And its scope.
 */
void
key_set_scope(const text *scope, IdemKey *key)
{
	if (scope == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_INVALID_SCOPE),
				 errmsg("scope must not be NULL"),
				 errdetail("A scope is text of 0 to %d bytes.", IDEM_MAX_NAME_BYTES),
				 errhint("Leave the argument out, or pass '', for no scope.")));
	key->scope = VARDATA_ANY(scope);
	key->scope_len = VARSIZE_ANY_EXHDR(scope);
	if (key->scope_len > IDEM_MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_INVALID_SCOPE),
				 errmsg("scope is too long"),
				 errdetail("The scope has %d bytes; a scope is text of 0 to %d bytes.",
						   key->scope_len, IDEM_MAX_NAME_BYTES),
				 errhint("Use a short name or a hash of the long value as the scope.")));
}

void
key_from_args(FunctionCallInfo fcinfo, int key_arg, int scope_arg, IdemKey *key)
{
	key_set_name(PG_ARGISNULL(key_arg) ? NULL : PG_GETARG_TEXT_PP(key_arg), key);
	key_set_scope(PG_ARGISNULL(scope_arg) ? NULL : PG_GETARG_TEXT_PP(scope_arg), key);
}

bool
key_equal(const IdemKey *a, const IdemKey *b)
{
	return a->key_len == b->key_len &&
		a->scope_len == b->scope_len &&
		memcmp(a->key, b->key, a->key_len) == 0 &&
		memcmp(a->scope, b->scope, a->scope_len) == 0;
}

/*
 * The first eight bytes of SHA-256(scope, NUL, key), big-endian.  A
 * cryptographic hash, because whoever chooses keys must not be able to choose
 * keys that share a lock and an index entry with somebody else's.
 */
void
key_digest(IdemKey *key)
{
	char		input[2 * MAX_CONVERSION_GROWTH * IDEM_MAX_NAME_BYTES + 1];
	uint8		hash[PG_SHA256_DIGEST_LENGTH];
	uint64		first;
	int			scope_len = key->scope_len;
	int			key_len = key->key_len;
	const char *scope = to_utf8(key->scope, &scope_len);
	const char *text = to_utf8(key->key, &key_len);

	memcpy(input, scope, scope_len);
	input[scope_len] = '\0';
	memcpy(input + scope_len + 1, text, key_len);
	sha256(input, scope_len + 1 + key_len, hash);

	memcpy(&first, hash, sizeof(first));
	key->digest = (int64) pg_ntoh64(first);
}

void
key_locktag(const IdemKey *key, LOCKTAG *tag)
{
	uint64		digest = (uint64) key->digest;

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId,
						 (uint32) (digest >> 32), (uint32) digest,
						 IDEM_LOCK_CLAIM);
}

static void
append_bytes(StringInfo buf, char tag, const char *data, int len)
{
	uint32		n = pg_hton32((uint32) len);

	appendStringInfoChar(buf, tag);
	appendBinaryStringInfo(buf, (const char *) &n, sizeof(n));
	if (data != NULL)
		appendBinaryStringInfo(buf, data, len);
}

static void
append_scalar(StringInfo buf, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			appendStringInfoChar(buf, '0');
			break;
		case jbvBool:
			appendStringInfoChar(buf, value->val.boolean ? 't' : 'f');
			break;
		case jbvNumeric:
			{
				/*
				 * The binary form that clients get, but for the number of
				 * decimals to show: 1, 1.0 and 1.00 are equal, and must be
				 * here. It does not write out what an exponent says.
				 */
				bytea	   *sent = DatumGetByteaP(DirectFunctionCall1(numeric_send,
																	  NumericGetDatum(value->val.numeric)));
				const char *digits = VARDATA(sent);

				appendStringInfoChar(buf, 'n');
				appendBinaryStringInfo(buf, digits, NUMERIC_SENT_DSCALE);
				appendBinaryStringInfo(buf, digits + NUMERIC_SENT_DIGITS,
									   VARSIZE(sent) - VARHDRSZ - NUMERIC_SENT_DIGITS);
				pfree(sent);
				break;
			}
		case jbvString:
			{
				int			len = value->val.string.len;
				const char *text = to_utf8(value->val.string.val, &len);

				append_bytes(buf, 's', text, len);
				break;
			}
		default:
			elog(ERROR, "unexpected jsonb value type %d", (int) value->type);
	}
}

/*
 * SHA-256 over a canonical form of the request: equal jsonb, equal
 * fingerprint.  Each element is written with its type and length, so that no
 * two different requests share a form.  (A number's length is in its first
 * two bytes.)  An object's keys come in jsonb's own order, which for keys
 * beyond ASCII is that of the database's encoding.
 */
void
fingerprint_request(Datum jsonb, uint8 *fingerprint)
{
	Jsonb	   *request = DatumGetJsonbP(jsonb);
	JsonbIterator *it = JsonbIteratorInit(&request->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	StringInfoData buf;

	initStringInfo(&buf);
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		switch (token)
		{
			case WJB_BEGIN_OBJECT:
				append_bytes(&buf, '{', NULL, value.val.object.nPairs);
				break;
			case WJB_BEGIN_ARRAY:
				/* a scalar request is kept as an array of one */
				append_bytes(&buf, value.val.array.rawScalar ? '=' : '[',
							 NULL, value.val.array.nElems);
				break;
			case WJB_KEY:
			case WJB_VALUE:
			case WJB_ELEM:
				append_scalar(&buf, &value);
				break;
			default:
				break;
		}
	}
	sha256(buf.data, buf.len, fingerprint);
	pfree(buf.data);
}

Datum
idem_digest(PG_FUNCTION_ARGS)
{
	IdemKey		key;

	key_from_args(fcinfo, 0, 1, &key);
	key_digest(&key);
	PG_RETURN_INT64(key.digest);
}
