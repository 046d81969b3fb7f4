--
-- idem_claim: what it answers.
--
\set fails '\\g \\echo :SQLSTATE'

-- every column of every answer but the moment it may be cached until
PREPARE claim (text, jsonb, text) AS
	SELECT status, response, attempt, token, checkpoint,
	       cacheable_until > now() AS cacheable
	FROM idem_claim($1, $2, $3);
\pset null '(null)'

-- claimed, then completed for ever after
BEGIN;
EXECUTE claim ('claim', '{"sku": "A1", "qty": 2}', '');
SELECT idem_complete('claim', '{"order": 17, "total": 10.50, "note": null}');
EXECUTE claim ('claim', '{"sku": "A1", "qty": 2}', '');
COMMIT;
EXECUTE claim ('claim', '{"sku": "A1", "qty": 2}', '');
EXECUTE claim ('claim', '{"sku": "A1", "qty": 2}', '');

-- another request: mismatch, and nothing of the response
EXECUTE claim ('claim', '{"sku": "A1", "qty": 3}', '');
EXECUTE claim ('claim', '{}', '');
EXECUTE claim ('claim', '[]', '');
EXECUTE claim ('claim', 'null', '');

-- no request: matches anything, on either side
EXECUTE claim ('claim', NULL, '');
BEGIN;
EXECUTE claim ('claimed without', NULL, '');
SELECT idem_complete('claimed without', '"done"');
COMMIT;
EXECUTE claim ('claimed without', '{"anything": true}', '');
-- a JSON null is a request
BEGIN;
EXECUTE claim ('claimed with null', 'null', '');
SELECT idem_complete('claimed with null', 'null');
COMMIT;
EXECUTE claim ('claimed with null', 'null', '');
EXECUTE claim ('claimed with null', '{}', '');

-- equal jsonb is the same request, however it is written
BEGIN;
EXECUTE claim ('canonical', '{"b": [1, 2.50, {"x": null}], "a": "é", "n": 100, "dup": 2}', '');
SELECT idem_complete('canonical', '1');
COMMIT;
SELECT request, status
FROM (VALUES
	('{"a": "é", "b": [1, 2.50, {"x": null}], "dup": 2, "n": 100}'),
	('{"n":100,"dup":2,"b":[1,2.50,{"x":null}],"a":"é"}'),
	(E'{ "a" : "\\u00e9",\n\t"b":[ 1 , 2.50,{"x":null} ],"n":100, "dup":2 }'),
	('{"a": "é", "b": [1.0, 2.5, {"x": null}], "dup": 2.000, "n": 1e2}'),
	('{"dup": 1, "a": "é", "b": [1.00, 2.500, {"x": null}], "dup": 2, "n": 100}'),
	-- and these are not
	('{"a": "é", "b": [2.50, 1, {"x": null}], "dup": 2, "n": 100}'),
	('{"a": "é", "b": [1, 2.50, {"x": null}], "dup": 2, "n": "100"}'),
	('{"a": "é", "b": [1, 2.50, {"x": null}], "dup": 2, "n": 101}'),
	('{"a": "e", "b": [1, 2.50, {"x": null}], "dup": 2, "n": 100}'),
	('{"a": "é", "b": [1, 2.50, {"x": false}], "dup": 2, "n": 100}'),
	('{"a": "é", "b": [1, 2.50, {}], "dup": 2, "n": 100}'),
	('{"a": "é", "b": [1, 2.50, ["x", null]], "dup": 2, "n": 100}'),
	('{"a": "é", "b": [1, 2.50, {"x": null}], "dup": 2}'),
	('{"a": "é", "b": [1, 2.50, {"x": null}], "dup": 2, "n": 100, "o": null}'),
	('[{"a": "é", "b": [1, 2.50, {"x": null}], "dup": 2, "n": 100}]')
) AS r (request), idem_claim('canonical', r.request::jsonb);

-- a scope is a world of its own
BEGIN;
EXECUTE claim ('claim', '{}', 'shop');
SELECT idem_complete('claim', '"of the shop"', 'shop');
COMMIT;
BEGIN;
EXECUTE claim ('claim', '{}', 'Shop');
SELECT idem_release('claim', 'Shop');
COMMIT;
EXECUTE claim ('claim', '{}', 'shop');
-- where the one ends and the other begins is part of them
BEGIN;
SELECT status FROM idem_claim('bc', scope => 'a');
SELECT status FROM idem_claim('c', scope => 'ab');
SELECT status FROM idem_claim('abc');
SELECT idem_release('bc', 'a'), idem_release('c', 'ab'), idem_release('abc');
COMMIT;
-- keys are bytes: neither case nor accents nor blanks are folded
BEGIN;
SELECT k, status FROM unnest('{key,Key,kéy,"key "," key"}'::text[]) AS k, idem_claim(k);
SELECT idem_release(k) FROM unnest('{key,Key,kéy,"key "," key"}'::text[]) AS k;
COMMIT;

-- many keys in one transaction, more than are kept in memory for the next
BEGIN;
SELECT status, count(*) FROM generate_series(1, 300) AS i, idem_claim('many ' || i) GROUP BY status;
SELECT count(idem_complete('many ' || i, to_jsonb(i))) FROM generate_series(1, 300) AS i;
COMMIT;
SELECT status, count(*), sum(response::int)
FROM generate_series(1, 300) AS i, idem_claim('many ' || i, wait => '0') GROUP BY status;
SELECT count(*), count(DISTINCT key) FROM idem_keys WHERE key LIKE 'many %';

-- claimed twice
BEGIN;
EXECUTE claim ('twice', NULL, '');
EXECUTE claim ('twice', NULL, '') :fails
ROLLBACK;
BEGIN;
EXECUTE claim ('twice', '{}', 'shop');
EXECUTE claim ('twice', '{"other": 1}', 'shop') :fails
ROLLBACK;
-- once more after a release: it is ours still
BEGIN;
EXECUTE claim ('twice', NULL, '');
SELECT idem_release('twice');
EXECUTE claim ('twice', NULL, '');
SELECT idem_complete('twice', '"in the end"');
COMMIT;
EXECUTE claim ('twice', NULL, '');

-- rolled back: no trace
BEGIN;
EXECUTE claim ('rolled back', NULL, '');
SELECT idem_complete('rolled back', '1');
ROLLBACK;
BEGIN;
EXECUTE claim ('rolled back', NULL, '');
ROLLBACK;
SELECT count(*) FROM idem_keys WHERE key = 'rolled back';
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();

-- a claim writes nothing: it draws no transaction id
BEGIN;
EXECUTE claim ('no trace', NULL, '');
SELECT pg_current_xact_id_if_assigned();
SELECT idem_release('no trace');
SELECT pg_current_xact_id_if_assigned();
COMMIT;
EXECUTE claim ('claim', NULL, '') \; SELECT pg_current_xact_id_if_assigned() IS NULL AS replay_writes_nothing;
