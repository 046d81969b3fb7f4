-- What one of the two runs has booked, against expected. Cancelled orders count as booked, but not their pounds; an order
-- whose client was told that it will never be booked is not lost.
WITH booked AS (
    SELECT 'order' AS kind, invoice_no, state <> 'cancelled' AS stands, total_pence, lines, pence
    FROM orders, LATERAL (SELECT count(*) AS lines, sum(quantity * unit_pence) AS pence FROM order_lines WHERE order_id = id) AS l
    UNION ALL
    SELECT 'credit note', invoice_no, true, total_pence, lines, pence
    FROM credit_notes, LATERAL (SELECT count(*) AS lines, sum(quantity * unit_pence) AS pence FROM credit_note_lines WHERE credit_note_id = id) AS l
)
SELECT count(*) FILTER (WHERE kind = 'order') AS orders,
       count(*) FILTER (WHERE kind = 'credit note') AS credit_notes,
       count(*) - count(DISTINCT invoice_no) AS duplicates,
       (SELECT count(*) FROM expected WHERE invoice_no NOT IN (SELECT invoice_no FROM booked)
        AND invoice_no NOT IN (SELECT invoice_no FROM told WHERE status = 'tombstoned')) AS lost,
       count(*) FILTER (WHERE (total_pence, b.pence, b.lines) IS DISTINCT FROM (e.pounds * 100, e.pounds * 100, e.lines)) AS wrong,
       to_char(coalesce(sum(b.pence) FILTER (WHERE b.stands), 0) / 100, 'FM999,999,990.00') AS pounds
FROM booked AS b LEFT JOIN expected AS e USING (invoice_no);
