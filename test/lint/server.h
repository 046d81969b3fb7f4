/*
 * server.h
 *	  What cppcheck must know of the server's macros, instead of its headers.
 */
#define PG_VERSION_NUM 150000
#define ERROR 21
#define ereport(level, ...) do { (void) (__VA_ARGS__); if ((level) >= ERROR) __builtin_unreachable(); } while (0)
#define elog(level, ...) do { (void) (__VA_ARGS__); if ((level) >= ERROR) __builtin_unreachable(); } while (0)
#define Assert(condition) do { if (!(condition)) __builtin_unreachable(); } while (0)
#define PG_FUNCTION_INFO_V1(name)
#define PG_TRY() do { {
#define PG_CATCH() } {
#define PG_FINALLY() } {
#define PG_END_TRY() } } while (0)
#define foreach(cell, list) for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
#define PG_RETURN_NULL() return 0
#define PG_RETURN_VOID() return 0
#define PG_USED_FOR_ASSERTS_ONLY
