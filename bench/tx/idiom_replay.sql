-- one of the loaded keys, but for those that expire within hours
\set a 100000000000000 + (random(1, :keys * 9 / 10) * 59604644783) % 900000000000000
SELECT status, response FROM idiom_keys WHERE key = :a::text || '-4e1d-91b7-c2a60f3-ld';
