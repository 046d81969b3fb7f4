/*
 * claim.pml: one key, its lock and its row, clients that retry, and a crash.
 *
 * At most one effect; and what a client was told, by the first answer or by a
 * replay, is still true after a crash. The row stands for all that commits
 * with it: the effect, the messages, the response.
 *
 * BUG_snapshot  the key is looked up with the statement's snapshot, from before the wait
 * BUG_unlock    the lock is released before the commit can be seen
 * BUG_flush     a replay does not wait for the winner's commit to be durable
 * BUG_stale     above READ COMMITTED, a row that the snapshot does not see is answered from
 */
#define TRIES 3

bool row;                       /* completed, as last committed */
byte effects;
bool durable;                   /* up to and with the row's commit */
byte holder;                    /* of the key's lock; 0: nobody */
byte life;                      /* of the server: one more with each crash */
bool told;                      /* a client was told "done" that asked for durability */

#define ALIVE (life == mine)    /* this connection's server still runs */
#define LOST !ALIVE -> goto again
#define CHECK assert(effects <= 1 && row == effects && (!told || effects == 1))

/* the client: idem::run, or anybody who retries */
proctype client(byte me)
{
	byte mine;
	byte tries;
	bool seen;                  /* by its snapshot */
	bool found;
	bool fixed;                 /* REPEATABLE READ: one snapshot for the transaction */
	bool waits;                 /* synchronous_commit */

	atomic {
		if :: fixed = true :: fixed = false fi;
		if :: waits = true :: waits = false fi
	};
again:
	if
	:: tries == TRIES -> goto end
	:: atomic { tries < TRIES -> tries++; found = false; mine = life; seen = row }  /* BEGIN; the statement's snapshot */
	fi;

	/* claim_lock(): claim.c */
	if
	:: atomic { ALIVE && holder == 0 -> holder = me }
	:: ALIVE && holder != 0 -> goto again               /* wait ran out: "in_progress" */
	:: LOST
	fi;

	/* key_store_find(): the latest committed state, after the lock */
	if
#ifdef BUG_snapshot
	:: atomic { ALIVE -> found = seen }
#else
	:: atomic { ALIVE -> found = row }
#endif
	:: LOST
	fi;

	if
	:: found ->
		/* claim_unlock(); check_snapshot(), replay_wait_durable(): replay.c */
		if
		:: atomic { ALIVE -> holder = 0 }
		:: LOST
		fi;
#ifndef BUG_stale
		if
		:: fixed && !seen -> goto again                 /* 40001 */
		:: else
		fi;
#endif
		assert(!fixed || seen);                         /* answered from its own snapshot */
#ifndef BUG_flush
		if
		:: atomic { ALIVE -> durable = durable || row }
		:: LOST
		fi;
#endif
		if
		:: atomic { ALIVE -> told = true; CHECK }       /* "completed" */
		:: LOST
		fi;
		goto end
	:: else
	fi;

	/* "claimed": the work, idem_complete(), COMMIT */
	if
	:: ALIVE                                            /* it goes on */
	:: atomic { ALIVE -> holder = 0 }; goto again       /* ROLLBACK: no trace */
	:: LOST
	fi;
#ifdef BUG_unlock
	if
	:: atomic { ALIVE -> holder = 0 }
	:: LOST
	fi;
#endif
	if
	:: atomic { ALIVE -> row = true; effects++; durable = waits; CHECK }
	:: LOST
	fi;
	if
	:: atomic { ALIVE -> if :: holder == me -> holder = 0 :: else fi }
	:: LOST
	fi;
	if
	:: atomic { ALIVE -> told = told || waits; CHECK }
	:: LOST                                             /* in doubt: the next try asks by the key */
	fi;
end:
}

/* the server crashes once: the locks are gone, and what was not durable, unless the log was flushed by chance */
proctype crash()
{
	atomic {
		life++;
		holder = 0;
		if
		:: row && !durable -> row = false; effects--
		:: true -> durable = row
		fi;
		CHECK
	}
}

init {
	atomic { run client(1); run client(2); run crash() }
}
