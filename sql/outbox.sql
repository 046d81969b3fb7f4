--
-- Publish: by function, by INSERT, by COPY; what is refused; what a rollback leaves.
--
\set fails '\\g \\echo :SQLSTATE'
SET client_min_messages = warning;
CREATE VIEW pg_temp.m AS SELECT topic, key, type, payload, headers FROM idem_outbox WHERE topic LIKE 'outbox.%' ORDER BY id;

SELECT idem_publish('outbox.t', '{"a": 1}', 'k', 'created', '{"h": true}') > 0 AS id;
SELECT idem_publish('outbox.t', 'null') < idem_publish('outbox.t', '[]', type => 'paid') AS in_order;
INSERT INTO idem_outbox (topic, key, type, payload, headers) VALUES ('outbox.t', 'k', 'paid', '{"b": 2}', '{}') RETURNING topic, key, type, payload, headers, id = currval('idem_outbox_ids') AS id, created_at <= clock_timestamp() AS created_at;
INSERT INTO idem_outbox (topic, payload) SELECT 'outbox.u', to_jsonb(i) FROM generate_series(1, 3) AS i;
COPY idem_outbox (topic, key, payload) FROM stdin;
outbox.copy	a	{"copied": 1}
outbox.copy	\N	{"copied": 2}
\.
SELECT * FROM pg_temp.m;
-- each carries its transaction
BEGIN;
SELECT idem_publish('outbox.x', '1') > 0 AS published;
SAVEPOINT s;
SELECT idem_publish('outbox.x', '2') > 0 AS published;
SELECT payload, xid = pg_current_xact_id() AS top_level, era = (SELECT system_identifier FROM pg_control_system()) AS era
FROM idem_outbox_0 WHERE topic = 'outbox.x' ORDER BY id;
ROLLBACK TO s;
SELECT idem_publish('outbox.x', '3') > 0 AS published;
COMMIT;
SELECT payload FROM idem_outbox WHERE topic = 'outbox.x' ORDER BY id;
BEGIN;
SELECT idem_publish('outbox.y', '1') > 0 AS published;
ROLLBACK;
SELECT count(*) FROM idem_outbox WHERE topic = 'outbox.y';
-- where triggers are switched off it says so
SET session_replication_role = replica;
INSERT INTO idem_outbox (topic, payload) VALUES ('outbox.y', '2') RETURNING payload :fails
COPY idem_outbox (topic, payload) FROM PROGRAM 'printf "outbox.y\\t3\\n"' :fails
SELECT idem_publish('outbox.y', '4') > 0 AS published;
RESET session_replication_role;
SELECT count(*) FROM idem_outbox WHERE topic = 'outbox.y';
-- large ones
SELECT idem_publish('outbox.large', to_jsonb(repeat(md5('x'), 100000))) > 0 AS published;
SELECT length(payload #>> '{}') FROM idem_outbox WHERE topic = 'outbox.large';

-- messages are only added
UPDATE idem_outbox SET topic = 'changed' :fails
UPDATE idem_outbox SET topic = 'changed' WHERE false :fails
DELETE FROM idem_outbox :fails
DELETE FROM idem_outbox WHERE id = -1 :fails
TRUNCATE idem_outbox :fails

-- bad input
SELECT idem_publish(NULL, '1') :fails
SELECT idem_publish('', '1') :fails
SELECT idem_publish(repeat('x', 256), '1') :fails
SELECT idem_publish(repeat('x', 255), '1') > 0 AS published;
SELECT idem_publish('outbox.t', NULL) :fails
SELECT idem_publish('outbox.t', 'no json') :fails
SELECT idem_publish('outbox.t', '1', headers => '[]') :fails
SELECT idem_publish('outbox.t', '1', headers => '1') :fails
INSERT INTO idem_outbox (topic) VALUES ('outbox.t') :fails
INSERT INTO idem_outbox (id, topic, payload) VALUES (1, 'outbox.t', '1') :fails
INSERT INTO idem_outbox (created_at, topic, payload) VALUES (now(), 'outbox.t', '1') :fails
BEGIN READ ONLY;
SELECT idem_publish('outbox.t', '1') :fails
ROLLBACK;
SELECT idem_outbox_insert() :fails
CREATE TEMP TABLE other (id int);
CREATE TRIGGER other BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION idem_outbox_insert();
INSERT INTO other VALUES (1) :fails
SELECT count(*) FROM idem_outbox WHERE topic = 'outbox.t';
SELECT * FROM idem_verify();
