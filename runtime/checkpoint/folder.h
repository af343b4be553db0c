/* A folder of checkpoints: one folder a step, "step-000000010". What is written lies aside, ".step-000000010.part",
 * until all of it is on the disk; then it is renamed. Invariant: what has a step's name was whole when it got it. */
#ifndef RUNTIME_CHECKPOINT_FOLDER_H
#define RUNTIME_CHECKPOINT_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"

enum { FOLDER_PATH = 4096 };

/* The path of a step's folder, in the arena; NULL when memory is out. */
char *folder_step_path(Arena *arena, const char *folder, int64_t step);
/* The path of a file of what is aside for a step. */
Status folder_aside_file(const char *folder, int64_t step, const char *name, char path[FOLDER_PATH]);

/* The step of a path that ends in such a name, or is the link to the best; -1: it is neither. */
int64_t folder_step_of(const char *path);

/* The steps that are there, ascending. E_IO where the folder cannot be read. */
Status folder_list(Arena *arena, const char *folder, int64_t **steps, int *n);

/* Makes the folder where it is not there, and takes it for this run until *lock is closed, or the process ends, in
 * whichever way. E_USAGE where another run has it, naming that; what ended runs left aside is removed. */
Status folder_take(const char *folder, int *lock);

/* The lock that folder_take gave is the folder's still. One that is not there any more is made anew where nobody else
 * has it by now; else E_USAGE, naming who does. */
Status folder_hold(const char *folder, int lock);

/* A new folder aside, for files of so many bytes. What was aside for this step is removed. E_IO, with both numbers,
 * where the file system has less left. */
Status folder_begin(const char *folder, int64_t step, uint64_t bytes);
/* What is aside takes its place, in place of what has it, which is there until then. Every file in it was synced. */
Status folder_commit(const char *folder, int64_t step);
/* Removes what is aside for the step, if anything. */
void folder_abandon(const char *folder, int64_t step);

/* The step's folder is "best" from now on: a link to it. */
Status folder_mark_best(const char *folder, int64_t step);
/* Removes all but the `keep` newest and the best. */
Status folder_keep(const char *folder, int keep);
/* Gives the checkpoints of later steps, which are damaged, names that are no steps': "damaged-step-…". */
Status folder_set_aside_after(const char *folder, int64_t step);

/* What the folder's entries are is on the disk. */
Status folder_sync(const char *path);

#endif
