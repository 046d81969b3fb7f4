\set a random(100000000000000000, 999999999999999999)
BEGIN;
SELECT (idem_claim(:a::text || '-91b7-c2a60f3e-new', '{"customer": 12583, "item": "white hanging heart", "amount": 15.30}')).status;
SELECT place('{"customer": 12583, "item": "white hanging heart", "amount": 15.30}') AS response \gset
SELECT idem_complete(:a::text || '-91b7-c2a60f3e-new', :response);
COMMIT;
