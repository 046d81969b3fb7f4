\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30);
INSERT INTO plain_outbox (topic, key, type, payload) VALUES ('orders', :a::text, 'created', ('{"customer": ' || :a::text || ', "item": "white hanging heart", "amount": 15.30}')::jsonb);
COMMIT;
\endpipeline
