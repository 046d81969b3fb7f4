-- The same, where the work is one statement for all keys
\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
INSERT INTO orders (customer, item, amount) SELECT (r.request ->> 'customer')::bigint, r.request ->> 'item', (r.request ->> 'amount')::numeric FROM idem_claim_many(ARRAY(SELECT (:a::bigint + i)::text || '-91b7-c2a60f3e-new' FROM generate_series(1, 500) AS i), array_fill('{"customer": 12583, "item": "white hanging heart", "amount": 15.30}'::jsonb, '{500}')) WITH ORDINALITY AS c JOIN unnest(array_fill('{"customer": 12583, "item": "white hanging heart", "amount": 15.30}'::jsonb, '{500}')) WITH ORDINALITY AS r (request, ordinality) USING (ordinality) WHERE c.status = 'claimed';
SELECT idem_complete_many(ARRAY(SELECT (:a::bigint + i)::text || '-91b7-c2a60f3e-new' FROM generate_series(1, 500) AS i), array_fill('{"order": 4711, "status": "created"}'::jsonb, '{500}'));
COMMIT;
\endpipeline
