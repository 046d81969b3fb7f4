-- The idiom written as a function, which is called once
\set a random(100000000000000000, 999999999999999999)
SELECT place_once(:a::text || '-91b7-c2a60f3e-new', '{"customer": 12583, "item": "white hanging heart", "amount": 15.30}');
