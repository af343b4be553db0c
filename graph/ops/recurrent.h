/* What RecurrentSteps and its gradient are made of: for shape rules and kernels alike. */
#ifndef GRAPH_OPS_RECURRENT_H
#define GRAPH_OPS_RECURRENT_H

#include "graph/graph.h"

/* GRU_AFTER: the reset gate multiplies what the recurrent product gave (linear_before_reset), as PyTorch's does. */
typedef enum { CELL_TANH, CELL_RELU, CELL_GRU, CELL_GRU_AFTER, CELL_LSTM, CELL_COUNT } RecurrentCell;

/* H units, N samples, T steps. Blocks of H along the last axis: of P (`gates`), of the bias (`biases`), and of what is
 * saved for the gradient (`saved`): z, r, h~ of a GRU, and behind them R_h h + b_h where the reset comes after; i, o,
 * f, g and the cell before the step of an LSTM; the other cells need no more than Y. */
typedef struct {
  RecurrentCell cell;
  bool reverse;
  int gates, biases, saved;
} Recurrent;

/* By the attributes `cell` (the names below) and `reverse`; false where it is no cell. */
bool recurrent_of(const Node *node, Recurrent *recurrent);
extern const char *const recurrent_cells[CELL_COUNT];

/* Which output of RecurrentSteps, which input of its gradient. */
enum { STEPS_P, STEPS_R, STEPS_B, STEPS_H0, STEPS_C0, STEPS_LENGTHS };
enum { STEPS_GRAD_R, STEPS_GRAD_PREV, STEPS_GRAD_SAVED, STEPS_GRAD_Y, STEPS_GRAD_H, STEPS_GRAD_C, STEPS_GRAD_LENGTHS };

#endif
