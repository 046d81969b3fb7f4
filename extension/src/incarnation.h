/*
 * incarnation.h
 *	  Which life of the database this is.
 */
#ifndef IDEM_INCARNATION_H
#define IDEM_INCARNATION_H

#include "idem.h"

typedef struct Incarnation
{
	int64		era;			/* the cluster: its system identifier */
	int64		branch;			/* its timeline, and which installation of the extension */
} Incarnation;

#define INCARNATION_MAX_BYTES 42	/* of its text */

extern int64 incarnation_era(void);
extern Incarnation incarnation_now(void);
extern bool incarnation_equal(const Incarnation *a, const Incarnation *b);
extern char *incarnation_text(const Incarnation *incarnation);

#endif							/* IDEM_INCARNATION_H */
