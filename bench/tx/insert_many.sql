-- The same 500 orders of the same JSON, unprotected
\set a random(100000000000000000, 999999999999999999)
INSERT INTO orders (customer, item, amount) SELECT (request ->> 'customer')::bigint, request ->> 'item', (request ->> 'amount')::numeric FROM unnest(array_fill('{"customer": 12583, "item": "white hanging heart", "amount": 15.30}'::jsonb, '{500}')) AS request;
