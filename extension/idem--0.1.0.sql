/* idem--0.1.0.sql: see README.md and the comment of each function */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION idem" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Keys: where finished ones are kept
-- ---------------------------------------------------------------------------

-- The library writes these tables directly and knows their columns by number
-- (tables.h). Rows only come and, all at once, go: there is nothing to vacuum,
-- and an autovacuum would only stand in the way of TRUNCATE.
CREATE TABLE idem_keys_0 (
	digest pg_catalog.int8 NOT NULL,
	claimed_at pg_catalog.timestamptz NOT NULL,
	completed_at pg_catalog.timestamptz NOT NULL,
	expires_at pg_catalog.timestamptz NOT NULL,
	life pg_catalog.int4,               -- NULL: its first
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	fingerprint pg_catalog.bytea,       -- NULL: claimed without a request
	response pg_catalog.jsonb NOT NULL
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_keys_1 (LIKE idem_keys_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_keys_2 (LIKE idem_keys_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX idem_keys_0_digest ON idem_keys_0 USING btree (digest pg_catalog.int8_ops) WITH (deduplicate_items = off);
CREATE INDEX idem_keys_1_digest ON idem_keys_1 USING btree (digest pg_catalog.int8_ops) WITH (deduplicate_items = off);
CREATE INDEX idem_keys_2_digest ON idem_keys_2 USING btree (digest pg_catalog.int8_ops) WITH (deduplicate_items = off);

-- rows that may outlive the ring: leases, those with a longer ttl, those that
-- can be cancelled or have been
CREATE TABLE idem_pinned (
	LIKE idem_keys_0,
	fate pg_catalog.text COLLATE pg_catalog."C",    -- NULL: an ordinary key; else see compensation.c
	deadline pg_catalog.timestamptz,
	ttl_ends_at pg_catalog.timestamptz,             -- if it expires at another time, for a deadline or a lease
	handlers pg_catalog.jsonb,                      -- [{handler, args, owner, role}], as registered
	answer pg_catalog.jsonb,                        -- of idem_cancel(), the same for each repeat
	attempt pg_catalog.int4,                        -- NULL: the first
	token pg_catalog.int8,                          -- this and the next three: of a lease
	lease_ends_at pg_catalog.timestamptz,
	holder_pid pg_catalog.int4,
	checkpoint pg_catalog.jsonb                     -- {step, state}
) USING heap;
CREATE INDEX idem_pinned_key ON idem_pinned USING hash (key pg_catalog.text_ops);
CREATE INDEX idem_pinned_digest ON idem_pinned USING btree (digest pg_catalog.int8_ops) WITH (deduplicate_items = off);
CREATE INDEX idem_pinned_expires_at ON idem_pinned USING btree (expires_at pg_catalog.timestamptz_ops);
CREATE INDEX idem_pinned_deadline ON idem_pinned USING btree (fate pg_catalog.text_ops, deadline pg_catalog.timestamptz_ops);

CREATE FUNCTION idem_handlers_check() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_handlers_check() FROM PUBLIC;
COMMENT ON FUNCTION idem_handlers_check() IS
$$Trigger that refuses rows, written by SQL, whose handlers would run as a role that the writer is not.

Errors: 42501 such a row.$$;
CREATE TRIGGER idem_handlers_check BEFORE INSERT OR UPDATE ON idem_pinned
FOR EACH ROW EXECUTE FUNCTION idem_handlers_check();

-- Scopes that have ever moved, see scope.c. One that is not "here" is refused.
CREATE TABLE idem_scopes (
	scope pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	state pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	epoch pg_catalog.int8 NOT NULL,     -- grows with each move
	move pg_catalog.text NOT NULL,      -- which one it is
	position pg_catalog.text,           -- how far it has come
	since pg_catalog.timestamptz NOT NULL
) USING heap;
CREATE UNIQUE INDEX idem_scopes_scope ON idem_scopes USING btree (scope pg_catalog.text_ops);
COMMENT ON TABLE idem_scopes IS
$$Scopes that have moved, or are moving, from node to node by idem_export() and idem_import(). state is "closed": it has left, or is leaving; "checking", "clearing" or "arriving": it is coming; or "here". Of a scope without a row everything is here.$$;

-- the low 48 bits of tokens, see lease.c
CREATE SEQUENCE idem_tokens MAXVALUE 281474976710655;

-- ---------------------------------------------------------------------------
-- The rings: how the tables of each store take turns
-- ---------------------------------------------------------------------------

-- One row a store, the state of its ring (ring.h). A dump carries it once it
-- has changed; of two rows, after a restore, the later step counts.
CREATE TABLE idem_ring (
	store pg_catalog.text NOT NULL,
	step pg_catalog.int8 NOT NULL,
	current pg_catalog.int2 NOT NULL,
	opened_at pg_catalog.timestamptz NOT NULL,
	ttl pg_catalog.int4[] NOT NULL,
	ends_at pg_catalog.timestamptz[] NOT NULL,
	emptied pg_catalog.xid8 NOT NULL
) USING heap;
INSERT INTO idem_ring VALUES
	('keys', 0, 0, pg_catalog.now(), '{86400,0,0}', '{infinity,-infinity,-infinity}', '0'),
	('inbox', 0, 0, pg_catalog.now(), '{1209600,0,0}', '{infinity,-infinity,-infinity}', '0'),
	('outbox', 0, 0, pg_catalog.now(), '{86400,0,0}', '{infinity,-infinity,-infinity}', '0'),
	('positions', 0, 0, pg_catalog.now(), '{60,0,0}', '{infinity,-infinity,-infinity}', '0'),
	('watermarks', 0, 0, pg_catalog.now(), '{60,0,0}', '{infinity,-infinity,-infinity}', '0');

CREATE FUNCTION idem_table_changed() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_table_changed() FROM PUBLIC;
COMMENT ON FUNCTION idem_table_changed() IS
$$Trigger that makes all sessions read a table anew that they keep in memory, when it is written by SQL, as a restore does.$$;
CREATE TRIGGER idem_scopes_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON idem_scopes
FOR EACH STATEMENT EXECUTE FUNCTION idem_table_changed();
CREATE TRIGGER idem_ring_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON idem_ring
FOR EACH STATEMENT EXECUTE FUNCTION idem_table_changed();

CREATE FUNCTION idem_replicated() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_replicated() FROM PUBLIC;
COMMENT ON FUNCTION idem_replicated() IS
$$Trigger for rows that logical replication brings: the copy of a ring takes the place of the one that is here, and the sequences, which are not replicated, follow ids and tokens.$$;
CREATE TRIGGER idem_replicated BEFORE INSERT ON idem_ring FOR EACH ROW EXECUTE FUNCTION idem_replicated();
CREATE TRIGGER idem_replicated BEFORE INSERT OR UPDATE ON idem_pinned FOR EACH ROW EXECUTE FUNCTION idem_replicated();
ALTER TABLE idem_ring ENABLE REPLICA TRIGGER idem_replicated;
ALTER TABLE idem_pinned ENABLE REPLICA TRIGGER idem_replicated;

-- deletes by direct access would otherwise trouble a FOR ALL TABLES publication
ALTER TABLE idem_keys_0 REPLICA IDENTITY FULL;
ALTER TABLE idem_keys_1 REPLICA IDENTITY FULL;
ALTER TABLE idem_keys_2 REPLICA IDENTITY FULL;
ALTER TABLE idem_pinned REPLICA IDENTITY FULL;
ALTER TABLE idem_ring REPLICA IDENTITY FULL;
ALTER TABLE idem_scopes REPLICA IDENTITY FULL;

SELECT pg_catalog.pg_extension_config_dump('idem_keys_0', '');
SELECT pg_catalog.pg_extension_config_dump('idem_keys_1', '');
SELECT pg_catalog.pg_extension_config_dump('idem_keys_2', '');
SELECT pg_catalog.pg_extension_config_dump('idem_pinned', '');
SELECT pg_catalog.pg_extension_config_dump('idem_tokens', '');
SELECT pg_catalog.pg_extension_config_dump('idem_scopes', '');
SELECT pg_catalog.pg_extension_config_dump('idem_ring', 'WHERE step OPERATOR(pg_catalog.>) 0');

-- ---------------------------------------------------------------------------
-- Keys: what applications call
-- ---------------------------------------------------------------------------

-- a type of its own: the executor finds its columns sooner than those of OUT arguments
CREATE TYPE idem_claim_result AS (
	status text, response jsonb, attempt integer,
	token bigint, checkpoint jsonb, cacheable_until timestamptz);
REVOKE ALL ON TYPE idem_claim_result FROM PUBLIC;
COMMENT ON TYPE idem_claim_result IS 'What idem_claim() answers.';

CREATE FUNCTION idem_claim(
	key text, request jsonb DEFAULT NULL, scope text DEFAULT '',
	wait interval DEFAULT NULL, ttl interval DEFAULT NULL, lease interval DEFAULT NULL)
RETURNS idem_claim_result
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_claim(text, jsonb, text, interval, interval, interval) FROM PUBLIC;
COMMENT ON FUNCTION idem_claim(text, jsonb, text, interval, interval, interval) IS
$$Claim an idempotency key, before the work: for this transaction, or with a lease for several.

key      1 to 255 bytes; what the client sent, or derived from what the request is
request  its body; a retry with another one answers "mismatch". NULL: not compared
scope    0 to 255 bytes; separates tenants or consumers
wait     how long to wait for another transaction, or a lease, that holds the key: 0 asks at once, at most one hour, NULL means idem.claim_wait; a shorter lock_timeout ends it sooner
ttl      how long to remember the key once completed: at most ten years, NULL means idem.key_ttl
lease    the claim outlives its transaction, which must commit: whoever has the token owns the key for this long, at most one day. NULL: no lease

status is
  claimed      the caller owns the key: do the work, then idem_complete()
  completed    done before: response is what was stored; it may be cached until cacheable_until, NULL as long as it could still be cancelled
  in_progress  another transaction or a lease holds the key and wait ran out
  mismatch     the key was completed, or is leased, with another request
  cancelled    cancelled before it was ever completed, or compensated since
attempt is 1, and one more each time a lease that was over is taken over; checkpoint is then the last that the owner before has set. token is NULL without a lease.
Only "claimed" permits the work. Without a lease the key is locked until the transaction ends, and nothing is written; a rollback, also to a savepoint before the claim, frees it. A COMMIT or PREPARE TRANSACTION that finds the claim neither completed nor released fails with ID004.
With a lease: commit, and begin the work only then. Pass the token to idem_complete(), idem_release(), idem_compensate_with(), idem_renew() and idem_checkpoint(), in any transaction. When the lease is over, the next claim, with a lease or without, takes the key over, and the token no longer holds it.

Errors: ID002 already claimed by this transaction; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID007 ttl, wait or lease out of range; 25006 read-only transaction, standby or subscriber; 40001 above READ COMMITTED, when the key was written after the transaction's snapshot; 40P01 deadlock, when transactions claim several keys in different orders.

Cost: one lock, and one index probe for each generation of the ring, however many keys are stored; with a lease one row with four index entries, written by idem_complete() again. SELECT (idem_claim('k')).status, with the one column that decides, spares the executor a function scan and is some percent cheaper than FROM idem_claim('k'); (idem_claim('k')).* would call it six times, which is an error.$$;

CREATE FUNCTION idem_complete(key text, response jsonb, scope text DEFAULT '', token bigint DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_complete(text, jsonb, text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_complete(text, jsonb, text, bigint) IS
$$Store the response of a key that this transaction has claimed, or that the token holds, and answer with it as stored. It is kept if and only if the transaction commits, and every retry is answered with it, byte for byte, until the key expires: its ttl counts from here.

response  any JSON; pass 'null' for none
token     of a claim with a lease: that of idem_claim(). A lease that is over, but was not taken over, can be completed

Errors: ID001 not claimed by this transaction; ID003 completed already; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; 22004 response is NULL; 25006 read-only transaction. With a token: ID002 this transaction has claimed the key without one; ID017 the token does not hold the key, or no longer; 55P03 another transaction held the key for longer than idem.claim_wait; 40001 and 40P01 as idem_claim().

Cost: one row and one index entry.$$;

CREATE FUNCTION idem_release(key text, scope text DEFAULT '', token bigint DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_release(text, text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_release(text, text, bigint) IS
$$Give up the claim of a key, so that a retry may run. Others still wait until this transaction ends.

Without a token it warns when the transaction has written since the claim: committing would keep the effect and lose the key. Roll back instead. With the token of a lease, all that belongs to it is dropped: attempt, checkpoint and compensation. Do so when nothing was done, or let the lease end.

Errors: ID001 not claimed by this transaction; ID003 completed already; ID005, ID006 invalid key or scope. With a token: ID002 this transaction has claimed the key without one; ID017 the token does not hold the key, or no longer; ID018 the scope is at another node, or not all of it has come from there; 55P03 another transaction held the key for longer than idem.claim_wait; 25006 read-only transaction, standby or subscriber; 40001 and 40P01 as idem_claim().$$;

CREATE FUNCTION idem_renew(key text, token bigint, lease interval, scope text DEFAULT '') RETURNS timestamptz
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_renew(text, bigint, interval, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_renew(text, bigint, interval, text) IS
$$Let the lease of a key last for this long from now, and answer when it ends then. Also one that is over, if nobody has taken it over. It holds once it is committed; until then others who want the key wait.

token  that of idem_claim()
lease  more than zero, at most one day

Errors: ID002 this transaction has claimed the key without a lease; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID007 lease out of range; ID017 the token does not hold the key, or no longer: stop the work; 22004 token or lease is NULL; 55P03 another transaction held the key for longer than idem.claim_wait; 25006 read-only transaction, standby or subscriber; 40001 and 40P01 as idem_claim().

Cost: an update of one row with four index entries, and a flush.$$;

CREATE FUNCTION idem_checkpoint(key text, token bigint, step text, state jsonb, scope text DEFAULT '') RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_checkpoint(text, bigint, text, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_checkpoint(text, bigint, text, jsonb, text) IS
$$Note how far the work under a lease is. Who takes the key over gets the last checkpoint from idem_claim(), as {"step": ..., "state": ...}. Call it at the end of the transaction that does the step in this database: then both commit, or neither does, and who has lost the lease cannot commit the step. The key is locked until that transaction ends. It does not renew the lease.

token  that of idem_claim()
step   its name, 1 to 255 bytes
state  what the next steps need to know; NULL means a JSON null

Errors: ID002 this transaction has claimed the key without a lease; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID011 invalid step; ID017 the token does not hold the key, or no longer: stop the work; 22004 token is NULL; 55P03 another transaction held the key for longer than idem.claim_wait; 25006 read-only transaction, standby or subscriber; 40001 and 40P01 as idem_claim().

Cost: an update of one row.$$;

CREATE FUNCTION idem_status(
	key text, scope text DEFAULT '',
	OUT status text, OUT response jsonb, OUT attempt integer,
	OUT claimed_at timestamptz, OUT completed_at timestamptz, OUT expires_at timestamptz,
	OUT holder_pid integer)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION idem_status(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_status(text, text) IS
$$What is known of one key at this moment, without claiming it: "completed" with its response, "cancelled" with what idem_cancel() answered, "in_progress" with the process that holds it (NULL for a prepared transaction), or "unknown", which includes expired. Under a lease it is "in_progress", expires_at is when the lease ends or has ended, and holder_pid the process that last claimed, renewed or noted a checkpoint; it may do something else by now. To look at, not to act upon: only idem_claim() decides.

Errors: ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; 25006 standby or subscriber; 40001 as idem_claim().

Cost: one index probe for each generation of the ring.$$;

CREATE FUNCTION idem_evict(key text, scope text DEFAULT '') RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_evict(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_evict(text, text) IS
$$Forget a completed, cancelled or leased key, so that it can be claimed anew: a DBA's verb. The work that was done under it stays done; who had a lease has lost it. True when there was such a key.

Errors: ID002, ID003 the key was claimed or completed by this very transaction; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; 55000 it has a compensation: confirm or cancel it first; 55P03 another transaction held it for longer than idem.claim_wait; 25006 read-only transaction, standby or subscriber; 40001 and 40P01 as idem_claim().$$;

CREATE FUNCTION idem_digest(key text, scope text DEFAULT '') RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
REVOKE ALL ON FUNCTION idem_digest(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_digest(text, text) IS
$$What the key tables are indexed by: the first eight bytes of SHA-256 over scope, a zero byte and key. SELECT * FROM idem_keys WHERE digest = idem_digest('some key') AND key = 'some key'.

Errors: ID005, ID006 invalid key or scope.$$;

-- a type of its own, as idem_claim_result is
CREATE TYPE idem_execute_result AS (status text, response jsonb, cacheable_until timestamptz);
REVOKE ALL ON TYPE idem_execute_result FROM PUBLIC;
COMMENT ON TYPE idem_execute_result IS 'What idem_execute() answers.';

CREATE FUNCTION idem_execute(
	handler regprocedure, key text, request jsonb, scope text DEFAULT '', ttl interval DEFAULT NULL)
RETURNS idem_execute_result
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_execute(regprocedure, text, jsonb, text, interval) FROM PUBLIC;
COMMENT ON FUNCTION idem_execute(regprocedure, text, jsonb, text, interval) IS
$$Claim a key, call a function of yours that does the work, and store what it returns: idem_claim(), the work and idem_complete() in one statement, which needs no BEGIN.

handler  a function f(jsonb) that returns jsonb, such as 'place_order(jsonb)'. It is called with the request, as the caller, like any function; what it returns is the response
key      as for idem_claim(); the key alone says what was done, whichever handler does it
request  what the handler is called with; a retry with another one answers "mismatch"
scope, ttl  as for idem_claim()

status is
  executed     the handler ran now; response is what it returned, as stored
  completed    done before: response is what was stored then
  in_progress  another transaction, or a lease, held the key for longer than idem.claim_wait
  mismatch     the key was completed, or is leased, with another request
  cancelled    cancelled before it was ever completed, or compensated since
cacheable_until is as for idem_claim(): of what is executed, too, and once that is committed.
An error of the handler is this statement's: nothing is stored, and a retry may run. Even if it is caught, nothing of the handler's work remains. The handler may call idem_compensate_with() for the key; it neither completes nor releases it.

Errors: ID002 already claimed by this transaction; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID007 ttl out of range; ID015 the handler is of another kind, or not the caller's to execute; 22004 handler or request is NULL, or the handler returned NULL; 25006 read-only transaction, standby or subscriber; 40001 and 40P01 as idem_claim(); any of the handler.

Cost: that of idem_claim(), of the handler and of idem_complete(), in one round trip.$$;

-- a type of its own: three functions return it
CREATE TYPE idem_many_result AS (key text, status text, response jsonb, cacheable_until timestamptz);
REVOKE ALL ON TYPE idem_many_result FROM PUBLIC;
COMMENT ON TYPE idem_many_result IS 'What idem_execute_many() and idem_claim_many() answer for each key.';

CREATE FUNCTION idem_execute_many(handler regprocedure, keys text[], requests jsonb[], scope text DEFAULT '')
RETURNS SETOF idem_many_result
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_execute_many(regprocedure, text[], jsonb[], text) FROM PUBLIC;
COMMENT ON FUNCTION idem_execute_many(regprocedure, text[], jsonb[], text) IS
$$idem_execute() for up to 500 keys, in one statement and one commit. A row for each key, in the order in which they were given; that is also the order in which the handlers run.

handler   as for idem_execute(). It does database work only: when one key's fails, it runs again for some that had succeeded, after what they did is undone
keys      1 to 255 bytes each
requests  one for each key
scope     of all of them; an array is one for each

status and cacheable_until are as for idem_execute(), but
  in_progress  another transaction, or a lease, holds the key: this is not waited for
  failed       the handler raised an error. Nothing of what it did for this key remains, nothing is stored, and once this transaction has ended a retry may run; all others stand. response has the sqlstate, message, detail, hint, constraint and context: for your log, not for strangers
A key that is given more than once runs once: later ones are answered as the first, "completed" if that was executed, or "mismatch" if their request is another one.
Errors that are not of one key alone abort the call, and nothing is done: of the classes 40, 53 (out of locks or memory), 57 (cancelled, statement_timeout), 58 and XX. So does what fails at COMMIT: a deferred constraint, a key that the handler itself claimed and left open.

Errors: ID002 a key is already claimed by this transaction; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID015 the handler is of another kind, or not the caller's to execute; 22004 handler, keys, requests or a request is NULL; 22023 more than 500 keys, keys and requests differ in length, or have several dimensions; 25006 read-only transaction, standby or subscriber; 40001 as idem_claim(); 53200 the server's lock table is full: raise max_locks_per_transaction, or pass fewer keys.

Cost: that of idem_claim(), of the handler and of idem_complete() for each key, one subtransaction, and for each failed key two more. Until the transaction ends it has a lock for each key that it executed; with the stock settings 16 calls of 500 at a time leave room for others.$$;

CREATE FUNCTION idem_execute_many(
	handler regprocedure, keys text[], requests jsonb[], scopes text[], contexts jsonb[] DEFAULT NULL)
RETURNS SETOF idem_many_result
AS 'MODULE_PATHNAME', 'idem_execute_many_scopes' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_execute_many(regprocedure, text[], jsonb[], text[], jsonb[]) FROM PUBLIC;
COMMENT ON FUNCTION idem_execute_many(regprocedure, text[], jsonb[], text[], jsonb[]) IS
$$idem_execute_many() with a scope for each key, where requests of many clients are gathered into one call.

handler, keys, requests  as there. The same key in two scopes is two keys
scopes                   one for each key, 0 to 255 bytes each. Give the array a type: '{a,b}' alone is taken for one scope, '{a,b}'::text[] or scopes => '{a,b}' is not
contexts                 one for each key, or NULL: what comes along with the request and is not part of it, such as a traceparent. No retry is compared by it; the handler reads it with idem_context()

Errors: ID002 a key is already claimed by this transaction; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID015 the handler is of another kind, or not the caller's to execute; 22004 handler, keys, requests, scopes or a request is NULL; 22023 more than 500 keys, keys, requests, scopes and contexts differ in length, or have several dimensions; 25006 read-only transaction, standby or subscriber; 40001 as idem_claim(); 53200 the server's lock table is full: raise max_locks_per_transaction, or pass fewer keys.

Cost: that of the other.$$;

CREATE FUNCTION idem_context() RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION idem_context() FROM PUBLIC;
COMMENT ON FUNCTION idem_context() IS
$$What came along with the request of the handler that calls this: of contexts of idem_execute_many(), the one for its key. NULL: nothing did, or no handler calls.$$;

CREATE FUNCTION idem_claim_many(keys text[], requests jsonb[] DEFAULT NULL, scope text DEFAULT '')
RETURNS SETOF idem_many_result
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_claim_many(text[], jsonb[], text) FROM PUBLIC;
COMMENT ON FUNCTION idem_claim_many(text[], jsonb[], text) IS
$$idem_claim() for up to 500 keys, before work that is done for all of them by statements of your own. A row for each key, in the order in which they were given.

keys      1 to 255 bytes each
requests  one for each key, compared as idem_claim() does; NULL: not compared
scope     of all of them

status, response and cacheable_until are as for idem_claim(), but a key that another transaction, or a lease, holds is not waited for: "in_progress". So is a key that is given more than once, but for the first, which may be "claimed"; with another request it is a "mismatch".
Do the work for those that are "claimed", and idem_complete_many() or idem_release() each of them.

Errors: ID002 a key is already claimed by this transaction; ID004 at COMMIT, a key is neither completed nor released; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; 22004 keys or a request is NULL; 22023 more than 500 keys, keys and requests differ in length, or have several dimensions; 25006 read-only transaction, standby or subscriber; 40001 as idem_claim(); 53200 the server's lock table is full: raise max_locks_per_transaction, or pass fewer keys.

Cost: that of idem_claim() for each key.$$;

CREATE FUNCTION idem_complete_many(keys text[], responses jsonb[], scope text DEFAULT '')
RETURNS integer
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_complete_many(text[], jsonb[], text) FROM PUBLIC;
COMMENT ON FUNCTION idem_complete_many(text[], jsonb[], text) IS
$$idem_complete() for up to 500 keys that this transaction has claimed, one by one or by idem_claim_many(): all of them, or an error and none. Returns how many.

keys       1 to 255 bytes each
responses  one for each key; 'null' for none
scope      of all of them

Errors: ID001 a key is not claimed by this transaction; ID003 completed already, or given twice; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; 22004 keys, responses or a response is NULL; 22023 more than 500 keys, keys and responses differ in length, or have several dimensions; 25006 read-only transaction.

Cost: a row and an index entry for each key.$$;

-- ---------------------------------------------------------------------------
-- Keys: scopes that move to another node
-- ---------------------------------------------------------------------------

CREATE FUNCTION idem_export(scope text, "position" text DEFAULT NULL, max_keys integer DEFAULT 1000) RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_export(text, text, integer) FROM PUBLIC;
COMMENT ON FUNCTION idem_export(text, text, integer) IS
$$Close a scope here, and hand its keys out page by page, for idem_import() at the node to which it moves: finished keys, leases, tombstones and compensations, with all that belongs to them. Each page is a transaction of its own, at the source and then at the destination:

  position := NULL
  repeat: page := idem_export(scope, position) at the source; position := idem_import(page) at the destination; until position IS NULL

The first page closes the scope: from its commit on nobody can claim a key of it here, nor speak of one in any other way (ID018), and its deadlines are not kept here. The next one waits for transactions in flight that have completed keys, of whatever scope; what they have written is then final, and the rows of your own tables can be copied. When the answer is NULL the scope is at the destination; before, it is at neither. Whatever fails in between: begin again with NULL, it goes on where it was. A page that comes twice changes nothing.

scope     0 to 255 bytes
position  what idem_import() has answered; NULL: the first page
max_keys  of a page, at most 10,000; it may have fewer, and none

Errors: ID006 invalid scope; 22023 unknown position, or max_keys out of range; 55000 the scope has not arrived here, is not closed, or the isolation level is above READ COMMITTED; 25001 the transaction has written before; 25006 read-only transaction, standby or subscriber.

Cost: all pages together read all keys that are stored, of whatever scope, once, and the last one does so once more, in one statement.$$;

CREATE FUNCTION idem_import(page jsonb) RETURNS text
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_import(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION idem_import(jsonb) IS
$$Take a page that idem_export() has answered at another node, and answer the position to ask for next; NULL: all keys are here, were compared, and the scope is open from this commit on. Until then it is refused here (ID018), with all that a former stay has left, which is forgotten first. Messages, positions, the inbox and states of guarded topics do not move.

Whoever calls must be able to become the roles that have registered compensations, or be a superuser.

page  as it came, in a transaction of its own

Errors: 22004 page is NULL; 22023 it is damaged; 55000 it is of another move or of this very node, the scope has keys here that came from no other, the encodings of the databases differ, or the isolation level is above READ COMMITTED; ID006 invalid scope; ID019 what arrived is not what was sent: it stays closed; 42501 handlers of a role that is not the caller's, or does not exist; 25001 the transaction has written before; 25006 read-only transaction, standby or subscriber.

Cost: a row with four index entries for each key; the first and the last page read all keys that are stored here, the last one in one statement.$$;

-- ---------------------------------------------------------------------------
-- Keys: what DBAs read
-- ---------------------------------------------------------------------------

CREATE VIEW idem_keys AS
SELECT k.scope, k.key, k.status, k.attempt, k.response, k.claimed_at, k.completed_at, k.expires_at, k.digest, k.token, k.holder_pid
FROM (SELECT scope, key, 'completed'::pg_catalog.text AS status, 1 AS attempt, response, claimed_at, completed_at, expires_at, digest,
             NULL::pg_catalog.int8 AS token, NULL::pg_catalog.int4 AS holder_pid, expires_at AS remembered_until FROM idem_keys_0
      UNION ALL SELECT scope, key, 'completed', 1, response, claimed_at, completed_at, expires_at, digest, NULL, NULL, expires_at FROM idem_keys_1
      UNION ALL SELECT scope, key, 'completed', 1, response, claimed_at, completed_at, expires_at, digest, NULL, NULL, expires_at FROM idem_keys_2
      UNION ALL SELECT scope, key,
                       CASE WHEN token IS NOT NULL THEN 'in_progress'
                            WHEN fate OPERATOR(pg_catalog.=) ANY ('{compensated,tombstone}'::pg_catalog.text[])
                            THEN 'cancelled' ELSE 'completed' END,
                       COALESCE(attempt, 1),
                       CASE WHEN token IS NOT NULL THEN NULL
                            WHEN fate OPERATOR(pg_catalog.=) ANY ('{compensated,tombstone}'::pg_catalog.text[])
                            THEN answer ELSE response END,
                       claimed_at, CASE WHEN token IS NULL THEN completed_at END,
                       COALESCE(lease_ends_at, expires_at), digest, token,
                       CASE WHEN holder_pid OPERATOR(pg_catalog.>) 0 THEN holder_pid END, expires_at
                FROM idem_pinned) AS k
WHERE k.remembered_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp();
COMMENT ON VIEW idem_keys IS
$$Every key that is remembered; the response of a cancelled one is what idem_cancel() answered. One under a lease is "in_progress", with its token, the process that last claimed, renewed or noted a checkpoint, and when the lease ends, or has ended, as expires_at. For one key use idem_status(key), or WHERE digest = idem_digest(key): those use the indexes.$$;

CREATE VIEW idem_holders AS
SELECT l.pid, a.xact_start AS since, a.query,
       (l.classid::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32)
           OPERATOR(pg_catalog.|) l.objid::pg_catalog.int8 AS key_hash
FROM pg_catalog.pg_locks AS l
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text
  AND l.objsubid OPERATOR(pg_catalog.=) 7341::pg_catalog.int2
  AND l.database OPERATOR(pg_catalog.=)
      (SELECT d.oid FROM pg_catalog.pg_database AS d
       WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
  AND l.granted;
COMMENT ON VIEW idem_holders IS
$$Who holds keys now: process (NULL: a prepared transaction), since when its transaction runs, its latest query, and the key's idem_digest().$$;

-- ---------------------------------------------------------------------------
-- Compensation
-- ---------------------------------------------------------------------------

CREATE FUNCTION idem_compensate_with(
	key text, handler regprocedure, args jsonb, scope text DEFAULT '',
	deadline interval DEFAULT NULL, token bigint DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_compensate_with(text, regprocedure, jsonb, text, interval, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_compensate_with(text, regprocedure, jsonb, text, interval, bigint) IS
$$Say how to undo the work of a key that this transaction has claimed, or that the token holds. Without a token it is kept with the completion, with one by this transaction's commit: make that, and then the remote call. A release drops it. Several handlers run in reverse order.

handler   a function f(jsonb) that returns void or jsonb, such as 'refund(jsonb)'. It runs as the role that calls this, as long as it has the same owner: give it a SET search_path
args      what it is called with; NULL means a JSON null
deadline  how long after the completion the key is cancelled unless it has been confirmed: at most ten years; of several the earliest; NULL: never. Without a deadline the key expires as any other; with one, not before it is confirmed or cancelled
token     of a claim with a lease: that of idem_claim(). The deadline then counts from now, and is kept also if the key is never completed, once the lease is over. A takeover leaves it; in one transaction with idem_checkpoint() it is registered once

Errors: ID001 not claimed by this transaction; ID003 completed already; ID005, ID006 invalid key or scope; ID007 deadline out of range; ID015 the handler is of another kind, temporary, or not the caller's to execute; 22004 handler is NULL; 25006 read-only transaction, standby or subscriber. With a token: ID002 this transaction has claimed the key without one; ID017 the token does not hold the key, or no longer; ID018 the scope is at another node, or not all of it has come from there; 55P03 another transaction held the key for longer than idem.claim_wait; 40001 and 40P01 as idem_claim().

Cost: nothing is written before idem_complete(), which writes one row with four index entries instead of one; under a lease an update of that row, and a flush.$$;

CREATE FUNCTION idem_confirm(key text, scope text DEFAULT '') RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_confirm(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_confirm(text, text) IS
$$Confirm what was done under a completed key: from here on idem_cancel() is refused, and the deadline is off. To repeat it changes nothing. The key is then remembered for 30 days at least.

Errors: ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID013 not completed, leased, or expired; ID014 cancelled; 55P03 another transaction held it for longer than idem.claim_wait; 25006 read-only transaction, standby or subscriber; 40001 and 40P01 as idem_claim().$$;

-- a type of its own, as idem_claim_result is
CREATE TYPE idem_cancel_result AS (status text, response jsonb);
REVOKE ALL ON TYPE idem_cancel_result FROM PUBLIC;
COMMENT ON TYPE idem_cancel_result IS 'What idem_cancel() answers.';

CREATE FUNCTION idem_cancel(
	key text, reason text DEFAULT NULL, scope text DEFAULT '', wait interval DEFAULT NULL)
RETURNS idem_cancel_result
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_cancel(text, text, text, interval) FROM PUBLIC;
COMMENT ON FUNCTION idem_cancel(text, text, text, interval) IS
$$Cancel a key, in this transaction: undo what was done under it, or see to it that it is never done.

reason  kept with the key, for people to read
wait    how long to wait for another transaction, or a lease, that holds the key: 0 asks at once, at most one hour, NULL means idem.claim_wait

status is
  compensated  the handlers ran now, the last registered first; response has their results
  already      they had; the same response
  tombstoned   no living record of this key, never completed or expired: any later claim answers "cancelled", for 30 days. It does not prove that nothing was done: look at the business row. A notice names other scopes that have the key
  refused      it is confirmed, or has no handler, or a handler met the state machine's refusal, which undid all that they did; response has the reason
  in_progress  another transaction or a lease holds the key and wait ran out
A key whose lease is over is compensated if it has handlers, otherwise tombstoned; the late owner's token then holds it no longer.
Any other error of a handler is this call's, and nothing is undone. A handler runs as the role that registered it: if that is who calls, plainly, otherwise security-restricted, and with search_path pg_catalog unless who calls has become that role by SET ROLE.

Errors: ID002 claimed by this very transaction; ID005, ID006 invalid key or scope; ID018 the scope is at another node, or not all of it has come from there; ID007 wait out of range; ID015 a handler is gone, or its role, or its privilege, or it is another owner's; 25006 read-only transaction, standby or subscriber; 40001 and 40P01 as idem_claim(); any of a handler.$$;

CREATE VIEW idem_compensations AS
SELECT p.scope, p.key, p.handlers, p.deadline,
       CASE WHEN EXISTS (SELECT FROM idem_scopes AS s
                         WHERE s.scope OPERATOR(pg_catalog.=) p.scope AND s.state OPERATOR(pg_catalog.<>) 'here'::pg_catalog.text)
            THEN 'away'::pg_catalog.text
            WHEN p.fate OPERATOR(pg_catalog.=) ANY ('{held,leased}'::pg_catalog.text[])
                 AND GREATEST(p.deadline, p.lease_ends_at) OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()
                 AND p.deadline IS NOT NULL
            THEN 'overdue'::pg_catalog.text
            WHEN p.fate OPERATOR(pg_catalog.=) 'leased'::pg_catalog.text AND p.answer IS NOT NULL
            THEN 'refused' ELSE p.fate END AS state
FROM idem_pinned AS p
WHERE p.handlers IS NOT NULL
  AND p.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp();
COMMENT ON VIEW idem_compensations IS
$$What can be cancelled, or could: keys with their handlers, as registered. state is "leased": not completed yet; "held"; "overdue": past its deadline and not under a lease, the next CALL idem_maintain() cancels it; "confirmed"; "compensated"; or "refused": at the deadline, by the state machine. "away": its scope is at another node, or not all of it has come from there.$$;

-- ---------------------------------------------------------------------------
-- Outbox: where messages are kept
-- ---------------------------------------------------------------------------

CREATE SEQUENCE idem_outbox_ids;
SELECT pg_catalog.pg_extension_config_dump('idem_outbox_ids', '');

-- Messages are only added. xid is that of the top-level transaction, era and
-- branch say which cluster, timeline and installation it is of (incarnation.c); by
-- slot the keys are spread over lanes (lane.c).
CREATE TABLE idem_outbox_0 (
	id pg_catalog.int8 NOT NULL,
	xid pg_catalog.xid8 NOT NULL,
	era pg_catalog.int8 NOT NULL,
	created_at pg_catalog.timestamptz NOT NULL,
	branch pg_catalog.int8 NOT NULL,
	slot pg_catalog.int4 NOT NULL,
	topic pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C",
	type pg_catalog.text COLLATE pg_catalog."C",
	payload pg_catalog.jsonb NOT NULL,
	headers pg_catalog.jsonb
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_outbox_1 (LIKE idem_outbox_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_outbox_2 (LIKE idem_outbox_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX idem_outbox_0_id ON idem_outbox_0 USING btree (id pg_catalog.int8_ops, slot pg_catalog.int4_ops);
CREATE INDEX idem_outbox_1_id ON idem_outbox_1 USING btree (id pg_catalog.int8_ops, slot pg_catalog.int4_ops);
CREATE INDEX idem_outbox_2_id ON idem_outbox_2 USING btree (id pg_catalog.int8_ops, slot pg_catalog.int4_ops);
CREATE INDEX idem_outbox_0_xid ON idem_outbox_0 USING btree (xid pg_catalog.xid8_ops, id pg_catalog.int8_ops);
CREATE INDEX idem_outbox_1_xid ON idem_outbox_1 USING btree (xid pg_catalog.xid8_ops, id pg_catalog.int8_ops);
CREATE INDEX idem_outbox_2_xid ON idem_outbox_2 USING btree (xid pg_catalog.xid8_ops, id pg_catalog.int8_ops);
CREATE TRIGGER idem_replicated BEFORE INSERT ON idem_outbox_0 FOR EACH ROW EXECUTE FUNCTION idem_replicated();
CREATE TRIGGER idem_replicated BEFORE INSERT ON idem_outbox_1 FOR EACH ROW EXECUTE FUNCTION idem_replicated();
CREATE TRIGGER idem_replicated BEFORE INSERT ON idem_outbox_2 FOR EACH ROW EXECUTE FUNCTION idem_replicated();
ALTER TABLE idem_outbox_0 ENABLE REPLICA TRIGGER idem_replicated;
ALTER TABLE idem_outbox_1 ENABLE REPLICA TRIGGER idem_replicated;
ALTER TABLE idem_outbox_2 ENABLE REPLICA TRIGGER idem_replicated;
ALTER TABLE idem_outbox_0 REPLICA IDENTITY FULL;
ALTER TABLE idem_outbox_1 REPLICA IDENTITY FULL;
ALTER TABLE idem_outbox_2 REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('idem_outbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('idem_outbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('idem_outbox_2', '');

CREATE VIEW idem_outbox AS
SELECT m.id, m.topic, m.key, m.type, m.payload, m.headers, m.created_at
FROM (SELECT * FROM idem_outbox_0
      UNION ALL SELECT * FROM idem_outbox_1
      UNION ALL SELECT * FROM idem_outbox_2) AS m;
COMMENT ON VIEW idem_outbox IS
$$Every message that is kept, and where to INSERT new ones: (topic, key, type, payload, headers), as with idem_publish(); RETURNING id works. Messages are neither updated nor deleted.$$;

CREATE FUNCTION idem_outbox_insert() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_outbox_insert() FROM PUBLIC;
COMMENT ON FUNCTION idem_outbox_insert() IS
$$Trigger that publishes what is inserted into idem_outbox.$$;
CREATE FUNCTION idem_outbox_refuse() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_outbox_refuse() FROM PUBLIC;
COMMENT ON FUNCTION idem_outbox_refuse() IS
$$Trigger that refuses to update or delete messages.$$;

CREATE TRIGGER idem_outbox_insert INSTEAD OF INSERT ON idem_outbox
FOR EACH ROW EXECUTE FUNCTION idem_outbox_insert();
-- for each statement, so that none is accepted because it met no row; the
-- server asks for those for each row as well
CREATE TRIGGER idem_outbox_refuse BEFORE UPDATE OR DELETE ON idem_outbox
FOR EACH STATEMENT EXECUTE FUNCTION idem_outbox_refuse();
CREATE TRIGGER idem_outbox_refuse_row INSTEAD OF UPDATE OR DELETE ON idem_outbox
FOR EACH ROW EXECUTE FUNCTION idem_outbox_refuse();

-- Where session_replication_role switches the trigger off, messages would be
-- lost without a word, and a view's triggers cannot be ENABLE ALWAYS.
CREATE FUNCTION idem_outbox_default() RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_outbox_default() FROM PUBLIC;
COMMENT ON FUNCTION idem_outbox_default() IS
$$Default of idem_outbox.id: NULL, or an error where the view's triggers do not run.

Errors: 55000 session_replication_role is replica.$$;
ALTER VIEW idem_outbox ALTER COLUMN id SET DEFAULT idem_outbox_default();

-- ---------------------------------------------------------------------------
-- Outbox: what applications call
-- ---------------------------------------------------------------------------

CREATE FUNCTION idem_publish(
	topic text, payload jsonb, key text DEFAULT NULL, type text DEFAULT NULL, headers jsonb DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_publish(text, jsonb, text, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION idem_publish(text, jsonb, text, text, jsonb) IS
$$Publish a message in this transaction: it is delivered to every consumer of the topic if and only if the transaction commits. Returns its id. INSERT INTO idem_outbox is the same.

topic    1 to 255 bytes
payload  any JSON
key      what the message is about: messages of one key are delivered in the order in which their publishers held a common lock, of a row or of an idempotency key
type     what happened
headers  a JSON object

To a topic that a machine guards: see idem_guard_topic().

Errors: ID011 invalid topic; 22004 payload is NULL; 22023 headers are no object; 25006 read-only transaction, standby or subscriber. To a guarded topic also: ID011 invalid key; ID012 the machine does not allow it; 22004 key or type is NULL; 40001 above READ COMMITTED, when the key's state changed after the transaction's snapshot; 40P01 deadlock, when transactions publish for several keys in different orders; 55P03 lock_timeout.

Cost: one row and two index entries. To a guarded topic, also one lock and one row that is updated.$$;

-- ---------------------------------------------------------------------------
-- Consumers: who they are and how far
-- ---------------------------------------------------------------------------

CREATE TABLE idem_subscriptions (
	consumer pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	id pg_catalog.int4 NOT NULL,        -- by which its lanes are locked
	topics pg_catalog.text[],           -- NULL: all
	lanes pg_catalog.int4 NOT NULL,
	external pg_catalog.bool NOT NULL,
	since pg_catalog.timestamptz NOT NULL
) USING heap;
CREATE UNIQUE INDEX idem_subscriptions_consumer ON idem_subscriptions USING btree (consumer pg_catalog.text_ops);
ALTER TABLE idem_subscriptions REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('idem_subscriptions', '');

-- Rows are only added; the one with the highest n is where the lane is
-- (latest.c). It has had all that low sees; and, while it goes through the
-- window from low to high, what high sees up to last_id (position.h). Without
-- low: unsubscribed.
CREATE TABLE idem_positions_0 (
	consumer pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	lane pg_catalog.int8 NOT NULL,
	n pg_catalog.int8 NOT NULL,
	low_era pg_catalog.int8,
	low_floor pg_catalog.int8,
	low_from pg_catalog.xid8,
	low_to pg_catalog.xid8,
	low_running pg_catalog.xid8[],
	high_era pg_catalog.int8,
	high_floor pg_catalog.int8,
	high_from pg_catalog.xid8,
	high_to pg_catalog.xid8,
	high_running pg_catalog.xid8[],
	last_id pg_catalog.int8,
	-- of external consumers: the last seq that was acked and where it counts;
	-- how many lanes there were as the window, or the message that is to be
	-- delivered again, was fixed
	seq pg_catalog.int8,
	seq_era pg_catalog.int8,
	seq_branch pg_catalog.int8,
	seq_numbering pg_catalog.int8,
	window_lanes pg_catalog.int4,
	redriven_id pg_catalog.int8
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_positions_1 (LIKE idem_positions_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_positions_2 (LIKE idem_positions_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX idem_positions_0_n ON idem_positions_0 USING btree (consumer pg_catalog.text_ops, lane pg_catalog.int8_ops, n pg_catalog.int8_ops);
CREATE INDEX idem_positions_1_n ON idem_positions_1 USING btree (consumer pg_catalog.text_ops, lane pg_catalog.int8_ops, n pg_catalog.int8_ops);
CREATE INDEX idem_positions_2_n ON idem_positions_2 USING btree (consumer pg_catalog.text_ops, lane pg_catalog.int8_ops, n pg_catalog.int8_ops);
CREATE TRIGGER idem_replicated BEFORE INSERT ON idem_positions_0 FOR EACH ROW EXECUTE FUNCTION idem_replicated();
CREATE TRIGGER idem_replicated BEFORE INSERT ON idem_positions_1 FOR EACH ROW EXECUTE FUNCTION idem_replicated();
CREATE TRIGGER idem_replicated BEFORE INSERT ON idem_positions_2 FOR EACH ROW EXECUTE FUNCTION idem_replicated();
ALTER TABLE idem_positions_0 ENABLE REPLICA TRIGGER idem_replicated;
ALTER TABLE idem_positions_1 ENABLE REPLICA TRIGGER idem_replicated;
ALTER TABLE idem_positions_2 ENABLE REPLICA TRIGGER idem_replicated;
ALTER TABLE idem_positions_0 REPLICA IDENTITY FULL;
ALTER TABLE idem_positions_1 REPLICA IDENTITY FULL;
ALTER TABLE idem_positions_2 REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('idem_positions_0', '');
SELECT pg_catalog.pg_extension_config_dump('idem_positions_1', '');
SELECT pg_catalog.pg_extension_config_dump('idem_positions_2', '');

-- ---------------------------------------------------------------------------
-- Consumers: messages that fail
-- ---------------------------------------------------------------------------

-- Copies, so that the outbox need not keep them (parked.c). state is
--   retry      to be delivered again when it is due; of its key the first
--   waiting    behind one of its key that is to be retried
--   dead       given up; redriven by idem_redrive()
-- and of external consumers, whose lane stops at what is to be retried:
--   tombstone  given up, but its seq is not yet delivered
--   redriven   to be delivered again, with a new seq
CREATE TABLE idem_parked (
	consumer pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	slot pg_catalog.int4 NOT NULL,
	id pg_catalog.int8 NOT NULL,
	state pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	attempts pg_catalog.int4 NOT NULL,
	due_at pg_catalog.timestamptz,      -- of retry and redriven
	failed_at pg_catalog.timestamptz,
	error pg_catalog.text,
	era pg_catalog.int8 NOT NULL,
	created_at pg_catalog.timestamptz NOT NULL,
	branch pg_catalog.int8 NOT NULL,
	topic pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C",
	type pg_catalog.text COLLATE pg_catalog."C",
	payload pg_catalog.jsonb NOT NULL,
	headers pg_catalog.jsonb
) USING heap;
CREATE INDEX idem_parked_id ON idem_parked USING btree (consumer pg_catalog.text_ops, slot pg_catalog.int4_ops, id pg_catalog.int8_ops);
CREATE INDEX idem_parked_due ON idem_parked USING btree (consumer pg_catalog.text_ops, due_at pg_catalog.timestamptz_ops);
ALTER TABLE idem_parked REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('idem_parked', '');

-- Attempt marks: batches whose client's connection ended before the
-- transaction did (attempt.c). Not dumped: they speak of what goes on.
CREATE TABLE idem_attempts (
	consumer pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	lane pg_catalog.int8 NOT NULL,
	batch pg_catalog.int8 NOT NULL,
	messages pg_catalog.int4 NOT NULL,
	id pg_catalog.int8 NOT NULL,        -- of the first
	client pg_catalog.text COLLATE pg_catalog."C" NOT NULL, -- its idem.client
	failed_at pg_catalog.timestamptz NOT NULL
) USING heap;
CREATE INDEX idem_attempts_batch ON idem_attempts USING btree (consumer pg_catalog.text_ops, lane pg_catalog.int8_ops, batch pg_catalog.int8_ops);
ALTER TABLE idem_attempts REPLICA IDENTITY FULL;

-- ---------------------------------------------------------------------------
-- Consumers: what they call
-- ---------------------------------------------------------------------------

CREATE FUNCTION idem_subscribe(
	consumer text, topics text[] DEFAULT NULL, lanes integer DEFAULT 1,
	start text DEFAULT 'now', external boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_subscribe(text, text[], integer, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION idem_subscribe(text, text[], integer, text, boolean) IS
$$Make a consumer known. From then on messages are kept for it until it has had them. To repeat it changes nothing, also not where the consumer is.

consumer  1 to 255 bytes
topics    which it wants; NULL means all
lanes     1 to 256: so many transactions can have a batch of it at a time. A key is always in one lane. A repeat with more adds them, while it works; it then waits for transactions that have a batch
start     "now": what is not committed yet; "earliest": all that is kept
external  its work is outside this database, see idem_fetch()

Errors: ID008 it adds lanes and this transaction has a batch; ID011 invalid consumer or topic; 22004 external is NULL; 22023 no topics, lanes out of range, unknown start; 42710 it exists with other topics, or not external; 55P03 lock_timeout; 40P01 deadlock with a transaction that has a batch; 25006 read-only transaction, standby or subscriber.$$;

CREATE TYPE idem_message AS (
	batch bigint, seq bigint, id bigint, topic text, key text, type text,
	payload jsonb, headers jsonb, created_at timestamptz, attempt integer,
	lane bigint, source text, message_id text);
REVOKE ALL ON TYPE idem_message FROM PUBLIC;
COMMENT ON TYPE idem_message IS 'What idem_fetch() returns.';

CREATE FUNCTION idem_fetch(
	consumer text, max_messages integer DEFAULT 100, wait interval DEFAULT '0', lane bigint DEFAULT NULL)
RETURNS SETOF idem_message
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_fetch(text, integer, interval, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_fetch(text, integer, interval, bigint) IS
$$Fetch a consumer's next messages, ordered by id: BEGIN; fetch; the work; idem_ack(consumer, batch); COMMIT. Each message is worked upon exactly once: without the COMMIT it is delivered again.

max_messages  1 to 100000; a batch can be smaller though there are more
wait          how long to wait for a message: 0 asks at once, at most one minute
lane          that one, from 0; NULL: any that is free and has messages

No row: there is nothing, or other transactions have a batch of each lane; then there is nothing to ack, but COMMIT, for how far it looked may be noted. batch and lane are the same in all rows. attempt is 1, and one more for each time the message was nacked, or its client's connection ended.
The messages are ones that this statement can see the work of, so it may join them with tables. With a wait it must be a statement of its own: join in the next one. A COMMIT or PREPARE TRANSACTION that finds the batch not acked fails with ID008.

When a client's connection ends while it has a batch, not by command, the messages of that batch are delivered one by one; one that this befalls alone is parked, as if it had been nacked. Of clients that set idem.client, those that come back under the same name do not count.

An external consumer hands its messages on, to a broker say. A fetch that finds some new ones only fixes which they are, and returns no row, at once: COMMIT, and fetch again. seq numbers the deliveries of a lane 1, 2, 3 and so on, and a message that is delivered again has the same seq, as long as source is the same: what is behind the @ changes when the database is restored, a standby promoted, or the consumer set to another place, and seq begins with 1 again. message_id is the message's own, for ever. The receiver calls idem_consume_seq(source, lane, seq) and, if that is the "first", idem_consume(consumer, message_id). A row whose payload is NULL is a tombstone: it stands for a message that was given up, and takes its seq.
For internal consumers seq, source and message_id are NULL.

Errors: ID007 wait out of range; ID008 this transaction has a batch of the consumer that is not acked; ID011 invalid consumer; 42704 no such consumer; 22023 max_messages out of range, no such lane; 55000 wait above READ COMMITTED; 40001 above READ COMMITTED, when the consumer went on after the transaction's snapshot; 25006 read-only transaction, standby or subscriber; 0A000 wait in a statement that uses tables.

Cost: that of the messages it returns, of those of other topics among them, and an index entry for each of other lanes. A wait polls every 1 to 32 ms, and holds the statement's snapshot.$$;

CREATE FUNCTION idem_ack(consumer text, batch bigint) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_ack(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_ack(text, bigint) IS
$$Take a batch for done, if this transaction commits; but for messages of it that were nacked, and those that wait with them. The next fetch goes on after it, also in this transaction, unless the consumer is external.

Errors: ID009 not fetched by this transaction; ID010 acked already; ID011 invalid consumer; 22004 batch is NULL; 25006 read-only transaction, standby or subscriber.

Cost: one row and one index entry.$$;

CREATE FUNCTION idem_nack(consumer text, batch bigint, id bigint, error text, retry_in interval DEFAULT NULL)
RETURNS bigint[]
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_nack(text, bigint, bigint, text, interval) FROM PUBLIC;
COMMENT ON FUNCTION idem_nack(text, bigint, bigint, text, interval) IS
$$Park a message of a batch that could not be worked upon: it is delivered again later, and later ones of its key wait until then. All others go on. If its work has failed the transaction, roll back, fetch again, and nack then.

Returns the ids of those in this batch that must wait with it: work on the others, and ack.

id        of a message of the batch
error     what went wrong, kept for people to read
retry_in  when to deliver it again: at most ten years; NULL means 1 s, 2 s, 4 s and so on up to an hour

The attempt that is number idem.max_attempts is the last one: the message becomes a dead letter, see idem_dead_letters, and its key goes on.
An external consumer's lane stops at the message until it is due: all later ones of the batch are returned. At the last attempt a tombstone takes its place.

Errors: ID007 retry_in out of range; ID009 batch not fetched by this transaction; ID010 acked already; ID011 invalid consumer; ID016 the message is not in the batch, or nacked already; 22004 another argument is NULL; 25006 read-only transaction, standby or subscriber.

Cost: one row for each message that is parked, a look-up for each that may have the same key.$$;

CREATE FUNCTION idem_redrive(consumer text, id bigint) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_redrive(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_redrive(text, bigint) IS
$$Deliver a dead letter again, as if it had never failed; by an external consumer with a new seq. What came after it has been delivered meanwhile.

Errors: ID011 invalid consumer; 22004 id is NULL; 42704 no such consumer, or the message is no dead letter of it; 25006 read-only transaction, standby or subscriber.

Cost: reads what the consumer has parked.$$;

CREATE FUNCTION idem_seek(consumer text, since timestamptz) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_seek(text, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION idem_seek(text, timestamptz) IS
$$Set a consumer back, or forward, to the messages published since then. Back: messages that it has had are delivered and worked upon again; by an external consumer under another source. Forward: those before are never delivered, except those whose transaction is still open, or which are parked: they come in either case. Waits for transactions that have a batch of it.

Errors: ID008 this transaction has a batch of it; ID011 invalid consumer; 42704 no such consumer; 22004 since is NULL; 22023 older messages are no longer kept; 55P03 lock_timeout; 40P01 deadlock with a transaction that has a batch; 25006 read-only transaction, standby or subscriber.

Cost: reads the messages kept from before.$$;

CREATE FUNCTION idem_unsubscribe(consumer text) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_unsubscribe(text) FROM PUBLIC;
COMMENT ON FUNCTION idem_unsubscribe(text) IS
$$Forget a consumer, and where it is: what it has not had it never gets. Messages are no longer kept for it; its dead letters are. Waits for transactions that have a batch of it.

Errors: ID008 this transaction has a batch of it; ID011 invalid consumer; 42704 no such consumer; 55P03 lock_timeout; 40P01 deadlock with a transaction that has a batch; 25006 read-only transaction, standby or subscriber.$$;

-- ---------------------------------------------------------------------------
-- Consumers: what DBAs read
-- ---------------------------------------------------------------------------

CREATE FUNCTION idem_incarnation() RETURNS text
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_incarnation() FROM PUBLIC;
COMMENT ON FUNCTION idem_incarnation() IS
$$Which life of the database this is: system identifier, timeline, and a number for this installation of the extension in this database, with points between. Ids of messages and numbers of deliveries are unique within one: a restored or promoted database may give out some again.

Errors: 25006 standby or subscriber.$$;

CREATE VIEW idem_dead_letters AS
SELECT p.consumer, p.id, p.topic, p.key, p.type, p.payload, p.headers, p.created_at, p.attempts, p.error, p.failed_at
FROM idem_parked AS p
WHERE p.state OPERATOR(pg_catalog.=) 'dead'::pg_catalog.text;
COMMENT ON VIEW idem_dead_letters IS
$$Messages that consumers have given up, and why. idem_redrive(consumer, id) has one delivered again; DELETE forgets it.$$;

CREATE FUNCTION idem_pending(
	consumer text, OUT lane bigint, OUT depth bigint, OUT oldest timestamptz, OUT parked bigint, OUT dead bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_pending(text) FROM PUBLIC;
COMMENT ON FUNCTION idem_pending(text) IS
$$For idem_consumers: how many messages each lane has yet to get, when the oldest was published, and how many of its messages are parked and dead.$$;

CREATE FUNCTION idem_is_past(consumer text, era bigint, xid xid8, slot integer, id bigint) RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_is_past(text, bigint, xid8, integer, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_is_past(text, bigint, xid8, integer, bigint) IS
$$For idem_delivered(): is the consumer past this message?$$;

CREATE VIEW idem_consumers AS
SELECT s.consumer, p.lane, p.depth,
       pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.oldest AS oldest_age,
       (SELECT l.pid FROM pg_catalog.pg_locks AS l
        WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text
          AND l.objsubid OPERATOR(pg_catalog.=) 7343::pg_catalog.int2
          AND l.classid::pg_catalog.int8 OPERATOR(pg_catalog.=) s.id::pg_catalog.int8
          AND l.objid::pg_catalog.int8 OPERATOR(pg_catalog.=) p.lane
          AND l.database OPERATOR(pg_catalog.=)
              (SELECT d.oid FROM pg_catalog.pg_database AS d
               WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
          AND l.granted) AS held_by,
       p.parked, p.dead
FROM idem_subscriptions AS s, LATERAL idem_pending(s.consumer) AS p;
COMMENT ON VIEW idem_consumers IS
$$How far each lane of each consumer is: how many messages it has yet to get, since when the oldest waits, which process has a batch of it, how many messages are parked, because they or one of their key before them failed, and how many are dead letters. Messages are kept for it as long as it is here: a consumer that is no more goes with idem_unsubscribe(). Counts the messages: cheap while it keeps up.$$;

CREATE FUNCTION idem_delivered(id bigint, OUT consumer text, OUT state text)
RETURNS SETOF record LANGUAGE SQL VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT s.consumer,
	       CASE WHEN idem_is_past(s.consumer, m.era, m.xid, m.slot, m.id)
	            THEN 'delivered'::pg_catalog.text ELSE 'pending'::pg_catalog.text END
	FROM (SELECT * FROM idem_outbox_0
	      UNION ALL SELECT * FROM idem_outbox_1
	      UNION ALL SELECT * FROM idem_outbox_2) AS m, idem_subscriptions AS s
	WHERE m.id OPERATOR(pg_catalog.=) $1
	  AND (s.topics IS NULL OR m.topic OPERATOR(pg_catalog.=) ANY (s.topics))
	  AND (m.created_at OPERATOR(pg_catalog.>=) s.since OR NOT idem_is_past(s.consumer, m.era, m.xid, m.slot, m.id))
	  AND NOT EXISTS (SELECT FROM idem_parked AS p
	                  WHERE p.consumer OPERATOR(pg_catalog.=) s.consumer AND p.id OPERATOR(pg_catalog.=) $1)
	UNION ALL
	SELECT p.consumer,
	       CASE WHEN pg_catalog.bool_and(p.state OPERATOR(pg_catalog.=) ANY ('{dead,tombstone}'::pg_catalog.text[]))
	            THEN 'dead' ELSE 'parked' END
	FROM idem_parked AS p
	WHERE p.id OPERATOR(pg_catalog.=) $1
	GROUP BY p.consumer
	ORDER BY 1 USING OPERATOR(pg_catalog.<);
END;
REVOKE ALL ON FUNCTION idem_delivered(bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_delivered(bigint) IS
$$Was this message delivered? One row for each consumer that it is for: "pending", "delivered", "parked" (it is tried again later, or waits for one of its key that is) or "dead" (a dead letter). No row: it is for none, or no longer kept, or not committed. A message that idem_seek() passed over counts as delivered.$$;

-- ---------------------------------------------------------------------------
-- Inbox
-- ---------------------------------------------------------------------------

CREATE TABLE idem_inbox_0 (
	digest pg_catalog.int8 NOT NULL,
	expires_at pg_catalog.timestamptz NOT NULL,
	source pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	message_id pg_catalog.text COLLATE pg_catalog."C" NOT NULL
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_inbox_1 (LIKE idem_inbox_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_inbox_2 (LIKE idem_inbox_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX idem_inbox_0_digest ON idem_inbox_0 USING btree (digest pg_catalog.int8_ops) WITH (deduplicate_items = off);
CREATE INDEX idem_inbox_1_digest ON idem_inbox_1 USING btree (digest pg_catalog.int8_ops) WITH (deduplicate_items = off);
CREATE INDEX idem_inbox_2_digest ON idem_inbox_2 USING btree (digest pg_catalog.int8_ops) WITH (deduplicate_items = off);
ALTER TABLE idem_inbox_0 REPLICA IDENTITY FULL;
ALTER TABLE idem_inbox_1 REPLICA IDENTITY FULL;
ALTER TABLE idem_inbox_2 REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('idem_inbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('idem_inbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('idem_inbox_2', '');

-- rows are only added; the highest seq of a lane counts (latest.c)
CREATE TABLE idem_watermarks_0 (
	source pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	lane pg_catalog.int8 NOT NULL,
	seq pg_catalog.int8 NOT NULL
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_watermarks_1 (LIKE idem_watermarks_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE idem_watermarks_2 (LIKE idem_watermarks_0) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX idem_watermarks_0_seq ON idem_watermarks_0 USING btree (source pg_catalog.text_ops, lane pg_catalog.int8_ops, seq pg_catalog.int8_ops);
CREATE INDEX idem_watermarks_1_seq ON idem_watermarks_1 USING btree (source pg_catalog.text_ops, lane pg_catalog.int8_ops, seq pg_catalog.int8_ops);
CREATE INDEX idem_watermarks_2_seq ON idem_watermarks_2 USING btree (source pg_catalog.text_ops, lane pg_catalog.int8_ops, seq pg_catalog.int8_ops);
ALTER TABLE idem_watermarks_0 REPLICA IDENTITY FULL;
ALTER TABLE idem_watermarks_1 REPLICA IDENTITY FULL;
ALTER TABLE idem_watermarks_2 REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('idem_watermarks_0', '');
SELECT pg_catalog.pg_extension_config_dump('idem_watermarks_1', '');
SELECT pg_catalog.pg_extension_config_dump('idem_watermarks_2', '');

CREATE FUNCTION idem_consume(source text, message_id text) RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_consume(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_consume(text, text) IS
$$Take note of a message from elsewhere, in the transaction that does its work: true the first time, false if it has been consumed before. If another transaction is about to consume it, waits for its end. A message is remembered for idem.inbox_retention.

source      1 to 255 bytes; where its id is unique
message_id  1 to 255 bytes

Errors: ID011 invalid source or message_id; 55P03 lock_timeout; 25006 read-only transaction, standby or subscriber; 40001 above READ COMMITTED, when it was consumed after the transaction's snapshot; 40P01 deadlock, when transactions consume several messages in different orders.

Cost: one lock, one index probe for each generation of the ring, one row.$$;

CREATE FUNCTION idem_consume_seq(source text, lane bigint, seq bigint) RETURNS text
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_consume_seq(text, bigint, bigint) FROM PUBLIC;
COMMENT ON FUNCTION idem_consume_seq(text, bigint, bigint) IS
$$Take note of a message from a source that numbers the deliveries of each lane 1, 2, 3 and so on. Only the last number is kept, for ever. Other transactions of the lane wait until this one ends.

  first      the next one: do its work, in this transaction
  duplicate  it has been consumed before
  gap        messages before it have not come yet: do nothing, and let the source deliver again from the first that is missing; nothing was noted

A new source or lane begins with 1, so that nothing can be missed at the start.

Errors: ID011 invalid source; 22004 NULL; 22023 seq below 1; 55P03 lock_timeout; 25006 read-only transaction, standby or subscriber; 40001 above READ COMMITTED, when the lane went on after the transaction's snapshot; 40P01 deadlock, when transactions go on in several lanes in different orders.

Cost: one lock, one index probe for each generation of the ring, one row; nothing grows with the number of messages, as long as CALL idem_maintain() runs.$$;

-- ---------------------------------------------------------------------------
-- State machines: the rules
-- ---------------------------------------------------------------------------

-- DBAs edit it. Sessions keep its rules in memory (machine.c), until the
-- trigger tells them of a change. Rules that idem ships are disabled, not
-- deleted; a dump carries those that were. They are not in the index: a restore
-- without triggers puts them beside those that the extension came with, and
-- then disabled counts.
CREATE TABLE idem_transitions (
	machine pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	from_state pg_catalog.text COLLATE pg_catalog."C",  -- NULL: it may begin with to_state
	to_state pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	enabled pg_catalog.bool NOT NULL DEFAULT true,
	shipped pg_catalog.bool NOT NULL DEFAULT false
) USING heap;
CREATE UNIQUE INDEX idem_transitions_rule ON idem_transitions USING btree
	(machine pg_catalog.text_ops, from_state pg_catalog.text_ops, to_state pg_catalog.text_ops) NULLS NOT DISTINCT
	WHERE NOT shipped;
ALTER TABLE idem_transitions REPLICA IDENTITY FULL;
INSERT INTO idem_transitions (machine, from_state, to_state, shipped) VALUES
	('order', NULL, 'created', true),
	('order', 'created', 'paid', true),
	('order', 'paid', 'completed', true),
	('order', 'created', 'cancelled', true);
SELECT pg_catalog.pg_extension_config_dump('idem_transitions', 'WHERE NOT shipped OR NOT enabled');

CREATE FUNCTION idem_transition_check() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_transition_check() FROM PUBLIC;
COMMENT ON FUNCTION idem_transition_check() IS
$$Trigger that refuses malformed rules, and to delete or change those that idem ships; they can be disabled.

Errors: ID011 invalid machine or state; 22023 a rule from a state to itself; 23505 idem ships it; 55000 a rule that idem ships is deleted, changed or made up, TRUNCATE.$$;
CREATE FUNCTION idem_transition_strands() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_transition_strands() FROM PUBLIC;
COMMENT ON FUNCTION idem_transition_strands() IS
$$Trigger that refuses to take away the last rule out of a state, or the last that names it, while rows are in it; unless idem.strand_rows is on.

Errors: 55000 rows would be stranded.

Cost: reads the attached tables.$$;
CREATE TRIGGER idem_transition_check BEFORE INSERT OR UPDATE OR DELETE ON idem_transitions
FOR EACH ROW EXECUTE FUNCTION idem_transition_check();
CREATE TRIGGER idem_transition_truncate BEFORE TRUNCATE ON idem_transitions
FOR EACH STATEMENT EXECUTE FUNCTION idem_transition_check();
CREATE TRIGGER idem_transition_strands AFTER UPDATE OR DELETE ON idem_transitions
FOR EACH ROW EXECUTE FUNCTION idem_transition_strands();
-- for each row and always, so that rows that replication brings count too
CREATE TRIGGER idem_transitions_changed AFTER INSERT OR UPDATE OR DELETE ON idem_transitions
FOR EACH ROW EXECUTE FUNCTION idem_table_changed();
ALTER TABLE idem_transitions ENABLE ALWAYS TRIGGER idem_transitions_changed;

CREATE FUNCTION idem_next_states(machine text, state text) RETURNS SETOF text
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_next_states(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_next_states(text, text) IS
$$The states that may follow this one, in order of their bytes; none after a final one. For a state that is NULL: those that the machine begins with.

Errors: ID011 invalid machine; 22023 the machine has no such state; 42704 no such machine.$$;

CREATE FUNCTION idem_machine_dot(machine text) RETURNS text
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_machine_dot(text) FROM PUBLIC;
COMMENT ON FUNCTION idem_machine_dot(text) IS
$$A machine as Graphviz text, to be drawn by dot -Tsvg: it begins at the point, final states have two rims, disabled rules are dashed.

Errors: ID011 invalid machine; 42704 no such machine.$$;

-- ---------------------------------------------------------------------------
-- State machines: users' own tables
-- ---------------------------------------------------------------------------

CREATE FUNCTION idem_guard() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION idem_guard() FROM PUBLIC;
COMMENT ON FUNCTION idem_guard() IS
$$Trigger on an attached table, made by idem_attach(): a row begins in one of the machine's first states and goes from state to state by its rules, whoever writes it. To set the state it has already is always allowed. NULL is no state.

Errors: ID012 the machine does not allow it; 42703 the state column is gone; 42704 the machine is; 42804 its type was changed; 55000 the primary key is gone, and there is a topic; those of idem_publish().

Cost: a look-up among the rules in memory; with a topic, a message a transition.$$;

CREATE FUNCTION idem_attach(
	tbl regclass, state_column name, machine text, topic text DEFAULT NULL, columns name[] DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_attach(regclass, name, text, text, name[]) FROM PUBLIC;
COMMENT ON FUNCTION idem_attach(regclass, name, text, text, name[]) IS
$$Have a machine guard a table, by a trigger called idem_guard. To repeat it changes nothing.

tbl           an ordinary or partitioned table
state_column  of type text, varchar, name, an enum or a domain over one of them
machine       of idem_transitions
topic         each transition publishes there: key is the primary key (of several columns: a JSON array of their texts), type the new state, payload the row. NULL: none
columns       what the payload has of the row; NULL: all

Errors: ID011 invalid machine or topic; 22004 another argument is NULL; 22023 columns without a topic; 23514 rows are in states that the machine does not have; 25006 read-only transaction, standby or subscriber; 42501 the caller may not create triggers on it; 42703 no such column; 42704 no such machine; 42710 attached already, otherwise; 42804 the column's type; 42809 no table; 55000 no primary key, with a topic.

Cost: reads the table, and holds up writers meanwhile.$$;

CREATE FUNCTION idem_detach(tbl regclass) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_detach(regclass) FROM PUBLIC;
COMMENT ON FUNCTION idem_detach(regclass) IS
$$No longer have a machine guard the table: drops the trigger.

Errors: 22004 tbl is NULL; 25006 read-only transaction, standby or subscriber; 42501 the caller does not own the table; 42704 it is not attached; 42809 no table.$$;

CREATE FUNCTION idem_guards(
	OUT tbl regclass, OUT state_column text, OUT machine text, OUT topic text,
	OUT enabled boolean, OUT stray_rows bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_guards() FROM PUBLIC;
COMMENT ON FUNCTION idem_guards() IS
$$Every table that a machine guards, whether its trigger is on, and how many of its rows are in a state that the machine does not have; then each of its partitions, without that count.

Cost: reads the tables.$$;

-- ---------------------------------------------------------------------------
-- State machines: topics
-- ---------------------------------------------------------------------------

CREATE TABLE idem_guarded_topics (
	topic pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	machine pg_catalog.text COLLATE pg_catalog."C" NOT NULL
) USING heap;
CREATE UNIQUE INDEX idem_guarded_topics_topic ON idem_guarded_topics USING btree (topic pg_catalog.text_ops);
ALTER TABLE idem_guarded_topics REPLICA IDENTITY FULL;
CREATE TRIGGER idem_guarded_topics_changed AFTER INSERT OR UPDATE OR DELETE ON idem_guarded_topics
FOR EACH ROW EXECUTE FUNCTION idem_table_changed();
ALTER TABLE idem_guarded_topics ENABLE ALWAYS TRIGGER idem_guarded_topics_changed;
SELECT pg_catalog.pg_extension_config_dump('idem_guarded_topics', '');

-- Where each key of a guarded topic is: since when, and by which message. It
-- leaves room in its pages, so that a new state needs no index entry.
CREATE TABLE idem_outbox_states (
	topic pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	state pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	id pg_catalog.int8 NOT NULL,
	since pg_catalog.timestamptz NOT NULL
) USING heap WITH (fillfactor = 70);
CREATE UNIQUE INDEX idem_outbox_states_key ON idem_outbox_states USING btree (topic pg_catalog.text_ops, key pg_catalog.text_ops);
ALTER TABLE idem_outbox_states REPLICA IDENTITY USING INDEX idem_outbox_states_key;
SELECT pg_catalog.pg_extension_config_dump('idem_outbox_states', '');

CREATE FUNCTION idem_guard_topic(topic text, machine text) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_guard_topic(text, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_guard_topic(text, text) IS
$$Have a machine guard a topic of the outbox: a message's type is the state that its key is in from then on. A message that skips or reverses a step is refused; one of the state that the key is in already is not stored, and answered with the id of the first. Publishers of one key wait for each other. The states that keys are in now are taken from the messages that are kept. To repeat it changes nothing.

States are in idem_outbox_states; those that are final go when idem.outbox_retention is over.

Errors: ID011 invalid topic or machine; 23514 messages that are kept are of no state of the machine; 25006 read-only transaction, standby or subscriber; 42704 no such machine; 42710 another machine guards it.

Cost: waits for those who have published and not committed, and holds up all who publish until it commits; reads all messages.$$;

CREATE FUNCTION idem_unguard_topic(topic text) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_unguard_topic(text) FROM PUBLIC;
COMMENT ON FUNCTION idem_unguard_topic(text) IS
$$No longer have a machine guard the topic, and forget the states of its keys. Waits for those who have published and not committed.

Errors: ID011 invalid topic; 25006 read-only transaction, standby or subscriber; 42704 no machine guards it.$$;

-- ---------------------------------------------------------------------------
-- Operations
-- ---------------------------------------------------------------------------

CREATE VIEW idem_stores AS
WITH ring AS (
	SELECT DISTINCT ON (store) * FROM idem_ring
	ORDER BY store USING OPERATOR(pg_catalog.<), step USING OPERATOR(pg_catalog.>)
), generation AS (
	SELECT r.store, g.generation, t.relid, g.generation OPERATOR(pg_catalog.=) r.current::pg_catalog.int4 AS is_current,
	       (r.ends_at)[g.generation OPERATOR(pg_catalog.+) 1] AS ends_at,
	       r.opened_at OPERATOR(pg_catalog.+)
	           pg_catalog.make_interval(secs => (r.ttl)[g.generation OPERATOR(pg_catalog.+) 1]) AS advance_at,
	       pg_catalog.pg_relation_size(t.relid) OPERATOR(pg_catalog.=) 0::pg_catalog.int8 AS is_empty
	FROM ring AS r,
	     pg_catalog.generate_series(0, 2) AS g (generation),
	     LATERAL (SELECT c.oid::pg_catalog.regclass AS relid FROM pg_catalog.pg_class AS c
	              WHERE c.relname OPERATOR(pg_catalog.=) pg_catalog.concat('idem_', r.store, '_', g.generation)::pg_catalog.name
	                AND c.relnamespace OPERATOR(pg_catalog.=)
	                    (SELECT p.relnamespace FROM pg_catalog.pg_class AS p
	                     WHERE p.oid OPERATOR(pg_catalog.=) 'idem_pinned'::pg_catalog.regclass::pg_catalog.oid)) AS t
)
SELECT g.store, g.generation,
       pg_catalog.pg_stat_get_live_tuples(g.relid) AS rows,
       pg_catalog.pg_total_relation_size(g.relid) AS bytes,
       CASE WHEN g.is_current THEN g.advance_at
            WHEN pg_catalog.isfinite(g.ends_at) THEN g.ends_at
       END AS next_rotation,
       CASE WHEN NOT g.is_current AND NOT g.is_empty
                 AND g.ends_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()
            THEN (SELECT pg_catalog.array_agg(DISTINCT l.pid) FROM pg_catalog.pg_locks AS l
                  WHERE l.granted AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
                    AND l.database OPERATOR(pg_catalog.=)
                        (SELECT d.oid FROM pg_catalog.pg_database AS d
                         WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
                    AND l.relation OPERATOR(pg_catalog.=) ANY (ARRAY( -- what TRUNCATE locks
                        SELECT g.relid::pg_catalog.oid
                        UNION ALL SELECT c.reltoastrelid FROM pg_catalog.pg_class AS c
                        WHERE c.oid OPERATOR(pg_catalog.=) g.relid::pg_catalog.oid
                        UNION ALL SELECT i.indexrelid FROM pg_catalog.pg_index AS i
                        WHERE i.indrelid OPERATOR(pg_catalog.=) g.relid::pg_catalog.oid)))
       END AS blocked_by
FROM generation AS g
UNION ALL
SELECT 'pinned'::pg_catalog.text, NULL,
       pg_catalog.pg_stat_get_live_tuples('idem_pinned'::pg_catalog.regclass),
       pg_catalog.pg_total_relation_size('idem_pinned'::pg_catalog.regclass), NULL, NULL
UNION ALL
SELECT 'parked'::pg_catalog.text, NULL,
       pg_catalog.pg_stat_get_live_tuples('idem_parked'::pg_catalog.regclass),
       pg_catalog.pg_total_relation_size('idem_parked'::pg_catalog.regclass), NULL, NULL;
COMMENT ON VIEW idem_stores IS
$$What takes space, and when it is freed: each generation of the ring with its rows (an estimate), its bytes, when the ring next turns there (for the current one: when another takes over; for an older one: when all its rows have expired), and which processes hold up an overdue one.$$;

CREATE FUNCTION idem_counters(
	OUT claims bigint, OUT replays bigint, OUT mismatches bigint, OUT in_progress bigint, OUT cancelled bigint,
	OUT waits bigint, OUT takeovers bigint, OUT refused_transitions bigint, OUT cancellations bigint,
	OUT published bigint, OUT fetched bigint, OUT nacks bigint, OUT dead_letters bigint,
	OUT consumed bigint, OUT duplicates bigint,
	OUT maintained_at timestamptz, OUT since timestamptz, OUT missing text)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION idem_counters() FROM PUBLIC;
COMMENT ON FUNCTION idem_counters() IS
$$For idem_stats: the counters of this database.$$;

CREATE VIEW idem_stats AS
SELECT c.claims, c.replays, c.mismatches, c.in_progress, c.cancelled, c.waits, c.takeovers, c.refused_transitions,
       CASE WHEN c.claims OPERATOR(pg_catalog.+) c.replays OPERATOR(pg_catalog.>) 0::pg_catalog.int8
            THEN pg_catalog.round(c.replays::pg_catalog.numeric OPERATOR(pg_catalog./)
                                  (c.claims OPERATOR(pg_catalog.+) c.replays)::pg_catalog.numeric, 4)
       END AS retry_ratio,
       c.cancellations, c.published, c.fetched, c.nacks, c.dead_letters, c.consumed, c.duplicates,
       c.maintained_at, c.since, c.missing
FROM idem_counters() AS c;
COMMENT ON VIEW idem_stats IS
$$How is it going, in this database, since the server's start, or idem_stats_reset() if that was later: one row of counters. What was counted stays counted when the transaction is rolled back.

claims, replays, mismatches, in_progress, cancelled: how often a claim was answered "claimed", "completed", and so on; also those of idem_execute() and of many keys at once
waits                 how often somebody waited for a key that another transaction or a lease held
takeovers             of expired leases
refused_transitions   by state machines, of rows and of topics
retry_ratio           replays / (claims + replays)
cancellations         keys that idem_cancel() or a deadline has cancelled
published, fetched    messages; those that were delivered several times count each time
nacks, dead_letters   messages that failed, and those given up
consumed, duplicates  messages that were new to the inbox, and those that were not
maintained_at         when upkeep was last done, by whomever
missing               what is not known here, and why: without the library in shared_preload_libraries there are no counters, and all of the above is NULL

Cost: reads shared memory.$$;

CREATE FUNCTION idem_stats_reset() RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION idem_stats_reset() FROM PUBLIC;
COMMENT ON FUNCTION idem_stats_reset() IS
$$Set this database's counters, see idem_stats, to zero.

Errors: 55000 there are none.$$;

CREATE FUNCTION idem_suspects(
	within interval DEFAULT '1 hour',
	OUT scope text, OUT fingerprint text, OUT requests bigint, OUT keys text[],
	OUT first_at timestamptz, OUT last_at timestamptz)
RETURNS SETOF record LANGUAGE SQL VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT n.scope, pg_catalog.encode(n.fingerprint, 'hex'), pg_catalog.count(*),
	       pg_catalog.array_agg(n.key ORDER BY n.number USING OPERATOR(pg_catalog.<))
	           FILTER (WHERE n.number OPERATOR(pg_catalog.<=) 100::pg_catalog.int8),
	       pg_catalog.min(n.completed_at), pg_catalog.max(n.completed_at)
	FROM (SELECT k.scope, k.fingerprint, k.key, k.completed_at,
	             pg_catalog.row_number() OVER (PARTITION BY k.scope, k.fingerprint
	                                           ORDER BY k.completed_at USING OPERATOR(pg_catalog.<),
	                                                    k.key USING OPERATOR(pg_catalog.<)) AS number
	      FROM (SELECT scope, key, fingerprint, completed_at, expires_at FROM idem_keys_0
	            UNION ALL SELECT scope, key, fingerprint, completed_at, expires_at FROM idem_keys_1
	            UNION ALL SELECT scope, key, fingerprint, completed_at, expires_at FROM idem_keys_2
	            UNION ALL SELECT scope, key, fingerprint, completed_at, expires_at FROM idem_pinned
	                      WHERE fate IS DISTINCT FROM 'leased'::pg_catalog.text) AS k
	      WHERE k.fingerprint IS NOT NULL
	        AND k.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
	        AND k.completed_at OPERATOR(pg_catalog.>=)
	            (pg_catalog.statement_timestamp() OPERATOR(pg_catalog.-) $1)) AS n
	GROUP BY n.scope, n.fingerprint
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	ORDER BY 3 USING OPERATOR(pg_catalog.>), 5 USING OPERATOR(pg_catalog.<), 1 USING OPERATOR(pg_catalog.<), 2 USING OPERATOR(pg_catalog.<);
END;
REVOKE ALL ON FUNCTION idem_suspects(interval) FROM PUBLIC;
COMMENT ON FUNCTION idem_suspects(interval) IS
$$Do retries bypass us? The same request, completed under different keys of one scope within the last hour, or the interval given, and remembered: how often, by the first 100 of its keys, from when to when; what came most often is first. A client that makes a new key for each retry shows up here; so do two customers who ask for the very same, and requests like {}. Requests that were claimed without a body are not compared.

Cost: reads all keys that are kept, and sorts those of the interval: seconds for millions.$$;

CREATE FUNCTION idem_next_xid() RETURNS xid8
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL SAFE;
REVOKE ALL ON FUNCTION idem_next_xid() FROM PUBLIC;
COMMENT ON FUNCTION idem_next_xid() IS
$$For idem_verify(): the transaction id that is drawn next.$$;

CREATE PROCEDURE idem_maintain()
AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON PROCEDURE idem_maintain() FROM PUBLIC;
COMMENT ON PROCEDURE idem_maintain() IS
$$Do all upkeep that is due, in steps with a commit after each: turn the rings of generations, remove expired rows of idem_pinned and final states from idem_outbox_states, cancel keys past their deadline. For these it starts a background worker for each role that has registered handlers, connected as that role, and waits for its end; what it could not cancel is told by a warning and in the server's log. It waits for no lock; what is held up is done by the next call (idem_stores tells by whom). Run it every minute or so, unless shared_preload_libraries has idem: then the server does.

Errors: 2D000 inside a transaction block; 25006 read-only transaction, standby or subscriber.$$;

CREATE FUNCTION idem_verify(OUT invariant text, OUT object text, OUT detail text)
RETURNS SETOF record LANGUAGE SQL VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	WITH ring AS (
		SELECT DISTINCT ON (store) * FROM idem_ring
		ORDER BY store USING OPERATOR(pg_catalog.<), step USING OPERATOR(pg_catalog.>)
	), stored AS (
		SELECT 0 AS generation, *, false AS cancelled FROM idem_keys_0
		UNION ALL SELECT 1, *, false FROM idem_keys_1
		UNION ALL SELECT 2, *, false FROM idem_keys_2
		UNION ALL SELECT NULL, digest, claimed_at, completed_at, expires_at, life, scope, key, fingerprint, response,
		                 COALESCE(fate OPERATOR(pg_catalog.=) ANY ('{compensated,tombstone}'::pg_catalog.text[]), false)
		FROM idem_pinned
	), live AS (
		SELECT * FROM stored WHERE expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
	), message AS (
		SELECT 0 AS generation, * FROM idem_outbox_0
		UNION ALL SELECT 1, * FROM idem_outbox_1
		UNION ALL SELECT 2, * FROM idem_outbox_2
	), position AS (
		SELECT * FROM idem_positions_0
		UNION ALL SELECT * FROM idem_positions_1
		UNION ALL SELECT * FROM idem_positions_2
	), newest AS (
		SELECT DISTINCT ON (consumer, lane) * FROM position
		ORDER BY consumer USING OPERATOR(pg_catalog.<), lane USING OPERATOR(pg_catalog.<), n USING OPERATOR(pg_catalog.>)
	), latest AS (
		SELECT 'positions'::pg_catalog.text AS store, 0 AS generation, consumer AS name, lane, n, low_floor IS NULL AS is_end FROM idem_positions_0
		UNION ALL SELECT 'positions', 1, consumer, lane, n, low_floor IS NULL FROM idem_positions_1
		UNION ALL SELECT 'positions', 2, consumer, lane, n, low_floor IS NULL FROM idem_positions_2
		UNION ALL SELECT 'watermarks', 0, source, lane, seq, false FROM idem_watermarks_0
		UNION ALL SELECT 'watermarks', 1, source, lane, seq, false FROM idem_watermarks_1
		UNION ALL SELECT 'watermarks', 2, source, lane, seq, false FROM idem_watermarks_2
	), consumed AS (
		SELECT 0 AS generation, * FROM idem_inbox_0
		UNION ALL SELECT 1, * FROM idem_inbox_1
		UNION ALL SELECT 2, * FROM idem_inbox_2
	), guard AS (
		SELECT * FROM idem_guards()
	), last_token AS (
		SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last FROM idem_tokens
	), drawn AS (
		SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last_id FROM idem_outbox_ids
	)
	SELECT 'a live key has one row'::pg_catalog.text,
	       pg_catalog.format('key %L, scope %L', l.key, l.scope),
	       pg_catalog.format('%s rows, completed at %s', pg_catalog.count(*),
	                         pg_catalog.array_agg(l.completed_at))
	FROM live AS l
	GROUP BY l.digest, l.scope, l.key, l.life
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	UNION ALL
	SELECT 'a cancelled key is not completed as well', pg_catalog.format('key %L, scope %L', l.key, l.scope),
	       pg_catalog.format('completed at %s', pg_catalog.max(l.completed_at) FILTER (WHERE NOT l.cancelled))
	FROM live AS l
	GROUP BY l.digest, l.scope, l.key
	HAVING pg_catalog.bool_or(l.cancelled) AND NOT pg_catalog.bool_and(l.cancelled)
	UNION ALL
	SELECT 'a key with a compensation has all that belongs to it', pg_catalog.format('key %L, scope %L', p.key, p.scope),
	       pg_catalog.format('fate %L, deadline %L, handlers %L, answer %L', p.fate, p.deadline, p.handlers, p.answer)
	FROM idem_pinned AS p
	WHERE (p.fate IS NULL AND (p.handlers IS NOT NULL OR p.deadline IS NOT NULL OR p.answer IS NOT NULL OR p.ttl_ends_at IS NOT NULL))
	   OR (p.fate IS NOT NULL
	       AND (NOT p.fate OPERATOR(pg_catalog.=) ANY ('{held,confirmed,compensated,refused,tombstone,leased}'::pg_catalog.text[])
	            OR ((p.handlers IS NULL) OPERATOR(pg_catalog.<>) (p.fate OPERATOR(pg_catalog.=) 'tombstone'::pg_catalog.text)
	                AND p.fate OPERATOR(pg_catalog.<>) 'leased'::pg_catalog.text)
	            OR ((p.answer IS NULL) OPERATOR(pg_catalog.<>)
	                (p.fate OPERATOR(pg_catalog.=) ANY ('{held,confirmed}'::pg_catalog.text[]))
	                AND p.fate OPERATOR(pg_catalog.<>) 'leased'::pg_catalog.text)
	            OR (p.handlers IS NULL AND COALESCE(p.deadline::pg_catalog.text, p.answer::pg_catalog.text) IS NOT NULL
	                AND p.fate OPERATOR(pg_catalog.=) 'leased'::pg_catalog.text)
	            OR pg_catalog.jsonb_typeof(p.handlers) OPERATOR(pg_catalog.<>) 'array'::pg_catalog.text
	            OR p.handlers OPERATOR(pg_catalog.=) '[]'::pg_catalog.jsonb))
	UNION ALL
	SELECT 'a lease has all that belongs to it', pg_catalog.format('key %L, scope %L', p.key, p.scope),
	       pg_catalog.format('fate %L, attempt %s, token %s, lease ends at %s, expires at %s', p.fate, p.attempt, p.token, p.lease_ends_at, p.expires_at)
	FROM idem_pinned AS p
	WHERE (p.fate IS NOT DISTINCT FROM 'leased'::pg_catalog.text) OPERATOR(pg_catalog.<>) (p.token IS NOT NULL)
	   OR (p.token IS NULL) OPERATOR(pg_catalog.<>) (p.lease_ends_at IS NULL)
	   OR (p.token IS NULL) OPERATOR(pg_catalog.<>) (p.holder_pid IS NULL)
	   OR (p.token IS NULL AND p.checkpoint IS NOT NULL)
	   OR p.token OPERATOR(pg_catalog.<=) 0::pg_catalog.int8
	   OR p.attempt OPERATOR(pg_catalog.<=) 1
	   OR p.lease_ends_at OPERATOR(pg_catalog.>=) LEAST(p.expires_at, p.ttl_ends_at)
	UNION ALL
	SELECT 'a token holds one key', pg_catalog.format('token %s', p.token),
	       pg_catalog.format('%s rows', pg_catalog.count(*))
	FROM idem_pinned AS p
	WHERE p.token IS NOT NULL
	GROUP BY p.token
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	UNION ALL
	SELECT 'tokens are drawn from the sequence', pg_catalog.format('token %s', p.token),
	       pg_catalog.format('the last number drawn is %s', t.last)
	FROM idem_pinned AS p, last_token AS t
	WHERE p.token OPERATOR(pg_catalog.&) 281474976710655 OPERATOR(pg_catalog.>) t.last
	UNION ALL
	SELECT 'a key with a deadline lives until it is settled', pg_catalog.format('key %L, scope %L', p.key, p.scope),
	       pg_catalog.format('expires at %s', p.expires_at)
	FROM idem_pinned AS p
	WHERE p.fate OPERATOR(pg_catalog.=) ANY ('{held,leased}'::pg_catalog.text[]) AND p.deadline IS NOT NULL
	  AND p.expires_at OPERATOR(pg_catalog.<) 'infinity'::pg_catalog.timestamptz
	UNION ALL
	SELECT 'deadlines are kept', pg_catalog.format('key %L, scope %L', p.key, p.scope),
	       pg_catalog.format('its deadline was %s', p.deadline)
	FROM idem_pinned AS p
	WHERE p.fate OPERATOR(pg_catalog.=) ANY ('{held,leased}'::pg_catalog.text[]) AND p.deadline IS NOT NULL
	  AND GREATEST(p.deadline, p.lease_ends_at) OPERATOR(pg_catalog.<)
	      (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval)
	  AND NOT EXISTS (SELECT FROM idem_scopes AS s
	                  WHERE s.scope OPERATOR(pg_catalog.=) p.scope AND s.state OPERATOR(pg_catalog.<>) 'here'::pg_catalog.text)
	UNION ALL
	SELECT 'a row is found by its digest', pg_catalog.format('key %L, scope %L', s.key, s.scope),
	       pg_catalog.format('digest is %s, should be %s', s.digest, idem_digest(s.key, s.scope))
	FROM stored AS s
	WHERE s.digest OPERATOR(pg_catalog.<>) idem_digest(s.key, s.scope)
	UNION ALL
	SELECT 'no row outlives its generation', pg_catalog.format('key %L, scope %L', l.key, l.scope),
	       pg_catalog.format('expires at %s, generation %s ends at %s', l.expires_at, l.generation,
	                         (r.ends_at)[l.generation OPERATOR(pg_catalog.+) 1])
	FROM live AS l, ring AS r
	WHERE r.store OPERATOR(pg_catalog.=) 'keys'::pg_catalog.text
	  AND l.expires_at OPERATOR(pg_catalog.>) (r.ends_at)[l.generation OPERATOR(pg_catalog.+) 1]
	UNION ALL
	SELECT 'the current generation is open', pg_catalog.format('%s, generation %s', r.store, r.current),
	       pg_catalog.format('ends at %s', (r.ends_at)[r.current::pg_catalog.int4 OPERATOR(pg_catalog.+) 1])
	FROM ring AS r
	WHERE (r.ends_at)[r.current::pg_catalog.int4 OPERATOR(pg_catalog.+) 1]
	      OPERATOR(pg_catalog.<>) 'infinity'::pg_catalog.timestamptz
	UNION ALL
	SELECT 'a message has one row', pg_catalog.format('message %s', m.id),
	       pg_catalog.format('%s rows', pg_catalog.count(*))
	FROM message AS m
	GROUP BY m.id
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	UNION ALL
	SELECT 'ids are drawn from the sequence', pg_catalog.format('message %s', m.id),
	       pg_catalog.format('the last id drawn is %s', d.last_id)
	FROM message AS m, drawn AS d
	WHERE m.id OPERATOR(pg_catalog.>) d.last_id
	UNION ALL
	SELECT 'ids are drawn one at a time, in order', 'idem_outbox_ids',
	       pg_catalog.format('cache %s, increment %s', q.seqcache, q.seqincrement)
	FROM pg_catalog.pg_sequence AS q
	WHERE q.seqrelid OPERATOR(pg_catalog.=) 'idem_outbox_ids'::pg_catalog.regclass
	  AND (q.seqcache OPERATOR(pg_catalog.<>) 1::pg_catalog.int8 OR q.seqincrement OPERATOR(pg_catalog.<>) 1::pg_catalog.int8 OR q.seqcycle)
	UNION ALL
	SELECT 'no message is of a transaction to come', pg_catalog.format('message %s', m.id),
	       pg_catalog.format('transaction %s', m.xid)
	FROM message AS m, pg_catalog.pg_control_system() AS c
	WHERE m.era OPERATOR(pg_catalog.=) c.system_identifier
	  AND m.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
	  AND m.xid IS DISTINCT FROM pg_catalog.pg_current_xact_id_if_assigned()
	UNION ALL
	SELECT 'a lane has a position', pg_catalog.format('consumer %L, lane %s', s.consumer, l.lane), 'it has none'
	FROM idem_subscriptions AS s,
	     LATERAL pg_catalog.generate_series(0::pg_catalog.int8, s.lanes OPERATOR(pg_catalog.-) 1::pg_catalog.int8) AS l (lane)
	WHERE NOT EXISTS (SELECT FROM newest AS n
	                  WHERE n.consumer OPERATOR(pg_catalog.=) s.consumer AND n.lane OPERATOR(pg_catalog.=) l.lane
	                    AND n.low_floor IS NOT NULL)
	UNION ALL
	SELECT 'a position has a consumer', pg_catalog.format('consumer %L, lane %s', n.consumer, n.lane),
	       pg_catalog.format('lanes of the consumer: %s', COALESCE(s.lanes, 0))
	FROM newest AS n LEFT JOIN idem_subscriptions AS s ON s.consumer OPERATOR(pg_catalog.=) n.consumer
	WHERE n.low_floor IS NOT NULL
	  AND (s.lanes IS NULL OR n.lane OPERATOR(pg_catalog.<) 0::pg_catalog.int8
	       OR n.lane OPERATOR(pg_catalog.>=) s.lanes::pg_catalog.int8)
	UNION ALL
	SELECT 'an attempt mark has a consumer', pg_catalog.format('consumer %L, lane %s', a.consumer, a.lane),
	       pg_catalog.format('batch %s, message %s', a.batch, a.id)
	FROM idem_attempts AS a
	WHERE NOT EXISTS (SELECT FROM idem_subscriptions AS s
	                  WHERE s.consumer OPERATOR(pg_catalog.=) a.consumer
	                    AND a.lane OPERATOR(pg_catalog.>=) 0::pg_catalog.int8
	                    AND a.lane OPERATOR(pg_catalog.<) s.lanes::pg_catalog.int8)
	UNION ALL
	SELECT 'the latest of a lane is where it is looked for', pg_catalog.format('%s of %L, lane %s', l.store, l.name, l.lane),
	       pg_catalog.format('number %s is in a retired generation', pg_catalog.max(l.n))
	FROM latest AS l JOIN ring AS r ON r.store OPERATOR(pg_catalog.=) l.store
	GROUP BY l.store, l.name, l.lane
	HAVING pg_catalog.max(l.n) OPERATOR(pg_catalog.>) GREATEST(
	           (-1)::pg_catalog.int8,
	           pg_catalog.max(l.n) FILTER (WHERE l.is_end),
	           pg_catalog.max(l.n) FILTER (WHERE (r.ends_at)[l.generation OPERATOR(pg_catalog.+) 1]
	                                             OPERATOR(pg_catalog.<>) '-infinity'::pg_catalog.timestamptz))
	UNION ALL
	SELECT 'no position is of a transaction to come', pg_catalog.format('consumer %L, lane %s', n.consumer, n.lane),
	       pg_catalog.format('it looks up to transaction %s', GREATEST(n.low_to, n.high_to))
	FROM newest AS n, pg_catalog.pg_control_system() AS c
	WHERE (n.low_era OPERATOR(pg_catalog.=) c.system_identifier AND n.low_to OPERATOR(pg_catalog.>) idem_next_xid())
	   OR (n.high_era OPERATOR(pg_catalog.=) c.system_identifier AND n.high_to OPERATOR(pg_catalog.>) idem_next_xid())
	UNION ALL
	SELECT 'a position is within its window', pg_catalog.format('consumer %L, lane %s', n.consumer, n.lane),
	       pg_catalog.format('it is at message %s, the window ends at %s', n.last_id, n.high_floor)
	FROM newest AS n
	WHERE n.last_id OPERATOR(pg_catalog.>) n.high_floor
	UNION ALL
	SELECT 'parked messages are fetched when they are due', pg_catalog.format('consumer %L', p.consumer),
	       pg_catalog.format('%s are due for an hour, the first since %s', pg_catalog.count(*), pg_catalog.min(p.due_at))
	FROM idem_parked AS p
	WHERE p.state OPERATOR(pg_catalog.<>) 'dead'::pg_catalog.text
	  AND p.due_at OPERATOR(pg_catalog.<)
	      (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval)
	GROUP BY p.consumer
	UNION ALL
	SELECT 'a state is of a guarded topic', pg_catalog.format('topic %L', s.topic),
	       pg_catalog.format('no machine guards it; keys that have a state: %s', pg_catalog.count(*))
	FROM idem_outbox_states AS s
	WHERE NOT EXISTS (SELECT FROM idem_guarded_topics AS t WHERE t.topic OPERATOR(pg_catalog.=) s.topic)
	GROUP BY s.topic
	UNION ALL
	SELECT 'a parked message has a consumer', pg_catalog.format('message %s, consumer %L', p.id, p.consumer), p.state
	FROM idem_parked AS p
	WHERE p.state OPERATOR(pg_catalog.<>) 'dead'::pg_catalog.text
	  AND NOT EXISTS (SELECT FROM idem_subscriptions AS s WHERE s.consumer OPERATOR(pg_catalog.=) p.consumer)
	UNION ALL
	SELECT 'a parked message waits for one of its key', pg_catalog.format('message %s, consumer %L', p.id, p.consumer),
	       pg_catalog.format('no message of key %L is to be retried', p.key)
	FROM idem_parked AS p
	WHERE p.state OPERATOR(pg_catalog.=) 'waiting'::pg_catalog.text
	  AND NOT EXISTS (SELECT FROM idem_parked AS q
	                  WHERE q.consumer OPERATOR(pg_catalog.=) p.consumer AND q.slot OPERATOR(pg_catalog.=) p.slot
	                    AND q.key OPERATOR(pg_catalog.=) p.key
	                    AND q.state OPERATOR(pg_catalog.=) 'retry'::pg_catalog.text)
	UNION ALL
	SELECT 'a message is parked once', pg_catalog.format('message %s, consumer %L', p.id, p.consumer),
	       pg_catalog.format('%s rows', pg_catalog.count(*))
	FROM idem_parked AS p
	WHERE p.state OPERATOR(pg_catalog.<>) 'dead'::pg_catalog.text
	GROUP BY p.consumer, p.id
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	UNION ALL
	SELECT 'no consumer is ahead of the outbox', pg_catalog.format('consumer %L, lane %s', n.consumer, n.lane),
	       pg_catalog.format('it has had messages up to %s, the last id drawn is %s', GREATEST(n.low_floor, n.high_floor), d.last_id)
	FROM newest AS n, drawn AS d
	WHERE GREATEST(n.low_floor, n.high_floor) OPERATOR(pg_catalog.>) d.last_id
	UNION ALL
	SELECT 'positions of one number agree', pg_catalog.format('consumer %L, lane %s', p.consumer, p.lane),
	       pg_catalog.format('number %s', p.n)
	FROM (SELECT DISTINCT * FROM position) AS p
	GROUP BY p.consumer, p.lane, p.n
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	UNION ALL
	SELECT 'no message is retired before its consumers have had it', pg_catalog.format('message %s', m.id),
	       pg_catalog.format('consumer %L', s.consumer)
	FROM message AS m, ring AS r, idem_subscriptions AS s
	WHERE r.store OPERATOR(pg_catalog.=) 'outbox'::pg_catalog.text
	  AND (r.ends_at)[m.generation OPERATOR(pg_catalog.+) 1] OPERATOR(pg_catalog.=) '-infinity'::pg_catalog.timestamptz
	  AND (s.topics IS NULL OR m.topic OPERATOR(pg_catalog.=) ANY (s.topics))
	  AND NOT idem_is_past(s.consumer, m.era, m.xid, m.slot, m.id)
	UNION ALL
	SELECT 'a consumed message has one row', pg_catalog.format('message %L of source %L', c.message_id, c.source),
	       pg_catalog.format('%s rows', pg_catalog.count(*))
	FROM consumed AS c
	WHERE c.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
	GROUP BY c.digest, c.source, c.message_id
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8
	UNION ALL
	SELECT 'a consumed message is found by its digest', pg_catalog.format('message %L of source %L', c.message_id, c.source),
	       pg_catalog.format('digest is %s, should be %s', c.digest, idem_digest(c.message_id, c.source))
	FROM consumed AS c
	WHERE c.digest OPERATOR(pg_catalog.<>) idem_digest(c.message_id, c.source)
	UNION ALL
	SELECT 'no consumed message outlives its generation', pg_catalog.format('message %L of source %L', c.message_id, c.source),
	       pg_catalog.format('expires at %s, generation %s ends at %s', c.expires_at, c.generation,
	                         (r.ends_at)[c.generation OPERATOR(pg_catalog.+) 1])
	FROM consumed AS c, ring AS r
	WHERE r.store OPERATOR(pg_catalog.=) 'inbox'::pg_catalog.text
	  AND c.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
	  AND c.expires_at OPERATOR(pg_catalog.>) (r.ends_at)[c.generation OPERATOR(pg_catalog.+) 1]
	UNION ALL
	SELECT 'a guard is on', g.tbl::pg_catalog.text, 'its trigger idem_guard is off or gone'
	FROM guard AS g
	WHERE NOT g.enabled
	UNION ALL
	SELECT 'a guard has its column', g.tbl::pg_catalog.text, pg_catalog.format('there is no column %L', g.state_column)
	FROM guard AS g
	WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
	                  WHERE a.attrelid OPERATOR(pg_catalog.=) g.tbl::pg_catalog.oid
	                    AND a.attname OPERATOR(pg_catalog.=) g.state_column::pg_catalog.name AND NOT a.attisdropped)
	UNION ALL
	SELECT 'a guarded row is in a state of its machine', g.tbl::pg_catalog.text,
	       pg_catalog.format('%s rows are in none of machine %L', g.stray_rows, g.machine)
	FROM guard AS g
	WHERE g.stray_rows OPERATOR(pg_catalog.>) 0::pg_catalog.int8
	UNION ALL
	SELECT 'a guard has a machine', u.guarded, pg_catalog.format('there is no machine %L', u.machine)
	FROM (SELECT g.tbl::pg_catalog.text AS guarded, g.machine FROM guard AS g WHERE g.stray_rows IS NOT NULL
	      UNION ALL SELECT pg_catalog.format('topic %L', t.topic), t.machine FROM idem_guarded_topics AS t) AS u
	WHERE NOT EXISTS (SELECT FROM idem_transitions AS r WHERE r.machine OPERATOR(pg_catalog.=) u.machine)
	UNION ALL
	SELECT 'a key of a guarded topic is in a state of its machine', pg_catalog.format('key %L, topic %L', s.key, s.topic),
	       pg_catalog.format('it is in %L, machine %L', s.state, t.machine)
	FROM idem_outbox_states AS s JOIN idem_guarded_topics AS t ON t.topic OPERATOR(pg_catalog.=) s.topic
	WHERE NOT EXISTS (SELECT FROM idem_transitions AS r
	                  WHERE r.machine OPERATOR(pg_catalog.=) t.machine AND r.enabled
	                    AND (r.from_state OPERATOR(pg_catalog.=) s.state OR r.to_state OPERATOR(pg_catalog.=) s.state))
	UNION ALL
	SELECT 'a rule that idem ships is there', pg_catalog.format('machine %L', w.machine),
	       pg_catalog.format('from %L to %L', w.from_state, w.to_state)
	FROM (VALUES ('order'::pg_catalog.text, NULL::pg_catalog.text, 'created'::pg_catalog.text), ('order', 'created', 'paid'),
	             ('order', 'paid', 'completed'), ('order', 'created', 'cancelled')) AS w (machine, from_state, to_state)
	WHERE NOT EXISTS (SELECT FROM idem_transitions AS r
	                  WHERE r.machine OPERATOR(pg_catalog.=) w.machine AND r.to_state OPERATOR(pg_catalog.=) w.to_state
	                    AND (r.from_state OPERATOR(pg_catalog.=) w.from_state OR (r.from_state IS NULL AND w.from_state IS NULL)))
	UNION ALL
	SELECT 'every index is valid', i.indexrelid::pg_catalog.regclass::pg_catalog.text, 'it is not'
	FROM pg_catalog.pg_index AS i
	JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) i.indrelid
	JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
	WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
	  AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
	  AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
	  AND e.extname OPERATOR(pg_catalog.=) 'idem'::pg_catalog.name
	  AND NOT (i.indisvalid AND i.indisready)
	  -- but for a retired generation's, while that is cut down
	  AND NOT EXISTS (SELECT FROM idem_ring AS r, pg_catalog.generate_series(0, 2) AS g (n)
	                  WHERE r.ends_at[g.n OPERATOR(pg_catalog.+) 1] OPERATOR(pg_catalog.=) '-infinity'::pg_catalog.timestamptz
	                    AND (SELECT c.relname FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) i.indrelid)::pg_catalog.text
	                        OPERATOR(pg_catalog.=) pg_catalog.format('idem_%s_%s', r.store, g.n));
END;
REVOKE ALL ON FUNCTION idem_verify() FROM PUBLIC;
COMMENT ON FUNCTION idem_verify() IS
$$Check every invariant of what is stored; no rows means healthy. Reads all keys, messages and attached tables: minutes for hundreds of millions.$$;

CREATE FUNCTION idem_grant(role name, profile text) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION idem_grant(name, text) FROM PUBLIC;
COMMENT ON FUNCTION idem_grant(name, text) IS
$$Grant a role what it needs: profile "app" claims, completes, confirms and cancels keys, publishes and uses the inbox; "consumer" subscribes, fetches and uses the inbox; "dba" does all this, reads everything, edits and attaches state machines, evicts, seeks, unsubscribes and maintains; "monitor" reads the views' figures, and no keys, payloads or responses. Runs as its caller, who must be able to grant it. Undo with REVOKE.

Errors: 22004 NULL; 22023 unknown profile; 42704 no such role; 25006 read-only transaction, standby or subscriber.$$;
