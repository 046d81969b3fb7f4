/*
 * hold_lseek.c
 *	  To be loaded before all else into a server: the process that the file
 *	  HOLD_LSEEK names waits where it asks how long a certain file is.
 *
 * That file has the process's number and the other file's name.  It is renamed
 * once the process waits, and removed to let it go on.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WAIT_MOST 30000			/* ms */

static void
hold(int fd)
{
	const char *control = getenv("HOLD_LSEEK");
	FILE	   *file = control == NULL ? NULL : fopen(control, "r");
	int			pid = 0;
	char		name[PATH_MAX];
	char		link[64];
	char		path[PATH_MAX];
	char		held[PATH_MAX];
	ssize_t		len;

	if (file == NULL)
		return;
	if (fscanf(file, "%d %4095s", &pid, name) != 2)
		pid = 0;
	(void) fclose(file);
	(void) snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (pid != getpid() || len < (ssize_t) strlen(name))
		return;
	path[len] = '\0';
	if (strcmp(path + len - strlen(name), name) != 0)
		return;

	(void) snprintf(held, sizeof(held), "%s.held", control);
	(void) rename(control, held);
	for (int i = 0; i < WAIT_MOST && access(held, F_OK) == 0; i++)
		(void) usleep(1000);
}

off_t
lseek(int fd, off_t offset, int whence)
{
	if (whence == SEEK_END)
		hold(fd);
	return syscall(SYS_lseek, fd, offset, whence);
}

off64_t lseek64(int fd, off64_t offset, int whence) __attribute__((alias("lseek")));
