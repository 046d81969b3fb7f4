\set a random(100000000000000000, 999999999999999999)
\startpipeline
BEGIN;
SELECT (idem_claim(:a::text || '-91b7-c2a60f3e-new')).status;
SELECT idem_complete(:a::text || '-91b7-c2a60f3e-new', '{"order": 4711, "status": "created"}');
COMMIT;
\endpipeline
