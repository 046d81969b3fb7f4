-- Whatever the consumer has made of the messages, against what stands of the file: a cancellation takes back what its
-- order brought.
WITH day AS (
    SELECT to_date(split_part(invoice_date, ' ', 1), 'MM/DD/YY') AS day,
           coalesce(sum(quantity * unit_price) FILTER (WHERE stands), 0) AS pounds
    FROM file_lines JOIN expected USING (invoice_no) GROUP BY 1
)
SELECT (SELECT count(*) FROM day) AS days,
       count(*) FILTER (WHERE pence IS DISTINCT FROM pounds * 100) AS wrong,
       to_char(coalesce(sum(pence), 0) / 100, 'FM999,999,990.00') AS pounds
FROM day FULL JOIN daily_sales USING (day);
