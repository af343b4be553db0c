/* Conv and ConvGradInput as one kind of sum: a result is made of the taps of an input's frame. Invariant: a plan
 * follows from shapes and attributes. */
#ifndef BACKEND_CPU_CONVOLUTION_PLAN_H
#define BACKEND_CPU_CONVOLUTION_PLAN_H

#include "backend/cpu/tiles.h"

/* A task in tiles has in its scratch the sums of its tiles and what turns lines of them, and may have their places and
 * weights. */
enum {
  LOCAL_BYTES = 640 << 10, /* of places and sums */
  SUMS_BYTES = 512 << 10,
  WEIGHT_BYTES = 256 << 10,
  TURN_BYTES = 128 << 10
};

/* Results at first + i * step along each axis, from the taps of the frame that lie `offset` from i * reach. What a
 * gradient of the input reads at one place depends on the place's remainders by the strides: each is a part, with some
 * of the taps. A convolution has one. */
typedef struct {
  int64_t count[AXES], first[AXES], step[AXES];
  int64_t taps;
  int64_t *offset, *weight; /* [taps] in the frame, and in a kernel */
  int64_t packed;           /* where its weights begin among all, in elements */
} Part;

typedef struct {
  int64_t samples, groups, rows, channels;    /* rows of the result and channels that are read, of one group */
  int64_t row_step, channel_step;             /* in the weights */
  int64_t result[AXES], result_plane, kernel; /* sizes */
  Frame frame;                                /* of what is read */
  int64_t reach[AXES];                        /* in the frame, from a result to the next */
  int64_t depth;                              /* slices that a result's taps span */
  int64_t samples_at_once, slices_at_once;    /* of results, so that what they read is laid out at once */
  bool direct;                                /* the frame is the input as it lies */
  bool tiled;                                 /* results are made in tiles (winograd.inc): */
  int64_t tile[AXES], places, count[AXES];    /* of a tile: results along each axis, what they read; and how many */
  int64_t pitch;                              /* channels side by side at a place, and from one tile to the next */
  int64_t block, at_once;                     /* tiles of a task, and whose places are laid out at once */
  bool local;                                 /* each task lays out its own tiles, in its scratch */
  bool fused;                                 /* tiles are few: who needs weights at their places packs them */
  bool flips;                                 /* the last tap first */
  bool covers;                                /* every result belongs to a part */
  int n_parts;
  Part *parts;
} Plan;

/* Everything but the parts, for elements of `size` bytes; false where the frame would be out of proportion. */
bool plan_sizes(const Convolution *c, bool spreads, size_t size, Plan *plan);

/* The parts, in memory that `free(plan->parts)` releases. */
Status plan_parts(const Convolution *c, bool spreads, Plan *plan);

/* Tiles in all. */
int64_t plan_tiles(const Plan *plan);

/* Elements of the packed weights. */
int64_t plan_packed(const Plan *plan, size_t size);

/* Slices of the frame that are laid out at once, and elements of a channel and of all of them. */
int64_t plan_slices(const Plan *plan);
int64_t plan_plane(const Plan *plan);
int64_t plan_laid(const Plan *plan);

#endif
