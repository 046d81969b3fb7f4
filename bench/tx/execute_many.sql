\set a random(100000000000000000, 999999999999999999)
SELECT * FROM idem_execute_many('place(jsonb)', ARRAY(SELECT (:a::bigint + i)::text || '-91b7-c2a60f3e-new' FROM generate_series(1, 500) AS i), array_fill('{"customer": 12583, "item": "white hanging heart", "amount": 15.30}'::jsonb, '{500}'));
