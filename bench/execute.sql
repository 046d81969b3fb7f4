-- The work of all contestants, and its request.
CREATE FUNCTION place(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    placed bigint;
BEGIN
    INSERT INTO orders (customer, item, amount)
    VALUES ((request ->> 'customer')::bigint, request ->> 'item', (request ->> 'amount')::numeric)
    RETURNING id INTO placed;
    RETURN jsonb_build_object('order', placed, 'status', 'created');
END $$;

-- The hand-written idiom in PL/pgSQL.
CREATE TABLE once_keys (
    key text COLLATE "C" PRIMARY KEY,
    status text NOT NULL,
    response jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION place_once(request_key text, request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb;
BEGIN
    INSERT INTO once_keys (key, status) VALUES (request_key, 'started') ON CONFLICT (key) DO NOTHING;
    IF NOT FOUND THEN
        SELECT response INTO answer FROM once_keys WHERE key = request_key;
        RETURN answer;
    END IF;
    answer := place(request);
    UPDATE once_keys SET status = 'completed', response = answer WHERE key = request_key;
    RETURN answer;
END $$;
