-- graphile-worker's own function, without a queue name, which is its quickest
\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO orders (customer, item, amount) VALUES (:a, 'white hanging heart', 15.30);
SELECT graphile_worker.add_job('created', ('{"customer": ' || :a::text || ', "item": "white hanging heart", "amount": 15.30}')::json);
COMMIT;
\endpipeline
