-- A client's next key
\set n :n + 1
\startpipeline
BEGIN;
SELECT (idem_claim((:client_id::bigint * 1000000000 + :n)::text || '-4e1d-91b7-c2a60f3e')).status;
INSERT INTO orders (customer, item, amount) VALUES (:n, 'white hanging heart', 15.30);
SELECT idem_complete((:client_id::bigint * 1000000000 + :n)::text || '-4e1d-91b7-c2a60f3e', '{"order": 4711, "status": "created"}');
COMMIT;
\endpipeline
