-- What became of each order of the file and what its client was told, against its fate.
WITH ends (fate, state, told) AS (VALUES -- all that there may be; state: of the order, none: it never landed
    ('order',                'created',   'nothing'),
    ('sold',                 'paid',      'nothing'),
    ('cancelled before',     'none',      'tombstoned'),
    ('cancelled meanwhile',  'none',      'tombstoned'),
    ('cancelled meanwhile',  'cancelled', 'compensated'),
    ('cancelled meanwhile',  'cancelled', 'already'), -- here and below: the first answer was lost on its way
    ('cancelled after',      'cancelled', 'compensated'),
    ('cancelled after',      'cancelled', 'already'),
    ('cancelled twice',      'cancelled', 'compensated, already'),
    ('cancelled twice',      'cancelled', 'already, already'),
    ('cancelled after paid', 'paid',      'refused from paid to cancelled')
), found AS (
    SELECT invoice_no, fate, e.pounds * 100 AS pence,
           coalesce((SELECT string_agg(state, ', ') FROM orders AS o WHERE o.invoice_no = e.invoice_no), 'none') AS state,
           coalesce((SELECT string_agg(concat(status, ' from ' || (response->>'from'), ' to ' || (response->>'to')), ', '
                                       ORDER BY status DESC)
                     FROM told AS t WHERE t.invoice_no = e.invoice_no), 'nothing') AS told,
           (SELECT count(DISTINCT response::text) FROM told AS t WHERE t.invoice_no = e.invoice_no) AS responses,
           p.*
    FROM expected AS e, LATERAL (
        SELECT coalesce(sum(pence) FILTER (WHERE kind = 'captured'), 0) AS captured,
               coalesce(sum(pence) FILTER (WHERE kind = 'refunded'), 0) AS refunded
        FROM orders AS o JOIN payments ON order_id = id WHERE o.invoice_no = e.invoice_no) AS p
    WHERE fate <> 'credit note'
)
SELECT (SELECT count(*) FROM told WHERE status = 'compensated') AS compensated,
       (SELECT count(*) FROM told WHERE status = 'already') AS already,
       (SELECT count(*) FROM told WHERE status = 'tombstoned') AS tombstoned,
       (SELECT count(*) FROM told WHERE status = 'refused') AS refused,
       count(*) FILTER (WHERE f.state IN ('created', 'paid')) AS live,
       count(*) FILTER (WHERE f.state = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE f.state = 'none') AS never_landed,
       count(*) FILTER (WHERE ends.fate IS NULL OR responses > 1
                           OR captured <> CASE f.state WHEN 'none' THEN 0 ELSE pence END
                           OR refunded <> CASE f.state WHEN 'cancelled' THEN pence ELSE 0 END) AS wrong,
       to_char(sum(captured) / 100, 'FM999,999,990.00') AS captured,
       to_char(sum(refunded) / 100, 'FM999,999,990.00') AS refunded,
       to_char(sum(captured - refunded) / 100, 'FM999,999,990.00') AS kept,
       to_char(live_pence / 100, 'FM999,999,990.00') AS live_pounds,
       to_char((live_pence + credited_pence) / 100, 'FM999,999,990.00') AS less_credit_notes
FROM found AS f LEFT JOIN ends USING (fate, state, told),
     (SELECT coalesce(sum(total_pence), 0) FROM orders WHERE state <> 'cancelled') AS l (live_pence),
     (SELECT coalesce(sum(total_pence), 0) FROM credit_notes) AS c (credited_pence)
GROUP BY live_pence, credited_pence;
