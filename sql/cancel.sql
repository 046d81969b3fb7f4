--
-- idem_cancel: each anomaly of the field, by its name.
-- In a database of its own.
--
\set fails '\\g \\echo :SQLSTATE'
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_idem_cancel;
CREATE DATABASE regress_idem_cancel;
\c regress_idem_cancel
CREATE EXTENSION idem;
CREATE TABLE ledger (n int GENERATED ALWAYS AS IDENTITY, what text, amount int);
CREATE FUNCTION refund(args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO ledger (what, amount) VALUES (args ->> 'what', -(args ->> 'amount')::int);
	RETURN jsonb_build_object('refunded', args -> 'amount');
END $$;
CREATE FUNCTION note(args jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO ledger (what) VALUES ('note: ' || (args #>> '{}'))$$;
-- an order of so much, with the given handlers
CREATE PROCEDURE place(key text, amount int = 100, scope text = '', handlers regprocedure[] = '{refund(jsonb)}', ttl interval = NULL) LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	handler regprocedure;
BEGIN
	SELECT status INTO answer FROM idem_claim(key, scope => scope, ttl => ttl);
	IF answer <> 'claimed' THEN
		RAISE NOTICE '%', answer;
		RETURN;
	END IF;
	INSERT INTO ledger (what, amount) VALUES (key, amount);
	FOREACH handler IN ARRAY handlers LOOP
		PERFORM idem_compensate_with(key, handler, jsonb_build_object('what', key, 'amount', amount, 'by', handler), scope);
	END LOOP;
	PERFORM idem_complete(key, '"placed"', scope);
END $$;
CREATE VIEW sum AS SELECT what, sum(amount) AS stands, count(*) AS rows FROM ledger GROUP BY what ORDER BY what COLLATE "C";

-- cancelled once: compensated, then already, with the same response
CALL place('plain');
SELECT status, response - 'cancelled_at' AS response, (response ->> 'cancelled_at')::timestamptz <= clock_timestamp() AS at FROM idem_cancel('plain', 'changed their mind');
SELECT response AS first FROM idem_keys WHERE key = 'plain' \gset
SELECT status, response = :'first' AS same FROM idem_cancel('plain', 'another reason');
SELECT * FROM sum;
SELECT status, response = :'first' AS same, attempt FROM idem_status('plain');
SELECT status, response FROM idem_claim('plain');
SELECT key, status FROM idem_keys WHERE key = 'plain';
SELECT key, state FROM idem_compensations;
SELECT expires_at - now() BETWEEN interval '29 days 23 h' AND interval '30 days' AS remembered FROM idem_status('plain');

-- null compensation: cancelled before it was ever done
SELECT status, response - 'cancelled_at' AS response FROM idem_cancel('null compensation', 'too slow');
SELECT response AS first FROM idem_keys WHERE key = 'null compensation' \gset
SELECT status, response = :'first' AS same FROM idem_cancel('null compensation');
SELECT count(*) AS nothing_undone FROM ledger WHERE what = 'null compensation';

-- late action after cancel
CALL place('null compensation');
SELECT status, response, attempt, cacheable_until FROM idem_claim('null compensation');
SELECT status FROM idem_claim('null compensation', '{"with": "a request"}');
SELECT count(*) AS nothing_done FROM ledger WHERE what = 'null compensation';
-- also within one transaction, and after a rollback it never was cancelled
BEGIN;
SELECT status FROM idem_cancel('late');
SELECT status FROM idem_claim('late');
SELECT status FROM idem_cancel('late');
ROLLBACK;
CALL place('late');
BEGIN;
SELECT status FROM idem_claim('late');
SAVEPOINT s;
SELECT status FROM idem_cancel('late');
SELECT status FROM idem_claim('late');
ROLLBACK TO s;
SELECT status FROM idem_claim('late');
COMMIT;
SELECT * FROM sum WHERE what = 'late';

-- duplicate cancel: in one statement, too
CALL place('duplicate');
SELECT c.status FROM generate_series(1, 3) AS i, LATERAL (SELECT i, (idem_cancel('duplicate')).status OFFSET 0) AS c;
SELECT * FROM sum WHERE what = 'duplicate';

-- cancel of an expired key: not proof that nothing happened
CALL place('expired', ttl => '1 ms');
SELECT pg_sleep(0.01);
SELECT status FROM idem_cancel('expired');
SELECT status FROM idem_claim('expired');
SELECT * FROM sum WHERE what = 'expired';
CALL idem_maintain();
SELECT status FROM idem_cancel('expired');

-- cancel with a forgotten scope
CALL place('forgotten scope', scope => 'shop');
CALL place('forgotten scope', scope => 'another "shop"');
CALL place('forgotten scope', scope => 'expired', ttl => '1 ms');
SELECT pg_sleep(0.01);
SELECT status FROM idem_cancel('forgotten scope', scope => 'cancelled');
SELECT status FROM idem_cancel('forgotten scope');
SELECT status FROM idem_cancel('forgotten scope', scope => 'shop');
SELECT status FROM idem_cancel('forgotten scope', scope => 'another "shop"');
SELECT status FROM idem_cancel('forgotten scope');

-- handler order: the last registered first, each result in the order run
CREATE FUNCTION ordered(args jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO ledger (what) VALUES ('order: ' || ($1 #>> '{}')); SELECT $1$$;
CREATE FUNCTION answers_null(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT NULL::jsonb$$;
BEGIN;
SELECT status FROM idem_claim('order');
SELECT idem_compensate_with('order', 'ordered(jsonb)', '"first"'), idem_compensate_with('order', 'note(jsonb)', '"second"'),
       idem_compensate_with('order', 'answers_null(jsonb)', NULL), idem_compensate_with('order', 'ordered(jsonb)', '["fourth", {"a": null}]');
SELECT idem_complete('order', '1');
COMMIT;
SELECT status, response -> 'results' AS results FROM idem_cancel('order');
SELECT what FROM ledger WHERE what LIKE 'order:%' OR what LIKE 'note:%' ORDER BY n;

-- a failing handler: all or nothing, and a retry works
CREATE TABLE switches (ok bool);
INSERT INTO switches VALUES (false);
CREATE FUNCTION fails(jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT (SELECT ok FROM switches) THEN
		RAISE EXCEPTION 'the bank is closed' USING ERRCODE = 'XX999';
	END IF;
END $$;
CALL place('failing', handlers => '{fails(jsonb),refund(jsonb)}');
SELECT status FROM idem_cancel('failing') :fails
SELECT * FROM sum WHERE what = 'failing';
SELECT status, response FROM idem_claim('failing');
SELECT state FROM idem_compensations WHERE key = 'failing';
BEGIN;
SAVEPOINT s;
SELECT status FROM idem_cancel('failing') :fails
ROLLBACK TO s;
UPDATE switches SET ok = true;
SELECT status, response -> 'results' AS results FROM idem_cancel('failing');
COMMIT;
SELECT * FROM sum WHERE what = 'failing';

-- cancel after confirm; without a handler
CALL place('confirmed');
SELECT idem_confirm('confirmed');
SELECT status, response FROM idem_cancel('confirmed');
SELECT status, response FROM idem_cancel('confirmed');
CALL place('no handler', handlers => '{}');
SELECT status, response FROM idem_cancel('no handler');
SELECT status, response FROM idem_claim('no handler');
SELECT * FROM sum WHERE what IN ('confirmed', 'no handler');

-- cancel of a paid order: refused by the guard inside the handler, its effects undone
CREATE TABLE orders (id text PRIMARY KEY, state text);
CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF OLD.state = 'paid' AND NEW.state = 'cancelled' THEN
		RAISE EXCEPTION 'machine "order" does not go from "paid" to "cancelled"' USING ERRCODE = 'ID012';
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION guard();
CREATE FUNCTION cancel_order(args jsonb) RETURNS void LANGUAGE sql AS $$UPDATE orders SET state = 'cancelled' WHERE id = $1 ->> 'what'$$;
INSERT INTO orders VALUES ('paid', 'created'), ('unpaid', 'created');
CALL place('paid', handlers => '{cancel_order(jsonb),refund(jsonb)}');
CALL place('unpaid', handlers => '{cancel_order(jsonb),refund(jsonb)}');
UPDATE orders SET state = 'paid' WHERE id = 'paid';
SELECT status, response FROM idem_cancel('paid');
SELECT status FROM idem_cancel('unpaid');
SELECT * FROM orders ORDER BY id;
SELECT * FROM sum WHERE what IN ('paid', 'unpaid');
-- the key is held as before: paid back, it can be cancelled
SELECT state FROM idem_compensations WHERE key = 'paid';
SELECT status, response FROM idem_claim('paid');
BEGIN;
SELECT status FROM idem_cancel('paid');
UPDATE orders SET state = 'created' WHERE id = 'paid';
SELECT status FROM idem_cancel('paid');
COMMIT;
SELECT * FROM orders ORDER BY id;
SELECT * FROM sum WHERE what = 'paid';

-- a handler that asks for its own key
CREATE FUNCTION asks(args jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('claim', (SELECT status FROM idem_claim($1 ->> 'what')), 'cancel', (SELECT status FROM idem_cancel($1 ->> 'what')))
$$;
CALL place('asks', handlers => '{asks(jsonb)}');
SELECT status, response -> 'results' AS results FROM idem_cancel('asks');
-- that claims another key: what it leaves open fails at COMMIT, as ever
CREATE FUNCTION claims(args jsonb) RETURNS void LANGUAGE sql AS $$SELECT idem_claim('of a handler')$$;
CALL place('claims', handlers => '{claims(jsonb)}');
SELECT status FROM idem_cancel('claims') :fails
SELECT state FROM idem_compensations WHERE key = 'claims';

-- in the transaction that completed, or claimed, or released it
BEGIN;
CALL place('own');
SELECT status FROM idem_cancel('own');
SELECT status FROM idem_claim('own');
COMMIT;
SELECT * FROM sum WHERE what = 'own';
BEGIN;
SELECT status FROM idem_claim('own open');
SELECT status FROM idem_cancel('own open') :fails
ROLLBACK;
BEGIN;
SELECT status FROM idem_claim('own open');
SELECT idem_release('own open');
SELECT status FROM idem_cancel('own open');
COMMIT;
SELECT status FROM idem_claim('own open');

-- at every isolation level
CALL place('repeatable read');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM idem_cancel('repeatable read');
SELECT status FROM idem_cancel('repeatable read');
SELECT status FROM idem_cancel('repeatable read, null');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL place('serializable');
SELECT status FROM idem_cancel('serializable');
SELECT status FROM idem_claim('serializable');
COMMIT;

-- after it has been forgotten it can be done anew, and cancelled anew
SELECT idem_evict('plain'), idem_evict('null compensation');
CALL place('plain');
CALL place('null compensation');
SELECT status FROM idem_cancel('plain');
SELECT status FROM idem_cancel('null compensation');
SELECT * FROM sum WHERE what IN ('plain', 'null compensation');

-- the lock is held to the end by who has cancelled, not by who was told so
BEGIN;
SELECT status FROM idem_cancel('plain');
SELECT status FROM idem_cancel('confirmed');
SELECT status FROM idem_claim('plain');
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
SELECT pg_current_xact_id_if_assigned() IS NULL AS nothing_written;
SELECT status FROM idem_cancel('held to the end');
SELECT count(*) FROM idem_holders WHERE pid = pg_backend_pid();
ROLLBACK;

-- bad input
SELECT * FROM idem_cancel(NULL) :fails
SELECT * FROM idem_cancel('') :fails
SELECT * FROM idem_cancel('k', scope => NULL) :fails
SELECT * FROM idem_cancel('k', wait => '-1 s') :fails
BEGIN READ ONLY; SELECT * FROM idem_cancel('k') :fails
ROLLBACK;
SELECT status FROM idem_status('k');

--
-- Remote effects: the handler publishes, and whoever talks to the bank
-- consumes. Cancellations share topic and order with creations.
--
CREATE FUNCTION refund_later(args jsonb) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
BEGIN ATOMIC
	SELECT idem_publish('payments', args, args ->> 'what', 'refund');
END;
SELECT idem_subscribe('bank', '{payments}');
DO $$
BEGIN
	FOR i IN 1 .. 10000 LOOP
		PERFORM idem_publish('payments', '{"amount": 1}', 'order ' || i, 'capture');
		IF i % 100 = 0 THEN
			PERFORM idem_claim('order ' || i);
			PERFORM idem_compensate_with('order ' || i, 'refund_later(jsonb)', jsonb_build_object('what', 'order ' || i));
			PERFORM idem_complete('order ' || i, '1');
		END IF;
	END LOOP;
END $$;
SELECT c.status, count(*) FROM generate_series(100, 10000, 100) AS i, LATERAL (SELECT i, (idem_cancel('order ' || i)).status OFFSET 0) AS c GROUP BY 1;
-- with 10,000 creations queued, 100 cancellations wait for what was there before them and no longer: what is published later comes later
SELECT idem_publish('payments', '{"amount": 1}', 'later', 'capture') > 0 AS later;
CREATE TABLE delivered AS SELECT id, key, type FROM idem_fetch('bank') WHERE false;
DO $$
DECLARE
	n bigint;
BEGIN
	LOOP
		WITH f AS (SELECT * FROM idem_fetch('bank', 1000)), i AS (INSERT INTO delivered SELECT id, key, type FROM f)
		SELECT max(batch) INTO n FROM f;
		EXIT WHEN n IS NULL;
		PERFORM idem_ack('bank', n);
	END LOOP;
END $$;
SELECT n / 100 AS hundred, type, count(*), bool_and(key = 'later') AS later FROM (SELECT row_number() OVER (ORDER BY id) - 1 AS n, * FROM delivered) AS d
WHERE n >= 9900 GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) AS refunds_after_their_capture FROM delivered AS c JOIN delivered AS r USING (key) WHERE c.type = 'capture' AND r.type = 'refund' AND c.id < r.id;
SELECT idem_unsubscribe('bank');

--
-- The application's own tables: no transaction commits captured money without
-- a live order.
--
CREATE TABLE captures (order_id text, amount int);
CREATE FUNCTION captured_is_ordered() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	this text; -- order
BEGIN
	FOREACH this IN ARRAY ARRAY[to_jsonb(OLD) ->> TG_ARGV[0], to_jsonb(NEW) ->> TG_ARGV[0]] LOOP
		UPDATE orders SET state = state WHERE id = this AND TG_RELID = 'captures'::regclass; -- lock it
		IF (SELECT sum(amount) FROM captures WHERE order_id = this) <> 0
		   AND NOT EXISTS (SELECT FROM orders WHERE id = this AND state <> 'cancelled') THEN
			RAISE 'money is captured for order %, which is not live', this USING ERRCODE = 'integrity_constraint_violation';
		END IF;
	END LOOP;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER captured_is_ordered AFTER INSERT OR UPDATE OR DELETE ON captures DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION captured_is_ordered('order_id');
CREATE CONSTRAINT TRIGGER captured_is_ordered AFTER UPDATE OR DELETE ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION captured_is_ordered('id');

CREATE FUNCTION give_back(args jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO captures SELECT $1 ->> 'what', -sum(amount) FROM captures WHERE order_id = $1 ->> 'what'$$;
CREATE PROCEDURE buy(id text, handlers regprocedure[]) LANGUAGE sql AS $$
	INSERT INTO orders VALUES (id, 'created');
	INSERT INTO captures VALUES (id, 5);
	CALL place(id, 5, handlers => handlers);
$$;
-- captured without an order
INSERT INTO captures VALUES ('no order', 5) :fails
CALL buy('good', '{cancel_order(jsonb),give_back(jsonb)}');
CALL buy('bad', '{cancel_order(jsonb)}');
-- an order gone, its money kept; by hand, and by a handler that forgets it
DELETE FROM orders WHERE id = 'good' :fails
SELECT status FROM idem_cancel('bad') :fails
SELECT state FROM idem_compensations WHERE key = 'bad';
SELECT status FROM idem_cancel('good');
SELECT o.*, sum(amount) FROM orders AS o JOIN captures ON order_id = id GROUP BY id ORDER BY id;

SELECT * FROM idem_verify();

\c :home
DROP DATABASE regress_idem_cancel;
