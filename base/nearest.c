/* Edit distances of short names. Invariant: names longer than LETTERS are nobody's nearest. */
#include "base/nearest.h"

#include <stdio.h>
#include <string.h>

enum { LETTERS = 80, NAMES = 256 };

static int least(int a, int b) {
  return a < b ? a : b;
}

/* Optimal string alignment: Levenshtein's distance, with neighbours that swapped places counted once. */
static int edits(const char *a, int n, const char *b, int m) {
  int rows[3][LETTERS + 1]; /* of the last two letters of a, and of this one */
  for (int k = 0; k <= m; k++)
    rows[0][k] = k;
  for (int i = 1; i <= n; i++) {
    int *row = rows[i % 3], *before = rows[(i + 2) % 3], *two_before = rows[(i + 1) % 3];
    row[0] = i;
    for (int k = 1; k <= m; k++) {
      row[k] = least(least(before[k] + 1, row[k - 1] + 1), before[k - 1] + (a[i - 1] != b[k - 1]));
      if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
        row[k] = least(row[k], two_before[k - 2] + 1);
    }
  }
  return rows[n % 3][m];
}

int nearest_name(const char *word, const char *const *names, int n) {
  size_t letters = strlen(word);
  int best = -1, fewest = (int)(letters < 6 ? 1 : letters / 3) + 1;
  for (int i = 0; i < n && letters <= LETTERS; i++) {
    size_t length = strlen(names[i]);
    if (!length || length > LETTERS || strcmp(word, names[i]) == 0)
      continue;
    bool begun = letters >= 3 && strncmp(word, names[i], letters) == 0;
    int away = begun ? 1 : edits(word, (int)letters, names[i], (int)length);
    if (away >= fewest || away >= (int)letters)
      continue;
    best = i;
    fewest = away;
  }
  return best;
}

const char *nearest_hint(const char *word, const char *const *names, int n, char text[NEAREST_BYTES]) {
  int i = nearest_name(word, names, n);
  text[0] = '\0';
  if (i >= 0)
    snprintf(text, NEAREST_BYTES, " (did you mean %s?)", names[i]);
  return text;
}

const char *nearest_hint_of(const char *word, const char *names, char text[NEAREST_BYTES]) {
  char copy[4096], *rest = copy, *name;
  const char *list[NAMES];
  int n = 0;
  snprintf(copy, sizeof copy, "%s", names);
  while (n < NAMES && (name = strsep(&rest, " ")))
    list[n++] = name;
  return nearest_hint(word, list, n, text);
}
