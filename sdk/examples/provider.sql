-- A payment provider, for payment.cpp: in a database of its own, as the real one is elsewhere. As real ones do, it
-- takes a key with each call and does each once, and it takes its time.
CREATE TABLE charges (key text PRIMARY KEY, id bigserial, pence bigint NOT NULL, state text NOT NULL DEFAULT 'held');
CREATE TABLE calls (key text, what text);
CREATE TABLE latency AS SELECT 0.1 AS seconds;

CREATE FUNCTION authorise(key text, pence bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    INSERT INTO calls VALUES (authorise.key, 'authorise');
    INSERT INTO charges AS c (key, pence) VALUES (authorise.key, authorise.pence)
        ON CONFLICT ON CONSTRAINT charges_pkey DO UPDATE SET state = c.state
        RETURNING CASE state WHEN 'void' THEN 'void' ELSE id::text END INTO answer;
    PERFORM pg_sleep(seconds) FROM latency;
    RETURN answer;
END $$;

CREATE FUNCTION capture(key text) RETURNS text LANGUAGE sql AS $$
    INSERT INTO calls VALUES (capture.key, 'capture');
    UPDATE charges AS c SET state = 'captured' WHERE c.key = capture.key AND state <> 'void' RETURNING state;
$$;

-- Whether it was charged or not: after this it will not be.
CREATE FUNCTION give_up(key text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO calls VALUES (give_up.key, 'give up');
    INSERT INTO charges AS c (key, pence, state) VALUES (give_up.key, 0, 'void')
        ON CONFLICT ON CONSTRAINT charges_pkey DO UPDATE SET state = 'void' WHERE c.state = 'held';
$$;
