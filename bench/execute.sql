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
