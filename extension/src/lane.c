/*
 * lane.c
 *	  Which of a consumer's lanes a message is in.
 *
 * A message has a slot, from its key, or from its id if it has none.  A lane
 * has a range of slots, so that the index on (id, slot) tells its messages
 * from those of others.
 *
 * Lanes grow as the buckets of a hash index do: one more lane takes half of
 * the slots of one that is there, its parent.  A lane keeps its number, and
 * what it has left of its keys.
 */
#include "lane.h"

#define SLOT_BITS 31

static uint32
mix(uint32 h)
{
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

/*
 * It is stored with the message, and must be the same for ever.
 */
int32
lane_slot(const text *key, int64 id)
{
	uint32		h = 0x811c9dc5;

	if (key == NULL)
		h = mix((uint32) ((uint64) id >> 32)) ^ (uint32) id;
	else
	{
		const unsigned char *bytes = (const unsigned char *) VARDATA_ANY(key);
		int			len = VARSIZE_ANY_EXHDR(key);

		for (int i = 0; i < len; i++)
			h = (h ^ bytes[i]) * 0x01000193;	/* FNV-1a */
	}
	return (int32) (mix(h) & PG_INT32_MAX);
}

static uint32
reverse(uint32 n, int bits)
{
	uint32		reversed = 0;

	for (int i = 0; i < bits; i++)
		reversed = reversed << 1 | (n >> i & 1);
	return reversed;
}

/*
 * As many bits as number the lanes.
 */
static int
bits_for(int lanes)
{
	int			bits = 0;

	while (1 << bits < lanes)
		bits++;
	return bits;
}

Slots
lane_slots(int lane, int lanes)
{
	int			bits = bits_for(lanes);
	Slots		slots;
	uint32		first;

	/* not split yet, at this level */
	if (bits > 0 && lane < 1 << (bits - 1) && lane + (1 << (bits - 1)) >= lanes)
		bits--;
	first = reverse(lane, bits) << (SLOT_BITS - bits);
	slots.first = (int32) first;
	slots.last = (int32) (first + ((1U << (SLOT_BITS - bits)) - 1));
	return slots;
}

int
lane_of(int32 slot, int lanes)
{
	int			bits = bits_for(lanes);
	int			lane = (int) reverse((uint32) slot >> (SLOT_BITS - bits), bits);

	return lane < lanes ? lane : lane_parent(lane);
}

/*
 * Whose slots it took.  Not for lane 0, which was the first.
 */
int
lane_parent(int lane)
{
	return lane - (1 << (bits_for(lane + 1) - 1));
}
