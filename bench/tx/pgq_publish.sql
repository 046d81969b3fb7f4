-- PgQ keeps text: it has no JSON to parse
\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30);
SELECT pgq.insert_event('orders', 'created', '{"customer": ' || :a::text || ', "item": "white hanging heart", "amount": 15.30}', :a::text, NULL, NULL, NULL);
COMMIT;
\endpipeline
