/* Blocks of threads as fibers. Invariant: a fiber runs threads one after another until one of them waits; so a kernel
 * without barriers needs a single fiber, and one with them as many as its block has threads. */
#include "emulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <vector>

#include "runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define BEFORE_SWITCH(save, to) __sanitizer_start_switch_fiber(save, (to)->stack, (to)->bytes)
#define AFTER_SWITCH(fake, stack, bytes) __sanitizer_finish_switch_fiber(fake, stack, bytes)
#else
#define BEFORE_SWITCH(save, to) (void)(to)
#define AFTER_SWITCH(fake, stack, bytes) (void)(fake)
#endif

enum { WARP = 32, STACK_BYTES = 64 << 10 };

enum State { RUNS, AT_BARRIER, AT_SHUFFLE, DONE };

struct Fiber {
  ucontext_t context; /* to begin with; later `at` */
  void *at[5];        /* __builtin_setjmp's */
  const void *stack;
  size_t bytes;
  void *fake;
  bool begun;
};

typedef void Together(void *const lane[WARP]);

struct Copy {
  void *to;
  const void *from;
  int bytes, group;
  bool real;
};

struct Thread : EmulatedThread {
  State state;
  int line;
  void *own; /* at a shuffle */
  Together *together;
  std::vector<Copy> copies; /* that it has not waited for */
  int groups;
  Fiber *fiber;
};

static struct Running {
  Fiber scheduler;
  std::vector<Fiber *> fibers; /* the first in_use of them have a thread of the block */
  size_t in_use;
  std::vector<Thread> threads;
  std::vector<int> order; /* of starting */
  size_t next;            /* in order */
  const std::function<void()> *run;
  char *shared;
  ~Running() {
    for (Fiber *f : fibers) {
      free((void *)f->stack);
      delete f;
    }
  }
} block;

EmulatedThread *emulated;

static void die(const char *what, const Thread &t) {
  fprintf(stderr, "emulated device: %s: block %d, thread %d, line %d\n", what, t.block, t.thread, t.line);
  abort();
}

/* On a fiber: it was entered from the scheduler, on whatever thread that runs now. */
static void entered(void *fake) {
  AFTER_SWITCH(fake, &block.scheduler.stack, &block.scheduler.bytes);
}

/* The compiler's own jump: a sanitizer takes longjmp for the end of all frames on the stack, at some expense. */
#define QUIET __attribute__((noinline, no_sanitize("address", "undefined")))

QUIET static void jump(Fiber *to) {
  if (to->begun)
    __builtin_longjmp(to->at, 1);
  to->begun = true;
  setcontext(&to->context);
}

QUIET static void switch_to(Fiber *from, Fiber *to) {
  BEFORE_SWITCH(&from->fake, to);
  if (!__builtin_setjmp(from->at))
    jump(to);
  if (from == &block.scheduler)
    AFTER_SWITCH(from->fake, NULL, NULL);
  else
    entered(from->fake);
}

static void fiber_main() {
  entered(NULL);
  for (;;) {
    Fiber *self = block.fibers[block.in_use - 1]; /* it was just taken */
    while (block.next < block.order.size()) {
      Thread &t = block.threads[(size_t)block.order[block.next++]];
      t.fiber = self;
      emulated = &t;
      (*block.run)();
      t.state = DONE;
      self = t.fiber;
    }
    switch_to(self, &block.scheduler);
  }
}

static Fiber *new_fiber() {
  Fiber *f = new Fiber();
  f->bytes = STACK_BYTES;
  f->stack = aligned_alloc(4096, STACK_BYTES);
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = (void *)f->stack;
  f->context.uc_stack.ss_size = f->bytes;
  f->context.uc_link = NULL;
  makecontext(&f->context, fiber_main, 0);
  return f;
}

/* Until the scheduler lets the thread go on. */
static void wait(State state, int line) {
  Thread *t = (Thread *)emulated;
  t->state = state;
  t->line = line;
  switch_to(t->fiber, &block.scheduler);
  emulated = t;
}

void emulated_barrier(int line) {
  wait(AT_BARRIER, line);
}

void emulated_warp(void *own, Together *together, int line) {
  Thread *t = (Thread *)emulated;
  t->own = own;
  t->together = together;
  wait(AT_SHUFFLE, line);
}

char *shared_memory() {
  return block.shared;
}

static void matrices(void *const lane[WARP], bool transposed) {
  for (int l = 0; l < WARP; l++)
    for (int m = 0; m < 4; m++) {
      uint16_t two[2];
      for (int k = 0; k < 2; k++) {
        int row = transposed ? l % 4 * 2 + k : l / 4, column = transposed ? l / 4 : l % 4 * 2 + k;
        two[k] = ((EmulatedMatrices *)lane[8 * m + row])->row[column];
      }
      memcpy(&((EmulatedMatrices *)lane[l])->to[m], two, sizeof two);
    }
}

void emulated_matrices(void *const lane[WARP]) {
  matrices(lane, false);
}
void emulated_transposed(void *const lane[WARP]) {
  matrices(lane, true);
}

/* The bfloat16 number in the upper or lower half. */
static float half_of(uint32_t two, int upper) {
  uint32_t bits = upper ? two & 0xffff0000u : two << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

void emulated_product(void *const lane[WARP]) {
  float a[16][16], b[16][8];
  for (int l = 0; l < WARP; l++) {
    const EmulatedProduct *own = (const EmulatedProduct *)lane[l];
    for (int k = 0; k < 2; k++) {
      for (int m = 0; m < 4; m++)
        a[l / 4 + m % 2 * 8][l % 4 * 2 + k + m / 2 * 8] = half_of(own->a[m], k);
      for (int m = 0; m < 2; m++)
        b[l % 4 * 2 + k + m * 8][l / 4] = half_of(own->b[m], k);
    }
  }
  for (int l = 0; l < WARP; l++)
    for (int k = 0; k < 4; k++) {
      int row = l / 4 + k / 2 * 8, column = l % 4 * 2 + k % 2;
      float *c = ((EmulatedProduct *)lane[l])->c;
      for (int i = 0; i < 16; i++)
        c[k] += a[row][i] * b[i][column];
    }
}

void emulated_copy(void *to, const void *from, int bytes, bool real) {
  Thread *t = (Thread *)emulated;
  if ((uintptr_t)to % (uintptr_t)bytes || (uintptr_t)from % (uintptr_t)bytes)
    die("a copy between addresses that are no multiples", *t);
  t->copies.push_back({to, from, bytes, t->groups, real});
}

void emulated_copies_end() {
  ((Thread *)emulated)->groups++;
}

void emulated_copies_wait(int left) {
  Thread *t = (Thread *)emulated;
  size_t kept = 0;
  for (const Copy &c : t->copies)
    if (c.group >= t->groups - left)
      t->copies[kept++] = c;
    else if (c.real)
      memcpy(c.to, c.from, (size_t)c.bytes);
    else
      memset(c.to, 0, (size_t)c.bytes);
  t->copies.resize(kept);
}

static void shuffle_order() {
  for (size_t i = block.order.size(); i > 1; i--)
    std::swap(block.order[i - 1], block.order[emulated_random() % i]);
}

static void start_threads() {
  block.next = 0;
  while (block.next < block.order.size()) {
    if (block.in_use == block.fibers.size())
      block.fibers.push_back(new_fiber());
    switch_to(&block.scheduler, block.fibers[block.in_use++]);
  }
}

/* All threads from first to last wait at one place in this state; false when some have not come yet. */
static bool meet(State state, size_t first, size_t last) {
  for (size_t i = first; i < last; i++)
    if (block.threads[i].state != state)
      return false;
  for (size_t i = first; i < last; i++)
    if (block.threads[i].line != block.threads[first].line)
      die("threads wait at two places", block.threads[i]);
  return true;
}

static void exchange(size_t first) {
  void *lane[WARP];
  for (size_t i = 0; i < WARP; i++) {
    lane[i] = block.threads[first + i].own;
    block.threads[first + i].state = RUNS;
  }
  block.threads[first].together(lane);
}

/* Lets go who may; false when all are done. */
static bool release() {
  size_t n = block.threads.size(), done = 0;
  bool any = false;
  for (size_t first = 0; first < n; first += WARP)
    if (meet(AT_SHUFFLE, first, first + WARP)) {
      exchange(first);
      any = true;
    }
  if (!any && meet(AT_BARRIER, 0, n)) {
    for (Thread &t : block.threads)
      t.state = RUNS;
    any = true;
  }
  for (const Thread &t : block.threads)
    done += t.state == DONE;
  if (!any && done < n)
    for (const Thread &t : block.threads)
      if (t.state != DONE)
        die("not all threads of a block or warp come to where this one waits", t);
  return any;
}

static void run_block(int index, int blocks, int threads, const std::function<void()> &run) {
  block.run = &run;
  block.in_use = 0;
  block.threads.assign((size_t)threads, Thread());
  block.order.resize((size_t)threads);
  for (int i = 0; i < threads; i++) {
    Thread &t = block.threads[(size_t)i];
    t.thread = i;
    t.block = index;
    t.block_size = threads;
    t.grid_size = blocks;
    block.order[(size_t)i] = i;
  }
  shuffle_order();
  start_threads();
  while (release()) {
    shuffle_order();
    for (int i : block.order)
      if (block.threads[(size_t)i].state == RUNS)
        switch_to(&block.scheduler, block.threads[(size_t)i].fiber);
  }
}

void emulated_run(int blocks, int threads, size_t shared, const std::function<void()> &run) {
  block.scheduler.begun = true;
  if (blocks < 1 || threads < WARP || threads > 1024 || threads % WARP) {
    fprintf(stderr, "emulated device: a launch of %d blocks of %d threads\n", blocks, threads);
    abort();
  }
  std::vector<int> order((size_t)blocks);
  for (int i = 0; i < blocks; i++)
    order[(size_t)i] = i;
  for (size_t i = order.size(); i > 1; i--)
    std::swap(order[i - 1], order[emulated_random() % i]);
  for (int i : order) {
    block.shared = shared ? (char *)aligned_alloc(128, (shared + 127) / 128 * 128) : NULL;
    if (shared)
      memset(block.shared, 0xff, shared);
    run_block(i, blocks, threads, run);
    free(block.shared);
  }
}
