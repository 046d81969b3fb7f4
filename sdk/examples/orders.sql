-- The tables and the handler of orders.cpp.
CREATE TABLE orders (id text PRIMARY KEY, pence bigint NOT NULL, state text NOT NULL DEFAULT 'created');
SELECT idem_attach('orders', 'state', 'order');

-- Gives the money back somewhere else: not here, where the transaction could still be rolled back, but by a message
-- that commits with it, to whoever talks to the payment provider. If the guard refuses the step, no message is sent.
CREATE FUNCTION undo_order(booked jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$
    SELECT idem_publish('refunds', booked, booked->>'id');
    UPDATE orders SET state = 'cancelled' WHERE id = booked->>'id';
$$;
