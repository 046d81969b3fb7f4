/*
 * replay.c
 *	  What must be durable before a replay may say so.
 *
 * A replay tells a client that its money has moved.  The winner's commit can
 * be visible and yet not be safe: committed with synchronous_commit = off, or
 * with its wait for a standby cancelled.  A replay writes nothing, so its own
 * COMMIT waits for nothing; it must wait here.
 */
#include "replay.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/lwlock.h"
#include "utils/snapmgr.h"

/*
 * What this session's synchronous_commit asks of standbys.
 */
static int
wait_mode(void)
{
	switch (synchronous_commit)
	{
		case SYNCHRONOUS_COMMIT_REMOTE_WRITE:
			return SYNC_REP_WAIT_WRITE;
		case SYNCHRONOUS_COMMIT_REMOTE_APPLY:
			return SYNC_REP_WAIT_APPLY;
		default:
			return SYNC_REP_WAIT_FLUSH;
	}
}

static bool
standby_confirmed(XLogRecPtr lsn)
{
	bool		confirmed;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	confirmed = lsn <= WalSndCtl->lsn[wait_mode()];
	LWLockRelease(SyncRepLock);
	return confirmed;
}

/*
 * Write a record, and wait until it is as durable as a commit of our own would
 * be.  False if no standby has confirmed it, and none need.
 */
static bool
wait_through_now(void)
{
	static char data = 0;
	XLogRecPtr	lsn;

	XLogBeginInsert();
	XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);

	/*
	 * Not of no data: a standby applies a record that is but a header only
	 * once more follows, which on an idle server may take minutes.
	 */
	XLogRegisterData(&data, sizeof(data));
	lsn = XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	XLogFlush(lsn);
	if (!SyncRepRequested() ||
		SyncRepStandbyNames == NULL || SyncRepStandbyNames[0] == '\0')
		return false;

	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(lsn, true);
	RESUME_INTERRUPTS();

	/*
	 * A cancelled wait ends with no more than a warning, and one that finds
	 * no standby configured after all has confirmed nothing.
	 */
	if (standby_confirmed(lsn))
		return true;
	if (SyncRepStandbyNames[0] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling replay that waits for synchronous replication"),
				 errdetail("The key was completed on this server, but that might not have been replicated to a standby."),
				 errhint("Retry; the replay is given once a standby has confirmed it.")));
	return false;
}

/*
 * Wait until the commit of this transaction, seen as committed, is as durable
 * as a commit of our own would be.  If its row is frozen, the transaction may
 * be forgotten, and the freezing, at that place in the log, stands for it.
 *
 * Locally that is exact and costs a look at pg_xact.  Where the commit record
 * of a synchronous commit lies is not kept, so for standbys we wait through
 * a record written now; once that is confirmed, the same need not be
 * asked again for any transaction that had ended by then.
 */
void
replay_wait_durable(TransactionId winner, XLogRecPtr frozen)
{
	static FullTransactionId confirmed_before;	/* all of these ... */
	static int	confirmed_mode = SYNC_REP_NO_WAIT;	/* ... in this way */
	FullTransactionId next;
	TransactionId oldest_running;
	XLogRecPtr	lsn;

	if (TransactionIdIsCurrentTransactionId(winner))
		return;

	lsn = XLogRecPtrIsInvalid(frozen) ? TransactionIdGetCommitLSN(winner) : frozen;
	if (!XLogRecPtrIsInvalid(lsn))
		XLogFlush(lsn);

	if (!SyncRepRequested() ||
		SyncRepStandbyNames == NULL || SyncRepStandbyNames[0] == '\0')
		return;

	/*
	 * A row cannot be older than 2^31 transactions without being frozen, so
	 * where the numbers are that far apart, the answer is no longer known.
	 */
	next = ReadNextFullTransactionId();
	if (confirmed_mode == wait_mode() && XLogRecPtrIsInvalid(frozen) &&
		U64FromFullTransactionId(next) - U64FromFullTransactionId(confirmed_before) < (1U << 30) &&
		TransactionIdPrecedes(winner, XidFromFullTransactionId(confirmed_before)))
		return;

	/* in this order: what ended before the one is written before the other */
	oldest_running = GetLatestSnapshot()->xmin;
	next = ReadNextFullTransactionId();
	if (wait_through_now())
	{
		/* the same number in 64 bits: it is not more than 2^31 behind next */
		confirmed_before =
			FullTransactionIdFromU64(U64FromFullTransactionId(next) -
									 (XidFromFullTransactionId(next) - oldest_running));
		confirmed_mode = wait_mode();
	}
}

/*
 * The same for all that is committed by now.
 */
void
replay_wait_all_durable(void)
{
	(void) wait_through_now();
}
