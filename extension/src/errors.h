/*
 * errors.h
 *	  The SQLSTATEs of idem's private class ID, and nothing else.
 *
 * Drivers and the SDK tell these cases apart by number: never reuse one.
 * Everything not listed is reported under the server's own codes: 22004,
 * 22023, 23505, 23514, 25001, 25006, 40001, 40P01, 42501, 42703, 42704, 42710, 42804,
 * 42809, 55000, 55P03, 0A000.
 */
#ifndef IDEM_ERRORS_H
#define IDEM_ERRORS_H

/* complete, release or compensation of a key that this transaction has not claimed */
#define ERRCODE_IDEM_NOT_CLAIMED		MAKE_SQLSTATE('I', 'D', '0', '0', '1')
/* claim, evict or cancel of a key that this transaction holds already */
#define ERRCODE_IDEM_ALREADY_CLAIMED	MAKE_SQLSTATE('I', 'D', '0', '0', '2')
/* complete, release, compensation or evict of a key that this transaction has completed */
#define ERRCODE_IDEM_ALREADY_COMPLETED	MAKE_SQLSTATE('I', 'D', '0', '0', '3')
/* COMMIT or PREPARE TRANSACTION with a claim neither completed nor released */
#define ERRCODE_IDEM_CLAIM_OPEN			MAKE_SQLSTATE('I', 'D', '0', '0', '4')
/* a key that is NULL, empty or too long */
#define ERRCODE_IDEM_INVALID_KEY		MAKE_SQLSTATE('I', 'D', '0', '0', '5')
/* a scope that is NULL or too long */
#define ERRCODE_IDEM_INVALID_SCOPE		MAKE_SQLSTATE('I', 'D', '0', '0', '6')
/* a ttl, wait or lease that is negative, infinite or out of range */
#define ERRCODE_IDEM_INVALID_INTERVAL	MAKE_SQLSTATE('I', 'D', '0', '0', '7')
/* COMMIT or PREPARE TRANSACTION with a batch fetched but not acked */
#define ERRCODE_IDEM_BATCH_OPEN			MAKE_SQLSTATE('I', 'D', '0', '0', '8')
/* ack of a batch that this transaction has not fetched */
#define ERRCODE_IDEM_BATCH_NOT_HELD		MAKE_SQLSTATE('I', 'D', '0', '0', '9')
/* ack of a batch that this transaction has acked */
#define ERRCODE_IDEM_BATCH_ACKED		MAKE_SQLSTATE('I', 'D', '0', '1', '0')
/* a name (consumer, topic, source, message id, machine) that is NULL, empty or too long */
#define ERRCODE_IDEM_INVALID_NAME		MAKE_SQLSTATE('I', 'D', '0', '1', '1')
/* a state that the state machine does not allow there */
#define ERRCODE_IDEM_TRANSITION_REFUSED	MAKE_SQLSTATE('I', 'D', '0', '1', '2')
/* confirm of a key that is not completed */
#define ERRCODE_IDEM_NOT_COMPLETED		MAKE_SQLSTATE('I', 'D', '0', '1', '3')
/* confirm of a key that is cancelled */
#define ERRCODE_IDEM_CANCELLED			MAKE_SQLSTATE('I', 'D', '0', '1', '4')
/* a handler that does not exist, is of another kind or may not be executed */
#define ERRCODE_IDEM_HANDLER			MAKE_SQLSTATE('I', 'D', '0', '1', '5')
/* nack of a message that is not in the batch, or was nacked already */
#define ERRCODE_IDEM_NOT_IN_BATCH		MAKE_SQLSTATE('I', 'D', '0', '1', '6')
/* a token that does not hold the key, or no longer does */
#define ERRCODE_IDEM_LEASE_LOST			MAKE_SQLSTATE('I', 'D', '0', '1', '7')
/* a key of a scope that has moved to another node, or has not wholly arrived */
#define ERRCODE_IDEM_SCOPE_AWAY			MAKE_SQLSTATE('I', 'D', '0', '1', '8')
/* what has arrived of a scope is not what was sent */
#define ERRCODE_IDEM_SCOPE_DIFFERS		MAKE_SQLSTATE('I', 'D', '0', '1', '9')

#endif							/* IDEM_ERRORS_H */
