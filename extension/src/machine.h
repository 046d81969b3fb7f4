/*
 * machine.h
 *	  State machines: which state may follow which.
 */
#ifndef IDEM_MACHINE_H
#define IDEM_MACHINE_H

#include "idem.h"

#include "utils/relcache.h"

/* a transition that was refused; what is longer than a name is cut */
typedef struct MachineRefusal
{
	char		machine[IDEM_MAX_NAME_BYTES + 1];
	bool		has_from;		/* else it was to begin */
	char		from[IDEM_MAX_NAME_BYTES + 1];
	bool		has_to;			/* else it was NULL */
	char		to[IDEM_MAX_NAME_BYTES + 1];
} MachineRefusal;

extern void machine_require(const char *machine);
extern bool machine_has_state(const char *machine, const char *state);
extern bool machine_is_final(const char *machine, const char *state);
extern bool machine_allows(const char *machine, const char *from, const char *to);
extern void machine_refuse(const char *machine, const char *from, const char *to,
						   Relation rel, const char *detail);
extern const MachineRefusal *machine_last_refusal(void);
extern void machine_forget_refusal(void);

#endif							/* IDEM_MACHINE_H */
