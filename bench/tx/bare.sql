\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30);
COMMIT;
\endpipeline
