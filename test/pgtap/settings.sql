-- The settings: names, units, defaults, bounds, and who may set them.
BEGIN;
SELECT plan(7);
SELECT isnt(idem_digest('k'), NULL, 'the library is loaded');

SELECT set_eq($$SELECT name, context, vartype, boot_val, unit, min_val, max_val FROM pg_settings WHERE name LIKE 'idem.%'$$, $$VALUES
	('idem.inbox_retention', 'superuser', 'integer', '1209600', 's', '1', '315619200'),
	('idem.outbox_retention', 'superuser', 'integer', '86400', 's', '1', '315619200'),
	('idem.strand_rows', 'user', 'bool', 'off', NULL, NULL, NULL),
	('idem.max_attempts', 'user', 'integer', '5', NULL, '1', '1000'),
	('idem.client', 'user', 'string', '', NULL, NULL, NULL),
	('idem.naptime', 'sighup', 'integer', '60', 's', '1', '86400'),
	('idem.claim_wait', 'user', 'integer', '5000', 'ms', '0', '3600000'),
	('idem.key_ttl', 'superuser', 'integer', '86400', 's', '1', '315619200'),
	('idem.require_completion', 'superuser', 'bool', 'on', NULL, NULL, NULL)
$$, 'the settings');
SELECT is_empty($$SELECT name FROM pg_settings WHERE name LIKE 'idem.%' AND coalesce(length(short_desc), 0) < 20$$, 'each is described');
SELECT throws_ok('SET idem.no_such_setting = 1', '42602', NULL, 'there are no others');

CREATE ROLE regress_idem_settings;
SET LOCAL ROLE regress_idem_settings;
SELECT lives_ok($$SET LOCAL idem.claim_wait = '2 s'$$, 'idem.claim_wait is for everybody');
SELECT throws_ok($$SET LOCAL idem.key_ttl = '2 s'$$, '42501', NULL, 'idem.key_ttl is not');
SELECT throws_ok($$SET LOCAL idem.require_completion = off$$, '42501', NULL, 'idem.require_completion is not');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
