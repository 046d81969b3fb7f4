--
-- Digests and fingerprints: known values, which may never change, for rows
-- that were stored, dumped and restored are found and compared by them.
--

-- literally
SELECT left(k, 20) AS key, left(s, 20) AS scope, idem_digest(k, s) AS digest, idem_digest(k, s) = d AS as_ever
FROM (VALUES
	('k', '', -658633627016110727),
	('k', 's', -8799408975121104088),
	('ks', '', -3127964735591152042),
	('7b7e0c5e-9e0c-4f0e-8d4e-2f3f0f8f8c11', 'shop', 531935823953354541),
	('Zahlung 漢字', 'Käufer', -768898303067822699),
	(repeat('x', 255), repeat('y', 255), 1241824868053897570)
) AS v (k, s, d);
SELECT idem_digest('k') = idem_digest('k', '') AS no_scope_is_the_empty_one;

-- and by the definition
SELECT count(*), bool_and(idem_digest(k, s) = ('x' || left(encode(sha256(
	convert_to(s, 'UTF8') || '\x00' || convert_to(k, 'UTF8')), 'hex'), 16))::bit(64)::bigint) AS by_definition,
	count(DISTINCT idem_digest(k, s)) AS different
FROM (SELECT repeat(chr(97 + i % 26), 1 + i * 7 % 255) || chr(200 + i) AS k, repeat('s', i % 256) AS s
      FROM generate_series(0, 600) AS i) AS x
WHERE octet_length(k) <= 255;

-- fingerprints
BEGIN;
CREATE TEMP TABLE digest_request (request text, fingerprint text) ON COMMIT DROP;
INSERT INTO digest_request VALUES
	('null', 'b5690d4af599f473bb0cf23ac06a4b7a9eae6ee8e847b2133c029e6f2c32773d'),
	('true', '8bef63222a855ad4945aa8b19997041c4f2a071afe427a507d6ab0a84d33d851'),
	('"a"', '511689024c2404b9ab8d91d3a3f3f8176fa592c83a6fadb9156de41ce009f3f4'),
	('["a"]', 'f7abe9cb41ae058bdccb93f484e0cba86878537dd6121d966a98bd7f394efe2c'),
	('1.50', 'ecc7013dc15f81e1d38c295dcc3c4411879d94df1de2d4448313a350c58e58d2'),
	('{}', 'efb8bfaafac1354be2ed1e5f4d75825007da021674193acb4bd51a445fa7460e'),
	('[]', '7549e90df972ecb871849fbff62c685de608dc0c1fbe6e7242eaaf2de574a65c'),
	('{"b": [1, 2.50, {"x": null}], "a": "é", "long": -1e3, "n": false}', 'cc7f53c1fa640e6e6329d22d6468f0e9bf978fde09a7115b7322c0e1f9479ad4'),
	('[[], {}, [0], 0.10]', '0f628c9f9183e64b7f22c5241002ee916be27f6c6e91173375978007b9a14222');
SELECT count(*) FROM digest_request, idem_claim(request, request::jsonb, 'fingerprint');
SELECT count(*) FROM digest_request, idem_complete(request, '1', 'fingerprint');
SELECT request, encode(k.fingerprint, 'hex') AS fingerprint, encode(k.fingerprint, 'hex') = r.fingerprint AS as_ever
FROM idem_keys_0 AS k JOIN digest_request AS r ON r.request = k.key
WHERE scope = 'fingerprint' ORDER BY request COLLATE "C";
-- by hand: an object of 1, the string a of 1 byte, a number of 1 digit, weight 0, positive, the digit 1
SELECT status FROM idem_claim('by hand', '{"a": 1}', 'fingerprint');
SELECT idem_complete('by hand', '1', 'fingerprint');
SELECT fingerprint = sha256('{\000\000\000\001s\000\000\000\001an\000\001\000\000\000\000\000\001'::bytea) AS by_definition
FROM idem_keys_0 WHERE scope = 'fingerprint' AND key = 'by hand';
-- and none without a request
SELECT status FROM idem_claim('without', scope => 'fingerprint');
SELECT idem_complete('without', '1', 'fingerprint');
SELECT fingerprint IS NULL AS without FROM idem_keys_0 WHERE scope = 'fingerprint' AND key = 'without';
ROLLBACK;

-- keys whose digests are the same are told apart, and so are their scopes
BEGIN;
SELECT status FROM idem_claim('one of two');
SELECT idem_complete('one of two', '1');
UPDATE idem_keys_0 SET digest = idem_digest('another') WHERE key = 'one of two';
SELECT status FROM idem_claim('another');
UPDATE idem_keys_0 SET digest = idem_digest('one of two', 'another') WHERE key = 'one of two';
SELECT status FROM idem_claim('one of two', scope => 'another');
ROLLBACK;

-- an index can use it
CREATE TABLE digest_index (key text);
CREATE INDEX ON digest_index (idem_digest(key));
DROP TABLE digest_index;

-- the encoding of the database does not matter
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_latin1;
CREATE DATABASE regress_idem_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
\c regress_idem_latin1
\encoding UTF8
CREATE EXTENSION idem;
SELECT idem_digest('é', 'Käufer') = 302057705731909983 AS in_latin1;
BEGIN;
SELECT status FROM idem_claim('latin', '{"a": "é"}');
SELECT idem_complete('latin', '1');
SELECT encode(fingerprint, 'hex') AS in_latin1 FROM idem_keys_0;
ROLLBACK;
\c :home
\encoding UTF8
DROP DATABASE regress_idem_latin1;
BEGIN;
SELECT idem_digest('é', 'Käufer') = 302057705731909983 AS in_utf8;
SELECT status FROM idem_claim('latin', '{"a": "é"}');
SELECT idem_complete('latin', '1');
SELECT encode(fingerprint, 'hex') AS in_utf8 FROM idem_keys_0 WHERE key = 'latin' AND scope = '';
ROLLBACK;
