-- What the shop has booked and told its clients, and what the read model has come to, against the file and the seed
-- (demo/expected.sql). An order whose client was told that it will never be booked is not lost. A credit note is an
-- order with negative quantities.
WITH ends (fate, state, told) AS (VALUES -- all that there may be; state: of the order, none: it never landed
    ('credit note',          'created',   'nothing'),
    ('order',                'created',   'nothing'),
    ('sold',                 'completed', 'nothing'),
    ('cancelled before',     'none',      'tombstoned'),
    ('cancelled meanwhile',  'none',      'tombstoned'),
    ('cancelled meanwhile',  'cancelled', 'cancelled'),
    ('cancelled after',      'cancelled', 'cancelled'),
    ('cancelled twice',      'cancelled', 'cancelled, cancelled'),
    ('cancelled after paid', 'paid',      'refused')
), found AS (
    SELECT e.*, o.total_pence, coalesce(o.state, 'none') AS state, l.*, s.state AS projected,
           coalesce((SELECT string_agg(status, ', ') FROM told AS t WHERE t.invoice_no = e.invoice_no), 'nothing') AS told
    FROM expected AS e
    LEFT JOIN orders AS o ON o.id = e.invoice_no
    LEFT JOIN order_states AS s ON s.key = o.client || '/' || o.id,
    LATERAL (SELECT count(*) AS booked_lines, sum((line->>'quantity')::bigint * (line->>'unit_pence')::bigint) AS pence
             FROM jsonb_array_elements(o.lines) AS line) AS l
), day AS (
    SELECT to_date(split_part(invoice_date, ' ', 1), 'MM/DD/YY') AS day,
           coalesce(sum(quantity * unit_price) FILTER (WHERE f.stands), 0) AS pounds
    FROM file_lines JOIN found AS f USING (invoice_no) GROUP BY 1
), days AS (
    SELECT count(*) AS days, count(*) FILTER (WHERE coalesce(pence, 0) IS DISTINCT FROM coalesce(pounds, 0) * 100) AS wrong,
           coalesce(sum(pence), 0) AS pence
    FROM day FULL JOIN daily_sales USING (day)
)
SELECT count(*) FILTER (WHERE f.fate <> 'credit note') AS orders,
       count(*) FILTER (WHERE f.fate = 'credit note' AND f.state <> 'none') AS credit_notes,
       (SELECT count(*) - count(DISTINCT id) FROM orders) AS duplicates,
       count(*) FILTER (WHERE f.state = 'none' AND f.told <> 'tombstoned') AS lost,
       count(*) FILTER (WHERE ends.fate IS NULL OR f.state <> 'none' AND
           (f.total_pence, f.pence, f.booked_lines) IS DISTINCT FROM (f.pounds * 100, f.pounds * 100, f.lines)) AS wrong,
       count(*) FILTER (WHERE f.state = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE f.state = 'none') AS never_landed,
       count(*) FILTER (WHERE f.told = 'refused') AS refused,
       to_char(coalesce(sum(f.pounds) FILTER (WHERE f.stands), 0), 'FM999,999,990.00') AS pounds_standing,
       count(*) FILTER (WHERE f.projected IS DISTINCT FROM
           CASE f.state WHEN 'created' THEN 'booked' WHEN 'none' THEN NULL ELSE f.state END) AS states_wrong,
       days.days, days.wrong AS days_wrong, to_char(days.pence / 100, 'FM999,999,990.00') AS pounds
FROM found AS f LEFT JOIN ends USING (fate, state, told), days
GROUP BY days.days, days.wrong, days.pence;
