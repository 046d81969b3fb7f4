-- Sixteen consumers of each, from here on. PgQ ticks every 500 messages, and as often as its daemon
-- comes by: left at 3 s, ticker_max_lag would count as time for the last ones.
SELECT idem_subscribe('c' || i), pgq.register_consumer('orders', 'c' || i) FROM generate_series(1, 16) AS i;
SELECT pgq.unregister_consumer('orders', 'one'), idem_unsubscribe('one'),
       pgq.set_queue_config('orders', 'ticker_max_count', '500'),
       pgq.set_queue_config('orders', 'ticker_max_lag', '100 ms');
