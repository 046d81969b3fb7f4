/*
 * lock.c
 *	  Advisory locks that a transaction holds.
 *
 * They are taken in the name of the transaction, or of the subtransaction
 * that a rollback would undo, whichever portal happens to run.
 */
#include "lock.h"

#include "access/xact.h"
#include "utils/resowner.h"

/*
 * False if it is not to be had without waiting, and wait is false.
 */
bool
idem_lock(const LOCKTAG *tag, LOCKMODE mode, bool wait)
{
	ResourceOwner save = CurrentResourceOwner;
	LockAcquireResult result;

	CurrentResourceOwner = CurTransactionResourceOwner;
	PG_TRY();
	{
		result = LockAcquire(tag, mode, false, !wait);
	}
	PG_FINALLY();
	{
		CurrentResourceOwner = save;
	}
	PG_END_TRY();
	return result != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Undo one idem_lock() of this transaction.
 */
void
idem_unlock(const LOCKTAG *tag, LOCKMODE mode)
{
	ResourceOwner save = CurrentResourceOwner;

	CurrentResourceOwner = CurTransactionResourceOwner;
	(void) LockRelease(tag, mode, false);
	CurrentResourceOwner = save;
}
