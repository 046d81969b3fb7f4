-- Sixteen consumers of each, from here on. PgQ ticks at its own pace.
SELECT idem_subscribe('c' || i), pgq.register_consumer('orders', 'c' || i) FROM generate_series(1, 16) AS i;
SELECT pgq.unregister_consumer('orders', 'one'), idem_unsubscribe('one'),
       pgq.set_queue_config('orders', 'ticker_max_count', '500');
