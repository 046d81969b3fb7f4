-- The shop's database. psql -v service=ROLE -f orders.sql: the role that the service logs in as gets what it needs.
\if :{?service}
\else
\set service :USER
\endif

-- Who may use the service: the SHA-256 of the key that a client sends, and the client's name. One may have several keys.
CREATE TABLE clients (
    api_key_sha256 bytea PRIMARY KEY CHECK (length(api_key_sha256) = 32),
    name           text NOT NULL CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$')
);

-- An order's id is the idempotency key of the request that placed it; the primary key outlasts idem.key_ttl.
CREATE TABLE orders (
    client      text COLLATE "C" NOT NULL,
    id          text COLLATE "C" NOT NULL,
    customer    text,
    country     text NOT NULL,
    placed_at   timestamptz NOT NULL,
    lines       jsonb NOT NULL CHECK (lines <> '[]'),
    total_pence bigint NOT NULL,
    state       text NOT NULL DEFAULT 'created',
    PRIMARY KEY (id, client)
);
SELECT idem_attach('orders', 'state', 'order');

-- Ends a request with this answer, which is not stored: the same request may have another one later. The service makes
-- an HTTP status of the SQLSTATE, and sends the message, a problem as of RFC 9457.
CREATE FUNCTION refuse(status int, type text, title text, more jsonb DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', jsonb_build_object('type', 'urn:idem:problem:' || type, 'title', title, 'status', status) || more
        USING ERRCODE = 'OS' || status;
END $$;

-- ---- what POST does ----
--
-- A request is {"method", "path", "client", "order", "body"}, and what is stored {"status", "headers", "body"}. What comes
-- along with it, idem_context(), is {"traceparent"}, and goes into the headers of the messages. Two clients may have an
-- order of the same id, so a message's key has both.

CREATE FUNCTION place_order(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    client    text  := request->>'client';
    id        text  := request->>'order';
    body      jsonb := request->'body';
    lines     jsonb := body->'lines';
    placed_at timestamptz := body->>'placed_at';
    pence     bigint := 0;
    ignored   text; -- an assignment costs less than PERFORM, which is a query
BEGIN
    FOR n IN 0 .. jsonb_array_length(lines) - 1 LOOP
        pence := pence + (lines->n->>'quantity')::bigint * (lines->n->>'unit_pence')::bigint;
    END LOOP;
    INSERT INTO orders VALUES (client, id, body->>'customer', body->>'country', placed_at, lines, pence);
    ignored := idem_compensate_with(id, 'undo_order(jsonb)', request - 'body', client);
    ignored := idem_publish('sales', jsonb_build_object('client', client, 'order', id, 'placed_at', placed_at, 'pence', pence),
        client || '/' || id, 'booked', idem_context());
    RETURN format('{"status": 201, "headers": {"Location": %s}, "body": {"id": %s, "state": "created", "total_pence": %s}}',
        request->'location', request->'order', pence);
END $$;

-- Takes the order to another state, if the machine has a way there.
CREATE FUNCTION move_order(request jsonb, new_state text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moved   orders;
    allowed text[];
    ignored text;
BEGIN
    SELECT * INTO moved FROM orders AS o WHERE o.id = request->>'order' AND o.client = request->>'client' FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM refuse(404, 'no-such-order', 'There is no such order');
    END IF;
    allowed := ARRAY(SELECT idem_next_states('order', moved.state));
    IF new_state <> ALL (allowed) THEN
        PERFORM refuse(409, 'invalid-transition', format('The order is %s and cannot become %s', moved.state, new_state),
            jsonb_build_object('state', moved.state, 'allowed', allowed));
    END IF;
    IF new_state = 'paid' AND moved.total_pence IS DISTINCT FROM (request->'body'->>'pence')::bigint THEN
        PERFORM refuse(422, 'amount-mismatch', 'That is not what the order costs',
            jsonb_build_object('total_pence', moved.total_pence));
    END IF;
    UPDATE orders AS o SET state = new_state WHERE o.id = moved.id AND o.client = moved.client;
    ignored := idem_publish('sales',
        jsonb_build_object('client', moved.client, 'order', moved.id, 'placed_at', moved.placed_at, 'pence', 0),
        moved.client || '/' || moved.id, new_state, idem_context());
    RETURN jsonb_build_object('status', 200, 'body', jsonb_build_object('id', moved.id, 'state', new_state));
END $$;

-- From here on nobody cancels it, and what the client was told when it was placed may be kept wherever one likes.
CREATE FUNCTION complete_order(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    completed jsonb := move_order(request, 'completed');
BEGIN
    PERFORM idem_confirm(request->>'order', request->>'client');
    RETURN completed;
END $$;

-- The service has idem_execute_many() call it, for all of them.
CREATE FUNCTION order_request(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE split_part(request->>'path', '/', 4) -- /orders, /orders/{id}/pay
        WHEN '' THEN place_order(request)
        WHEN 'pay' THEN move_order(request, 'paid')
        WHEN 'complete' THEN complete_order(request)
    END;
END $$;

-- ---- what cancelling does ----

-- idem_cancel() calls it. If the machine refuses the step, all of it is undone, and the cancellation refused. The service
-- has set shop.context before.
CREATE FUNCTION undo_order(args jsonb) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    undone orders;
BEGIN
    UPDATE orders AS o SET state = 'cancelled' WHERE o.id = args->>'order' AND o.client = args->>'client'
    RETURNING * INTO undone;
    PERFORM idem_publish('sales', jsonb_build_object('client', undone.client, 'order', undone.id, 'placed_at', undone.placed_at,
                                                     'pence', -undone.total_pence),
        undone.client || '/' || undone.id, 'cancelled', nullif(current_setting('shop.context', true), '')::jsonb);
END $$;

-- What a client whose cancellation is refused is told of the order.
CREATE FUNCTION why_not_cancelled(client text, id text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('type', 'urn:idem:problem:invalid-transition', 'status', 409,
                              'title', format('The order is %s and cannot become cancelled', o.state), 'state', o.state,
                              'allowed', ARRAY(SELECT idem_next_states('order', o.state)))
    FROM orders AS o WHERE o.id = $2 AND o.client = $1
$$;

-- ---- what is read ----

-- One for each that is asked for, NULL for one that there is not.
CREATE FUNCTION find_orders(clients text[], ids text[]) RETURNS SETOF jsonb LANGUAGE sql STABLE AS $$
    SELECT (SELECT jsonb_build_object('id', o.id, 'state', o.state, 'customer', o.customer, 'country', o.country,
                                      'placed_at', o.placed_at, 'total_pence', o.total_pence, 'lines', o.lines)
            FROM orders AS o WHERE o.id = w.id AND o.client = w.client)
    FROM unnest(clients, ids) WITH ORDINALITY AS w (client, id, n) ORDER BY n
$$;

GRANT SELECT ON clients TO :"service";
GRANT SELECT, INSERT, UPDATE ON orders TO :"service";
SELECT idem_grant(:'service', 'app');
