-- Whatever the consumer has made of the messages, against the file.
WITH day AS (
    SELECT to_date(split_part(invoice_date, ' ', 1), 'MM/DD/YY') AS day, sum(quantity * unit_price) AS pounds
    FROM file_lines GROUP BY 1
)
SELECT (SELECT count(*) FROM day) AS days,
       count(*) FILTER (WHERE pence IS DISTINCT FROM pounds * 100) AS wrong,
       to_char(coalesce(sum(pence), 0) / 100, 'FM999,999,990.00') AS pounds
FROM day FULL JOIN daily_sales USING (day);
