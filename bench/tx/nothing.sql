\startpipeline
BEGIN;
COMMIT;
\endpipeline
