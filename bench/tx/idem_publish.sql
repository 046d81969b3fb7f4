\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30);
SELECT idem_publish('orders', ('{"customer": ' || :a::text || ', "item": "white hanging heart", "amount": 15.30}')::jsonb, :a::text, 'created');
COMMIT;
\endpipeline
