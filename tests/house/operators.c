/* The table of operators as lines for tests/house/operators.sh: name, inputs, outputs, whether it is differentiated. */
#include <stdio.h>

#include "graph/op.h"

static void print_range(int least, int most) {
  enum { ANY = 1000 };
  if (least == most)
    printf("\t%d", least);
  else if (most >= ANY)
    printf("\t%d …", least);
  else
    printf("\t%d–%d", least, most);
}

int main(void) {
  for (int op = 0; op < OP_COUNT; op++) {
    const OpDef *def = op_def((OpKind)op);
    printf("%s", def->name);
    print_range(def->min_in, def->max_in);
    print_range(def->min_out, def->max_out);
    printf("\t%s\t%s\n", def->gradient ? "yes" : "", def->batch ? "yes" : "");
  }
  return 0;
}
