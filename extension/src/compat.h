/*
 * compat.h
 *	  The one place that knows how PostgreSQL's major versions differ.
 */
#ifndef IDEM_COMPAT_H
#define IDEM_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "idem supports PostgreSQL 15 to 18"
#endif

#if PG_VERSION_NUM >= 180000
#define idem_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#define idem_index_beginscan_bitmap(index, snapshot, nkeys) \
	index_beginscan_bitmap(index, snapshot, NULL, nkeys)
#define idem_primary_key(rel)		RelationGetPrimaryKeyIndex(rel, true)
#else
#define idem_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#define idem_index_beginscan_bitmap(index, snapshot, nkeys) \
	index_beginscan_bitmap(index, snapshot, nkeys)
#define idem_primary_key(rel)		RelationGetPrimaryKeyIndex(rel)
#endif

#if PG_VERSION_NUM >= 170000
#define idem_index_insert_cleanup(index, info) index_insert_cleanup(index, info)
#define idem_truncate(rels, relids) \
	ExecuteTruncateGuts(rels, relids, NIL, DROP_RESTRICT, false, false)
#define idem_wait_event(name)		WaitEventExtensionNew(name)
#define idem_vxid_proc(vxid)		ProcNumberGetProc((vxid).procNumber)
#define idem_proc_lxid(proc)		((proc)->vxid.lxid)
#else
#define idem_index_insert_cleanup(index, info) ((void) (info))
#define idem_truncate(rels, relids) \
	ExecuteTruncateGuts(rels, relids, NIL, DROP_RESTRICT, false)
#define idem_wait_event(name)		((void) (name), PG_WAIT_EXTENSION)
#define idem_vxid_proc(vxid)		BackendIdGetProc((vxid).backendId)
#define idem_proc_lxid(proc)		((proc)->lxid)
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"				/* before, it came with postgres.h */
#define idem_define_index(heap, stmt) \
	DefineIndex(heap, stmt, InvalidOid, InvalidOid, InvalidOid, -1, false, false, false, false, true)
#define idem_may_execute(function, role) \
	(object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK)
#else
#define idem_define_index(heap, stmt) \
	DefineIndex(heap, stmt, InvalidOid, InvalidOid, InvalidOid, false, false, false, false, true)
#define idem_may_execute(function, role) \
	(pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK)
#endif

/* a background worker may connect as a role that has no LOGIN */
#if PG_VERSION_NUM >= 170000
#define IDEM_WORKER_NEEDS_LOGIN		false
#define IDEM_WORKER_FLAGS			BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define IDEM_WORKER_NEEDS_LOGIN		true
#define IDEM_WORKER_FLAGS			0
#endif

/* libpq/libpq.h, where this stands, needs the headers of GSSAPI */
extern bool pq_check_connection(void);

#endif							/* IDEM_COMPAT_H */
