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
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/lwlock.h"
#include "utils/snapmgr.h"

/*
 * Has a standby confirmed up to lsn, as this session's synchronous_commit
 * wants it?  False also while no synchronous standby is configured.
 */
static bool
standby_confirmed(XLogRecPtr lsn)
{
	int			mode = synchronous_commit == SYNCHRONOUS_COMMIT_REMOTE_WRITE ? SYNC_REP_WAIT_WRITE :
		synchronous_commit == SYNCHRONOUS_COMMIT_REMOTE_APPLY ? SYNC_REP_WAIT_APPLY :
		SYNC_REP_WAIT_FLUSH;
	bool		confirmed;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	confirmed = lsn <= WalSndCtl->lsn[mode];
	LWLockRelease(SyncRepLock);
	return confirmed;
}

/*
 * Wait until the commit of this transaction, seen as committed, is as durable
 * as a commit of our own would be.
 *
 * Locally that is exact and costs a look at pg_xact.  Where the commit record
 * of a synchronous commit lies is not kept, so for standbys we wait through
 * all that was written until now; once that is confirmed, the same need not be
 * asked again for any transaction that had ended by then.
 */
void
replay_wait_durable(TransactionId winner)
{
	static TransactionId confirmed_before = InvalidTransactionId;
	XLogRecPtr	lsn;
	TransactionId oldest_running;

	if (!TransactionIdIsNormal(winner) ||
		TransactionIdIsCurrentTransactionId(winner))
		return;

	lsn = TransactionIdGetCommitLSN(winner);
	if (!XLogRecPtrIsInvalid(lsn))
		XLogFlush(lsn);

	if (!SyncRepRequested() ||
		SyncRepStandbyNames == NULL || SyncRepStandbyNames[0] == '\0')
		return;
	if (TransactionIdIsNormal(confirmed_before) &&
		TransactionIdPrecedes(winner, confirmed_before))
		return;

	/* in this order: what ended before the one is written before the other */
	oldest_running = GetLatestSnapshot()->xmin;
	lsn = GetXLogInsertRecPtr();
	XLogFlush(lsn);

	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(lsn, true);
	RESUME_INTERRUPTS();

	/*
	 * A cancelled wait ends with no more than a warning, and one that finds
	 * no standby configured after all has confirmed nothing.
	 */
	if (standby_confirmed(lsn))
		confirmed_before = oldest_running;
	else if (SyncRepStandbyNames[0] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling replay that waits for synchronous replication"),
				 errdetail("The key was completed on this server, but that might not have been replicated to a standby."),
				 errhint("Retry; the replay is given once a standby has confirmed it.")));
}
