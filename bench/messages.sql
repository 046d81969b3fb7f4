-- Three ways to keep the same message: topic or queue, key, type, and an order as JSON. idem and PgQ
-- have one consumer each.
-- PgQ ticks whenever it is called and there are events.
CREATE EXTENSION pgq;
SELECT pgq.create_queue('orders'), pgq.set_queue_config('orders', 'ticker_max_count', '1'),
       pgq.register_consumer('orders', 'one'), idem_subscribe('one')
\g /dev/null

-- What an application sees of idem_outbox, in a table of its own.
CREATE TABLE plain_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key text,
    type text,
    payload jsonb NOT NULL,
    headers jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The same messages for idem and PgQ, each in a transaction of its own. PgQ's batches go from tick to
-- tick: one every 1,000.
CREATE PROCEDURE load_messages(n bigint) LANGUAGE plpgsql AS $$
DECLARE
    k text;
    payload text;
BEGIN
    FOR i IN 1..n LOOP
        k := 100000000000000000 + i * 87178291199 % 900000000000000000;
        payload := '{"customer": ' || k || ', "item": "white hanging heart", "amount": 15.30}';
        PERFORM idem_publish('orders', payload::jsonb, k, 'created');
        PERFORM pgq.insert_event('orders', 'created', payload, k, NULL, NULL, NULL);
        COMMIT;
        IF i % 1000 = 0 THEN
            ASSERT pgq.ticker('orders') IS NOT NULL, 'PgQ made no batch';
            COMMIT;
        END IF;
    END LOOP;
END $$;

-- Both consumers back to the first message.
CREATE FUNCTION rewind() RETURNS void LANGUAGE SQL
BEGIN ATOMIC
    SELECT idem_unsubscribe('one');
    SELECT idem_subscribe('one', start => 'earliest');
    SELECT pgq.register_consumer_at('orders', 'one', min(tick_id)) FROM pgq.tick;
END;
