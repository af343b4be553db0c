/* Prints which of the build's instruction sets the processor has, and of which backend/test_cpu therefore ran nothing.
 */
#include <stdio.h>

#include "backend/cpu/isa.h"

static void print(const char *what, bool runs) {
  printf("%s", what);
  int n = 0;
  for (int i = 0; isas[i]; i++)
    if (isas[i]->runs() == runs)
      printf("%s %s", n++ ? "," : "", isas[i]->name);
  printf("%s\n", n ? "" : " none");
}

int main(void) {
  print("instruction sets that backend/test_cpu ran:", true);
  print("and not, because this processor lacks them:", false);
  return 0;
}
