/* The known name that an unknown one was meant to be. */
#ifndef BASE_NEAREST_H
#define BASE_NEAREST_H

#include <stdbool.h>
#include <stddef.h>

/* Index of the name that is least edits away from `word` (a letter more, less, another, or two swapped count one each),
 * the first of several; names that begin with all of the word's three letters or more are one edit away. -1 where even
 * that one is more than a third of the word's letters away, and more than one edit, or nothing is left of it. */
int nearest_name(const char *word, const char *const *names, int n);

enum { NEAREST_BYTES = 128 };

/* " (did you mean NAME?)" for a word that is none of the names, "" where none is near. */
const char *nearest_hint(const char *word, const char *const *names, int n, char text[NEAREST_BYTES]);
/* The same for names in one text, spaces between. */
const char *nearest_hint_of(const char *word, const char *names, char text[NEAREST_BYTES]);

#endif
