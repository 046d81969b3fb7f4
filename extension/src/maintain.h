/*
 * maintain.h
 *	  All upkeep, in steps with a commit after each.
 */
#ifndef IDEM_MAINTAIN_H
#define IDEM_MAINTAIN_H

extern void maintain(void (*commit) (void));

#endif							/* IDEM_MAINTAIN_H */
