-- The shop's tables, made once for each of the two runs. No UNIQUE on invoice_no: what keeps the orders single
-- in the second run is idem alone.
CREATE TABLE orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invoice_no  text NOT NULL,
    customer_id text,
    country     text NOT NULL,
    placed_at   timestamp NOT NULL,
    total_pence bigint NOT NULL
);
CREATE TABLE order_lines (
    order_id    bigint NOT NULL REFERENCES orders,
    line_no     bigint NOT NULL,
    stock_code  text NOT NULL,
    description text NOT NULL,
    quantity    int NOT NULL,
    unit_pence  bigint NOT NULL,
    PRIMARY KEY (order_id, line_no)
);

CREATE TABLE credit_notes (LIKE orders INCLUDING ALL);
CREATE TABLE credit_note_lines (
    LIKE order_lines INCLUDING ALL,
    FOREIGN KEY (order_id) REFERENCES credit_notes
);
ALTER TABLE credit_note_lines RENAME order_id TO credit_note_id;

-- From created to paid, or to cancelled: in the second run the machine "order" guards it.
ALTER TABLE orders ADD state text NOT NULL DEFAULT 'created';

-- The money of an order is captured with it, and refunded when it is cancelled.
CREATE TABLE payments (
    order_id bigint NOT NULL REFERENCES orders,
    kind     text NOT NULL CHECK (kind IN ('captured', 'refunded')),
    pence    bigint NOT NULL
);

-- Undoes an order: idem_cancel calls it with what was registered when the order was booked. A paid order is refused by
-- the guard, and then the refund and the message are undone as well.
CREATE FUNCTION undo_order(booked jsonb) RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS $$
    INSERT INTO payments SELECT id, 'refunded', total_pence FROM orders WHERE id = (booked->>'id')::bigint;
    SELECT idem_publish('sales', jsonb_build_object('placed_at', placed_at, 'pence', -total_pence), invoice_no, 'cancelled')
    FROM orders WHERE id = (booked->>'id')::bigint;
    UPDATE orders SET state = 'cancelled' WHERE id = (booked->>'id')::bigint;
$$;

-- What those who cancelled were told.
CREATE TABLE told (invoice_no text NOT NULL, status text NOT NULL, response jsonb NOT NULL);

-- Kept by the consumer, one message for each order, credit note or cancellation.
CREATE TABLE daily_sales (day date PRIMARY KEY, pence bigint NOT NULL);
CREATE SEQUENCE taken_up; -- counts how often a message was: a rollback does not set it back
