-- The current generation, beside load_idem.sql.
-- Its index grows row by row: what it costs to split its pages belongs here too.
SELECT load_generation('idem_keys_1', 1, :keys / 2, :keys)
\g /dev/null
