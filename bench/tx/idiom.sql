\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO idiom_keys (key, status) VALUES (:a::text || '-91b7-c2a60f3e-new', 'started') ON CONFLICT (key) DO NOTHING;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30);
UPDATE idiom_keys SET status = 'completed', response = '{"order": 4711, "status": "created"}' WHERE key = :a::text || '-91b7-c2a60f3e-new';
COMMIT;
\endpipeline
