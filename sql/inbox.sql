--
-- Inbox: by message id, and by watermark.
--
\set fails '\\g \\echo :SQLSTATE'
SET client_min_messages = warning;

SELECT idem_consume('inbox s', 'm1') AS first;
SELECT idem_consume('inbox s', 'm1') AS again;
SELECT idem_consume('inbox s2', 'm1') AS other_source;
SELECT idem_consume('inbox s', 'm2') AS other_message;
BEGIN; SELECT idem_consume('inbox s', 'm3') AS first, idem_consume('inbox s', 'm3') AS again; ROLLBACK;
BEGIN;
SAVEPOINT s; SELECT idem_consume('inbox s', 'm3') AS first; ROLLBACK TO s;
SELECT idem_consume('inbox s', 'm3') AS first; COMMIT;
SELECT idem_consume('inbox s', 'm3') AS again;
-- in one statement, each once
SELECT m, idem_consume('inbox s', m) FROM unnest('{a,b,a,c,b}'::text[]) AS m;
-- a message expires
SELECT source, message_id, expires_at - now() > '13 days' AS expires_at FROM idem_inbox_0 WHERE message_id = 'm1' AND source LIKE 'inbox%' ORDER BY 1;
BEGIN;
UPDATE idem_inbox_0 SET expires_at = now() WHERE message_id = 'm1';
SELECT idem_consume('inbox s', 'm1') AS first;
SELECT idem_consume('inbox s', 'm1') AS again;
ROLLBACK;

-- by watermark
SELECT seq, idem_consume_seq('inbox s', 1, seq) FROM unnest('{2,1,1,3,2,2,4,3}'::bigint[]) AS seq;
SELECT idem_consume_seq('inbox s', 1, 4), idem_consume_seq('inbox s', 2, 1), idem_consume_seq('inbox s2', 1, 1), idem_consume_seq('inbox s', -1, 1);
BEGIN; SELECT idem_consume_seq('inbox s', 1, 5); ROLLBACK;
SELECT idem_consume_seq('inbox s', 1, 6);
SELECT idem_consume_seq('inbox s', 1, 5);
SELECT source, lane, max(seq) FROM idem_watermarks_0 WHERE source LIKE 'inbox %' GROUP BY 1, 2 ORDER BY 1, 2;

-- what a watermark has passed is not kept
CREATE PROCEDURE pg_temp.consume_many(rounds int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..rounds LOOP
		IF (SELECT count(*) FILTER (WHERE idem_consume_seq('inbox many', 7, (i - 1) * 100000 + j) <> 'first') FROM generate_series(1, 100000) AS j) > 0 THEN
			RAISE 'not the first';
		END IF;
		COMMIT;
		UPDATE idem_ring SET opened_at = opened_at - interval '1 hour', ends_at = ARRAY(SELECT e - interval '1 hour' FROM unnest(ends_at) WITH ORDINALITY AS u (e, g) ORDER BY g) WHERE store = 'watermarks';
		COMMIT;
		CALL idem_maintain();
	END LOOP;
END $$;
CALL pg_temp.consume_many(12);
SELECT sum(pg_total_relation_size(oid)) < 100 * 1024 * 1024 AS bounded FROM pg_class WHERE relname LIKE 'idem\_watermarks\__';
SELECT count(*) > 0 AS turned FROM idem_ring WHERE store = 'watermarks' AND step > 4;
SELECT idem_consume_seq('inbox many', 7, 1200000), idem_consume_seq('inbox many', 7, 1200001), idem_consume_seq('inbox many', 7, 1200003);
-- and of the others it is
SELECT idem_consume_seq('inbox s', 1, 5), idem_consume_seq('inbox s', 1, 7), idem_consume_seq('inbox s', 2, 1), idem_consume_seq('inbox s2', 1, 2), idem_consume_seq('inbox s', -1, 1);
SELECT * FROM idem_verify();

-- bad input
SELECT idem_consume(NULL, 'm') :fails
SELECT idem_consume('s', NULL) :fails
SELECT idem_consume('', 'm') :fails
SELECT idem_consume('s', repeat('x', 256)) :fails
SELECT idem_consume_seq(NULL, 1, 1) :fails
SELECT idem_consume_seq('s', NULL, 1) :fails
SELECT idem_consume_seq('s', 1, NULL) :fails
SELECT idem_consume_seq('s', 1, 0) :fails
SELECT idem_consume_seq('s', 1, -1) :fails
BEGIN READ ONLY; SELECT idem_consume('s', 'm') :fails
ROLLBACK;
