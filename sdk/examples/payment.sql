-- The table and the handler of payment.cpp.
CREATE TABLE payments (key text PRIMARY KEY, pence bigint NOT NULL, charge bigint NOT NULL, state text NOT NULL DEFAULT 'held');

-- For owners that never return. The provider is told by a message that commits with the cancellation.
CREATE FUNCTION void_payment(payment jsonb) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$
    UPDATE payments SET state = 'void' WHERE key = payment->>'key';
    SELECT idem_publish('voids', payment, payment->>'key');
$$;
