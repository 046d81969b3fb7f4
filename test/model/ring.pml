/*
 * ring.pml: one key through its lives, while the ring of generations turns.
 *
 * A key that lives is never forgotten: who holds its lock and finds no living
 * row may claim it, so there must be none. The steps of the ring are those of
 * turn() in ring.c. A step is committed, and so can be read, a moment before
 * all backends know of it; until the next step each goes by the state before
 * or by the new one, and does not go back.
 *
 * BUG_open     the next generation takes rows without having been opened before
 * BUG_promise  the end of a generation is promised with the advance, when not everybody knows of it
 * BUG_clock    the writer reads the clock once it has found the generation current
 * BUG_retire   a generation is retired a moment before its promised end
 * BUG_first    the first generation that has the key is believed, though its row has expired
 */
#define TTL 1                   /* of a generation; a row's is this, or next to nothing */
#define TICKS 4
#define CLAIMS 3
#define INFINITY 100
#define RETIRED 0

typedef ring_state { byte current; byte opened; byte ends[3] };
ring_state was, now;            /* before the last step, and after it */
bool noticed[2];                /* this backend knows of it */
bool settled = true;            /* and so do all */

byte clock = 1;
byte claims;
bool writing[3];                /* somebody has locked the generation to write */
byte life[3];                   /* of the key's rows there the youngest; 0: the generation is empty */
byte until[3];                  /* and when it expires */
byte lives_until;               /* what is true: the key's last completion */

/* ring_now(): does this backend notice the last step now? */
#define LOOK if :: noticed[me] = true :: !noticed[me] && !settled fi
#define KNOWN(field) (noticed[me] -> now.field : was.field)

/* probe(), find_in(): what was retired before it was locked is not looked into */
inline probe(g)
{
	if
#ifdef BUG_first
	:: KNOWN(ends[g]) == RETIRED || found > 0
#else
	:: KNOWN(ends[g]) == RETIRED || expires > clock
#endif
	:: else ->
		LOOK;
		if
		:: KNOWN(ends[g]) != RETIRED && life[g] > found -> found = life[g]; expires = until[g]
		:: else
		fi
	fi
}

/* two backends, in turns: the key's lock lets no more than one of them be at it */
proctype client()
{
	byte g, found, expires, c;
	bit me;

	do
	:: claims == CLAIMS || clock == TICKS -> break
	:: atomic { claims < CLAIMS ->
			if :: me = 0 :: me = 1 fi;
			LOOK;                               /* key_store_find(): from the youngest generation on */
			g = KNOWN(current);
			if
			:: KNOWN(ends[(g + 1) % 3]) == INFINITY -> g = (g + 1) % 3
			:: else
			fi
		};
		atomic {
			probe(g);
			probe((g + 2) % 3);
			probe((g + 1) % 3);
			g = 0
		};
		if
		:: atomic { expires > clock -> found = 0; expires = 0; me = 0 }   /* "completed" */
		:: atomic { expires <= clock ->
				assert(lives_until <= clock);   /* "claimed": it does not live */
				found = 0; expires = 0;
				claims++;
				c = clock                       /* key_store_insert(): the clock, then open_for() */
			};
			do
			:: atomic { LOOK; g = KNOWN(current) };
				atomic {
					writing[g] = true;
					LOOK;
					if
					:: KNOWN(current) == g -> break
					:: else -> writing[g] = false
					fi
				}
			od;
#ifdef BUG_clock
			c = clock;
#endif
			atomic {                            /* COMMIT */
				life[g] = claims;
				if :: until[g] = c + TTL :: until[g] = c fi;
				lives_until = until[g];
				writing[g] = false;
				g = 0; c = 0; me = 0
			}
		fi
	od
}

inline copy(to, from)
{
	to.current = from.current; to.opened = from.opened;
	to.ends[0] = from.ends[0]; to.ends[1] = from.ends[1]; to.ends[2] = from.ends[2]
}

#define COMMIT_OF(change) settled -> change; noticed[0] = false; noticed[1] = false; settled = false
#define LAST ((now.current + 2) % 3)
#define NEXT ((now.current + 1) % 3)
#define PROMISED (now.ends[LAST] != INFINITY)
#define OLD (clock >= now.opened + TTL && PROMISED)
#ifdef BUG_retire
#define OVER(g) (now.ends[g] <= clock + 1)
#else
#define OVER(g) (now.ends[g] <= clock)
#endif
#define TRUNCATE(g) d_step { now.ends[g] == RETIRED && life[g] > 0 && !writing[g] -> life[g] = 0; until[g] = 0 }
#define RETIRE(g) atomic { now.ends[g] != RETIRED && PROMISED && OVER(g) && !writing[g] && COMMIT_OF(now.ends[g] = RETIRED) }

proctype maintainer()
{
	do
	:: clock == TICKS -> break
	:: d_step { !settled -> noticed[0] = true; noticed[1] = true; settled = true; copy(was, now) }
	:: atomic { !PROMISED && COMMIT_OF(now.ends[LAST] = clock + TTL) }
	:: TRUNCATE(0)
	:: TRUNCATE(1)
	:: TRUNCATE(2)
	:: RETIRE(0)
	:: RETIRE(1)
	:: RETIRE(2)
#ifndef BUG_open
	:: atomic { OLD && now.ends[NEXT] == RETIRED && life[NEXT] == 0 && COMMIT_OF(now.ends[NEXT] = INFINITY) }
	:: atomic { OLD && now.ends[NEXT] == INFINITY && COMMIT_OF(now.opened = clock; now.current = NEXT);
#else
	:: atomic { OLD && now.ends[NEXT] == RETIRED && life[NEXT] == 0 && COMMIT_OF(now.ends[NEXT] = INFINITY; now.opened = clock; now.current = NEXT);
#endif
#ifdef BUG_promise
			now.ends[LAST] = clock + TTL
#endif
		}
	od
}

/* what has expired is all the same from then on */
#define EXPIRE(time) time = (time <= clock -> 0 : time)

proctype time()
{
	do
	:: clock == TICKS -> break
	:: d_step { clock < TICKS -> clock++; EXPIRE(until[0]); EXPIRE(until[1]); EXPIRE(until[2]); EXPIRE(lives_until) }
	od
}

init { atomic { now.opened = 1; now.ends[0] = INFINITY; copy(was, now); run client(); run maintainer(); run time() } }
