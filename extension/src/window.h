/*
 * window.h
 *	  The messages between two marks.
 */
#ifndef IDEM_WINDOW_H
#define IDEM_WINDOW_H

#include "lane.h"
#include "mark.h"

#include "executor/tuptable.h"

#define ALL_GENERATIONS (-1)

typedef struct Window Window;

extern Window *window_open(const Mark *low, const Mark *high, int64 after, Slots slots,
						   int generation);
extern Window *window_of(int64 id, int32 slot);
extern TupleTableSlot *window_next(Window *window);
extern int64 window_cost(const Window *window);
extern void window_close(Window *window);

#endif							/* IDEM_WINDOW_H */
