-- The response has the order's number; one statement places and completes
\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO idiom_keys (key, status) VALUES (:a::text || '-91b7-c2a60f3e-new', 'started') ON CONFLICT (key) DO NOTHING;
WITH placed AS (INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30) RETURNING id) UPDATE idiom_keys SET status = 'completed', response = jsonb_build_object('order', id, 'status', 'created') FROM placed WHERE key = :a::text || '-91b7-c2a60f3e-new' RETURNING response;
COMMIT;
\endpipeline
