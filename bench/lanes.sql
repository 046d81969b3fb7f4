-- Messages of 10,000 keys, each in a transaction of its own.
CREATE PROCEDURE load_keyed_messages(n bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..n LOOP
        PERFORM idem_publish('orders', '{"customer": 4711, "item": "white hanging heart", "amount": 15.30}', (i % 10000)::text, 'created');
        COMMIT;
    END LOOP;
END $$;

-- The consumer back to the first message, with so many lanes; so many keys wait for their first one.
CREATE FUNCTION rewind(lanes int, parked int, external boolean = false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first record;
BEGIN
    IF EXISTS (SELECT FROM idem_subscriptions WHERE consumer = 'one') THEN
        PERFORM idem_unsubscribe('one');
    END IF;
    PERFORM idem_subscribe('one', lanes => lanes, start => 'earliest', external => external);
    IF parked > 0 THEN
        FOR first IN SELECT batch, id FROM idem_fetch('one', parked) LOOP
            PERFORM idem_nack('one', first.batch, first.id, 'not today', '1 day');
        END LOOP;
        PERFORM idem_ack('one', first.batch);
    END IF;
END $$;
