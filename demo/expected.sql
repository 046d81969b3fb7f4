-- What the file says must be booked, computed by the server from the file itself; the intake shares no code with it.
-- By hand: psql -c "$(cat expected.sql)" < data/online_retail_week.csv
CREATE TABLE file_lines (
    invoice_no text, stock_code text, description text, quantity int,
    invoice_date text, unit_price numeric, customer_id text, country text
);
COPY file_lines FROM STDIN (FORMAT csv, HEADER);

CREATE TABLE expected AS
    SELECT invoice_no, sum(quantity * unit_price) AS pounds, count(*) AS lines FROM file_lines GROUP BY invoice_no;

SELECT count(*) FILTER (WHERE invoice_no NOT LIKE 'C%') AS orders,
       count(*) FILTER (WHERE invoice_no LIKE 'C%') AS credit_notes,
       sum(lines) AS lines, to_char(sum(pounds), 'FM999,999,990.00') AS pounds
FROM expected;
