\set a random(-4000000000000000000, 4000000000000000000)
\startpipeline
BEGIN;
SELECT 1 FROM keys_2 WHERE digest = :a UNION ALL SELECT 1 FROM keys_1 WHERE digest = :a UNION ALL SELECT 1 FROM keys_0 WHERE digest = :a;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30);
INSERT INTO keys_2 (digest, claimed_at, completed_at, expires_at, scope, key, response)
VALUES (:a, now(), now(), now() + '24 h', '', lpad(:a::text, 36, '-'), '{"order": 4711, "status": "created"}');
COMMIT;
\endpipeline
