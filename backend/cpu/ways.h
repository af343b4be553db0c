/* Which of its ways the cpu backend takes for a node, for people; and what its files say of theirs. */
#ifndef BACKEND_CPU_WAYS_H
#define BACKEND_CPU_WAYS_H

#include "backend/backend.h"

/* As Backend.way. */
void cpu_way(const Graph *graph, const Node *node, char text[WAY_BYTES]);

/* Whether attention's tiles take the node (narrow: those of bfloat16), and the packed steps a recurrent one; else the
 * reference does. */
bool attention_takes(const Graph *graph, const Node *node, bool *narrow);
bool recurrent_takes(const Node *node, DType dtype);

#endif
