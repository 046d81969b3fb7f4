-- What the file and the seed say must be booked, and what must become of it, computed by the server from these alone;
-- the intake shares no code with it. By hand: psql -c "SET demo.seed = 42" -c "$(cat expected.sql)" < data/online_retail_week.csv
CREATE TABLE file_lines (
    invoice_no text, stock_code text, description text, quantity int,
    invoice_date text, unit_price numeric, customer_id text, country text
);
COPY file_lines FROM STDIN (FORMAT csv, HEADER);

-- Which order is cancelled, or paid, and when: by the FNV-1a hash (32 bits) of "seed/invoice".
CREATE TABLE expected AS
WITH RECURSIVE invoices AS (
    SELECT invoice_no, sum(quantity * unit_price) AS pounds, count(*) AS lines,
           current_setting('demo.seed') || '/' || invoice_no AS lot
    FROM file_lines GROUP BY invoice_no
), hashes (invoice_no, length, hash) AS (
    SELECT invoice_no, 0, 2166136261 FROM invoices
    UNION ALL
    SELECT invoice_no, length + 1, (hash # ascii(substr(lot, length + 1, 1))) * 16777619 % 4294967296
    FROM hashes JOIN invoices USING (invoice_no) WHERE length < length(lot)
)
SELECT invoice_no, pounds, lines,
       CASE WHEN invoice_no LIKE 'C%' THEN 'credit note'
            WHEN hash % 10 = 0 THEN (ARRAY['cancelled before', 'cancelled meanwhile', 'cancelled after',
                                           'cancelled twice', 'cancelled after paid'])[hash / 10 % 5 + 1]
            WHEN hash % 10 <= 3 THEN 'sold'
            ELSE 'order' END AS fate
FROM invoices JOIN hashes USING (invoice_no) WHERE length = length(lot);

-- All but those that are cancelled in time.
ALTER TABLE expected ADD stands boolean;
UPDATE expected SET stands = fate NOT LIKE 'cancelled%' OR fate = 'cancelled after paid';

SELECT count(*) FILTER (WHERE invoice_no NOT LIKE 'C%') AS orders,
       count(*) FILTER (WHERE invoice_no LIKE 'C%') AS credit_notes,
       sum(lines) AS lines, to_char(sum(pounds), 'FM999,999,990.00') AS pounds,
       count(*) FILTER (WHERE fate LIKE 'cancelled%') AS cancelled,
       count(*) FILTER (WHERE fate IN ('sold', 'cancelled after paid')) AS paid,
       to_char(sum(pounds) FILTER (WHERE stands), 'FM999,999,990.00') AS pounds_standing
FROM expected;
