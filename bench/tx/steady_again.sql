-- One of a client's last thousand keys: a replay
\if :n > 0
\set again random(greatest(:n - 999, 1), :n)
SELECT (idem_claim((:client_id::bigint * 1000000000 + :again)::text || '-4e1d-91b7-c2a60f3e')).status;
\endif
