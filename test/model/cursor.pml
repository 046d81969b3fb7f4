/*
 * cursor.pml: publishers that commit in any order, and a consumer's cursor.
 *
 * Each message that is committed is delivered once, none that is not, and none
 * is passed over. A mark is taken as mark_take() does (mark.c): the snapshot,
 * then the last id drawn, then the next transaction id. What is between two
 * marks is window.c, and how the cursor goes on is look_into_outbox() in
 * fetch.c: what the high mark sees and the low one does not, by id, a few at a
 * time; then low becomes high.
 *
 * BUG_watermark  the cursor is the highest id delivered
 * BUG_order      the next transaction id is read before the last id drawn
 * BUG_next       a transaction that began after the snapshot is not taken for late
 * BUG_ack        the position is kept though its transaction was rolled back
 */
#define P 3                     /* publishers, of one message each; transaction ids are 1 to P */
#define DONE (ended == P)

byte next_xid = 1;
byte last_id;
byte ended;
byte id[P + 1];                 /* of the transaction's message; 0: none drawn */
bool running[P + 1];
bool committed[P + 1];
byte applied[P + 1];            /* how often its work was done, and committed */

typedef mark { byte floor; byte from; byte to; bool running[P + 1] };
mark low, high;
byte last;                      /* had in this window, up to this id; 0: there is none */

/* mark_sees(), of a message that is committed by now */
#ifdef BUG_next
#define LATE(m, x) (x < m.from && m.running[x])
#else
#define LATE(m, x) ((x < m.from && m.running[x]) || (x >= m.from && x < m.to))
#endif
#define SEES(m, x) (id[x] <= m.floor && !LATE(m, x))

/* idem_publish(): outbox.c. The transaction id is drawn before the message's */
proctype publisher()
{
	byte xid;

	atomic { xid = next_xid; next_xid++; running[xid] = true };
	atomic { last_id++; id[xid] = last_id };
	if
	:: atomic { committed[xid] = true; running[xid] = false; ended++ }
	:: atomic { running[xid] = false; ended++ }         /* ROLLBACK */
	fi
}

/* is the first between the marks, of the ids after what was had */
#ifdef BUG_watermark
#define WANTED(x) (committed[x] && id[x] > after && SEES(high, x))
#else
#define WANTED(x) (committed[x] && id[x] > after && SEES(high, x) && !SEES(low, x))
#endif

inline copy(a, b)
{
	a.floor = b.floor; a.from = b.from; a.to = b.to;
	a.running[1] = b.running[1]; a.running[2] = b.running[2]; a.running[3] = b.running[3]
}

/* the window's next message */
inline choose(after)
{
	found = 0;
	if :: WANTED(1) -> found = 1 :: else fi;
	if :: WANTED(2) && (found == 0 || id[2] < id[found]) -> found = 2 :: else fi;
	if :: WANTED(3) && (found == 0 || id[3] < id[found]) -> found = 3 :: else fi
}

proctype consumer()
{
	mark snapshot;
	mark low_before, high_before;
	byte found, before;
	bool drained, all;

	do
	:: drained -> break
	:: else ->
		all = DONE;
		/* mark_take() */
		atomic {
			snapshot.from = next_xid;
			snapshot.running[1] = running[1]; snapshot.running[2] = running[2]; snapshot.running[3] = running[3]
		};
#ifdef BUG_order
		snapshot.to = next_xid;
		snapshot.floor = last_id;
#else
		snapshot.floor = last_id;
		snapshot.to = next_xid;
#endif

		/* look_into_outbox() */
		atomic {
			copy(low_before, low); copy(high_before, high); before = last;
			found = 0;
			if
			:: last > 0 ->
				choose(last);
				if
				:: found == 0 -> copy(low, high)
				:: else
				fi
			:: else
			fi;
			if
			:: found == 0 ->
				copy(high, snapshot);
#ifdef BUG_watermark
				choose(last)
#else
				choose(0)
#endif
			:: else
			fi;
			if
			:: found > 0 -> last = id[found]
			:: else
#ifndef BUG_watermark
				-> last = 0
#endif
			fi
		};
		/* a batch of one; idem_ack(), and COMMIT or not */
		if
		:: atomic { found > 0 ->
				assert(committed[found] && applied[found] == 0);
				applied[found]++
			}
		:: atomic { found > 0 ->
#ifndef BUG_ack
				copy(low, low_before); copy(high, high_before); last = before
#endif
			}
		:: atomic { found == 0 ->
				/* an empty fetch writes nothing */
				copy(low, low_before); copy(high, high_before); last = before;
				drained = all
			}
		fi
	od;
	assert(applied[1] == committed[1] && applied[2] == committed[2] && applied[3] == committed[3])
}

init {
	atomic {
		low.from = 1; low.to = 1; high.from = 1; high.to = 1;
		run publisher(); run publisher(); run publisher(); run consumer()
	}
}
