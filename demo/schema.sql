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

-- Kept by the consumer, one message for each order or credit note.
CREATE TABLE daily_sales (day date PRIMARY KEY, pence bigint NOT NULL);
CREATE SEQUENCE taken_up; -- counts how often a message was: a rollback does not set it back
