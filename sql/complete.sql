--
-- idem_complete: what is stored is what every replay gives, byte for byte.
--
\set fails '\\g \\echo :SQLSTATE'

CREATE TABLE complete_case (name text PRIMARY KEY, response jsonb);
INSERT INTO complete_case VALUES
	('null', 'null'), ('true', 'true'), ('zero', '0'), ('scale', '1.00'), ('negative', '-0.0'),
	('huge', '1e300'), ('exact', '12345678901234567890.123456789012345678901234567890'),
	('empty string', '""'), ('string', '"a \"quoted\" \\ line\nend \t\u0001"'),
	('unicode', '"é 漢字 🛒 \u00e9"'), ('empty object', '{}'), ('empty array', '[]'),
	('nested', '{"z": [{"a": 1.0}, [], [[]], {"": ""}], "a": {"b": {"c": null}}}'),
	('duplicate keys', '{"a": 1, "a": 2}'),
	('compressible', to_jsonb(repeat('x', 100000))),
	('large', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 20000) AS i));

-- as text is compared, for jsonb would take 1.0 for 1
BEGIN;
SELECT count(*) FILTER (WHERE status = 'claimed') AS claimed FROM complete_case, idem_claim(name, scope => 'complete');
SELECT count(*), bool_and(idem_complete(name, response, 'complete')::text = response::text) AS as_given FROM complete_case;
SELECT status, count(*), bool_and(c.response::text = r.response::text) AS as_given
FROM complete_case AS r, idem_claim(name, scope => 'complete') AS c GROUP BY status;
COMMIT;
SELECT status, count(*), bool_and(c.response::text = r.response::text) AS as_given,
       bool_and(jsonb_send(c.response) = jsonb_send(r.response)) AS as_given_binary
FROM complete_case AS r, idem_claim(name, scope => 'complete') AS c GROUP BY status;
SELECT key, response FROM idem_keys WHERE scope = 'complete' AND key NOT IN ('compressible', 'large') ORDER BY key;
SELECT pg_relation_size(reltoastrelid) > 100000 AS large_one_is_out_of_line
FROM pg_class WHERE relname = 'idem_keys_0';

-- stored, not pointed to: the source may go
CREATE TEMP TABLE complete_sum AS SELECT name, md5(response::text) AS sum FROM complete_case;
DROP TABLE complete_case;
SELECT status, count(*), bool_and(md5(response::text) = sum) AS as_given
FROM complete_sum, idem_claim(name, scope => 'complete') GROUP BY status;

-- completed twice
BEGIN;
SELECT status FROM idem_claim('complete twice');
SELECT idem_complete('complete twice', '1');
SELECT idem_complete('complete twice', '1') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('complete twice');
SELECT idem_complete('complete twice', '2');
SELECT idem_release('complete twice') :fails
ROLLBACK;
SELECT count(*) FROM idem_keys WHERE key = 'complete twice';

-- not claimed: not at all, not here, released, not given
SELECT idem_complete('never', '1') :fails
SELECT idem_release('never') :fails
BEGIN;
SELECT status FROM idem_claim('in scope', scope => 'here');
SELECT idem_complete('in scope', '1', 'there') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('released');
SELECT idem_release('released');
SELECT idem_complete('released', '1') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('released');
SELECT idem_release('released');
SELECT idem_release('released') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('null', scope => 'complete');
SELECT idem_complete('null', '1', 'complete') :fails
ROLLBACK;
SELECT response FROM idem_claim('null', scope => 'complete');
-- nor by the transaction before
BEGIN;
SELECT status FROM idem_claim('before');
ROLLBACK;
BEGIN;
SELECT idem_complete('before', '1') :fails
ROLLBACK;

-- together with the work in one statement
CREATE TABLE complete_order (id int PRIMARY KEY, key text);
BEGIN;
SELECT status FROM idem_claim('cte');
WITH o AS (INSERT INTO complete_order VALUES (7, 'cte') RETURNING id)
SELECT idem_complete('cte', jsonb_build_object('order', id)) FROM o;
COMMIT;
SELECT response FROM idem_claim('cte');

-- in PL/pgSQL, by unknown and untyped values
CREATE FUNCTION complete_place(key text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	c record;
BEGIN
	SELECT * INTO c FROM idem_claim(key, '{"place": "order"}', 'plpgsql');
	IF c.status <> 'claimed' THEN
		RETURN c.response;
	END IF;
	INSERT INTO complete_order SELECT max(id) + 1, complete_place.key FROM complete_order;
	RETURN idem_complete(key, (SELECT to_jsonb(o) FROM complete_order o WHERE o.key = complete_place.key), 'plpgsql');
END $$;
SELECT complete_place('one');
SELECT complete_place('two');
SELECT complete_place('one');
SELECT * FROM complete_order ORDER BY id;
DROP FUNCTION complete_place;
DROP TABLE complete_order;
