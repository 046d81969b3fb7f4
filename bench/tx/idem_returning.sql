-- The response has the order's number; one statement places and completes
\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
SELECT (idem_claim(:a::text || '-91b7-c2a60f3e-new')).status;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30) RETURNING idem_complete(:a::text || '-91b7-c2a60f3e-new', jsonb_build_object('order', id, 'status', 'created'));
COMMIT;
\endpipeline
