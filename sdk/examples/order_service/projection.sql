-- The read model, in a database of its own: what was sold on each day, and how far each order is. projection.cpp keeps it,
-- and whoever likes reads it. Needs the extension, for idem_consume_seq and idem_consume.
CREATE TABLE daily_sales (day date PRIMARY KEY, pence bigint NOT NULL, messages bigint NOT NULL);
CREATE TABLE order_states (key text PRIMARY KEY, state text NOT NULL); -- CLIENT/ORDER, as the messages have it

-- Messages that cannot be applied, for somebody to look at: the others do not wait for them.
CREATE TABLE refused_messages (
    consumer text, message_id text, type text, key text, payload jsonb, error text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);

-- Applies messages, and tells of each what it was: first, duplicate, tombstone, or gap, which is to be delivered again
-- once what is missing before it was there. Messages of a lane come in the order of seq. payload is NULL: a tombstone.
--
-- The watermark knows what comes twice under one seq, and is cheap: a row a message, of which only the last of a lane is
-- ever kept. What comes again under another seq (after a failover of the shop's database, or idem_seek) is known by its
-- message_id.
CREATE FUNCTION apply_messages(sources text[], lanes bigint[], seqs bigint[], consumers text[], message_ids text[],
                               types text[], keys text[], payloads jsonb[])
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    statuses text[] := '{}';
    status text;
BEGIN
    FOR i IN 1 .. cardinality(seqs) LOOP
        IF status = 'gap' AND sources[i] = sources[i - 1] AND lanes[i] = lanes[i - 1] THEN
            NULL; -- behind a gap all are
        ELSE
            status := idem_consume_seq(sources[i], lanes[i], seqs[i]);
        END IF;
        IF status = 'first' THEN
            IF payloads[i] IS NULL THEN -- given up, and perhaps to come again later
                status := 'tombstone';
            ELSIF NOT idem_consume(consumers[i], message_ids[i]) THEN
                status := 'duplicate';
            END IF;
        END IF;
        statuses[i] := status;
    END LOOP;

    -- In order, so that two processes never wait for each other in a circle.
    INSERT INTO daily_sales AS s
    SELECT (sale->>'placed_at')::date AS day, sum((sale->>'pence')::bigint), count(*)
    FROM unnest(statuses, payloads) AS m (status, sale)
    WHERE m.status = 'first'
    GROUP BY day ORDER BY day
    ON CONFLICT (day) DO UPDATE SET pence = s.pence + EXCLUDED.pence, messages = s.messages + EXCLUDED.messages;

    INSERT INTO order_states AS o
    SELECT DISTINCT ON (m.key) m.key, m.type
    FROM unnest(statuses, types, keys) WITH ORDINALITY AS m (status, type, key, nr)
    WHERE m.status = 'first'
    ORDER BY m.key, nr DESC
    ON CONFLICT (key) DO UPDATE SET state = EXCLUDED.state;

    RETURN statuses;
END $$;

-- Takes the place of a message in its lane and keeps it aside.
CREATE FUNCTION refuse_message(source text, lane bigint, seq bigint, consumer text, message_id text,
                               type text, key text, payload jsonb, error text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    status text := idem_consume_seq(source, lane, seq);
BEGIN
    IF status = 'first' AND idem_consume(consumer, message_id) THEN
        INSERT INTO refused_messages VALUES (consumer, message_id, type, key, payload, error);
        status := 'refused';
    END IF;
    RETURN status;
END $$;
