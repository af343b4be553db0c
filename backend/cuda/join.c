/* Norms and updates of many parameters as few launches: their works are sorted by class, and lie on the device with the
 * parts that its blocks take. Invariant: what a parameter's blocks do is what they do where it is alone. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* Of a parameter that joins: sixteen bytes on the device each. */
enum { MOST_LOOKUPS = 1 << 16 };

typedef struct {
  Stream *stream;
  char *device; /* keys and sums, works, parts */
  ParameterWork *works;
  int n;
  Parameters *classes; /* [n_classes] */
  int n_classes;
} Joined;

static void release(void *state) {
  Joined *j = state;
  if (j->device)
    backend_cuda.release(j->stream, j->device);
  free(j->works);
  free(j->classes);
  free(j);
}

static Status run(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace, void *state) {
  const Joined *j = state;
  (void)in, (void)out, (void)workspace;
  TRY(cuda_enter(stream));
  for (int i = 0; i < j->n_classes; i++)
    launch_parameters(stream->cuda, &j->classes[i]);
  return cuda_launched(stream, node);
}

/* The largest of a class first: the last blocks of a launch are short. */
static int by_class(const void *a, const void *b) {
  const ParameterWork *x = a, *y = b;
  int difference = parameter_class(x) - parameter_class(y);
  return difference ? difference : (x->elements < y->elements) - (x->elements > y->elements);
}

/* Which of the calls, and their works. */
static Status take(Joined *j, const JoinedCall *calls, int n, bool *taken) {
  for (int i = 0; i < n; i++) {
    ParameterWork *work = &j->works[j->n];
    OpKind op = calls[i].node->op;
    taken[i] = false;
    if (op != OP_SquaredNorm && op != OP_SquaredNormRows && op != OP_SgdUpdate && op != OP_AdamUpdate &&
        op != OP_SgdUpdateRows && op != OP_AdamUpdateRows && op != OP_SparseAdamUpdate)
      continue;
    TRY(cuda_take_parameter(calls[i].node, calls[i].in, calls[i].out, work));
    taken[i] = work->lookups <= MOST_LOOKUPS;
    j->n += taken[i];
  }
  return OK;
}

static void split_classes(Joined *j) {
  qsort(j->works, (size_t)j->n, sizeof *j->works, by_class);
  for (int i = 0; i < j->n; i++) {
    if (i == 0 || parameter_class(&j->works[i]) != parameter_class(&j->works[i - 1]))
      j->classes[j->n_classes++] = (Parameters){.works = &j->works[i]};
    Parameters *class = &j->classes[j->n_classes - 1];
    class->n++;
    for (Parts p = 0; p < PARTS_COUNT; p++)
      class->n_parts[p] += parameter_parts(p, &j->works[i]);
  }
}

/* Lays out what is on the device; with a base, the works learn where, and `image` gets what begins there. Returns how
 * many bytes there are. *room: those before the image. */
static size_t lay_out(Joined *j, char *image, size_t *room) {
  size_t at = 0;
  for (int i = 0; i < j->n; i++) {
    ParameterWork *w = &j->works[i];
    if (image) {
      parameter_sorts(w, (uint64_t *)(j->device + at));
      w->partial = (double *)(j->device + at) + 2 * w->lookups;
    }
    at += sizeof(uint64_t) *
          (size_t)(2 * w->lookups + (w->kind == PARAMETER_NORM ? parameter_parts(PARTS_OF_ELEMENTS, w) : 0));
  }
  *room = at;
  for (int c = 0; c < j->n_classes; c++) {
    Parameters *class = &j->classes[c];
    size_t bytes = (size_t) class->n * sizeof *class->works;
    if (image) {
      class->on_device = (const ParameterWork *)(j->device + at);
      memcpy(image + (at - *room), class->works, bytes);
    }
    at += bytes;
    for (Parts p = 0; p < PARTS_COUNT; p++) {
      Part *part = image ? (Part *)(image + (at - *room)) : NULL;
      class->parts[p] = (const Part *)(j->device + at);
      for (int i = 0; image && i < class->n; i++)
        for (int64_t k = 0; k < parameter_parts(p, &class->works[i]); k++)
          *part++ = (Part){i, (int32_t)k};
      at += (size_t) class->n_parts[p] * sizeof(Part);
    }
  }
  return at;
}

static Status fill_device(Joined *j) {
  size_t room, bytes = lay_out(j, NULL, &room);
  void *device;
  TRY(backend_cuda.alloc(j->stream, bytes, &device));
  j->device = device;
  char *image = malloc(bytes - room);
  if (!image)
    return fail(E_MEMORY, "out of memory");
  lay_out(j, image, &room);
  Status status = backend_cuda.copy(j->stream, j->device + room, image, bytes - room, COPY_HOST_TO_DEVICE);
  if (status == OK)
    status = backend_cuda.stream_wait(j->stream);
  free(image);
  return status;
}

Status cuda_join(Stream *stream, const JoinedCall *calls, int n, NodeKernel *kernel, bool *taken) {
  *kernel = (NodeKernel){0};
  Joined *j = n ? calloc(1, sizeof *j) : NULL;
  if (!n)
    return OK;
  if (!j)
    return fail(E_MEMORY, "out of memory");
  j->stream = stream;
  j->works = calloc((size_t)n, sizeof *j->works);
  j->classes = calloc((size_t)n, sizeof *j->classes);
  Status status = j->works && j->classes ? take(j, calls, n, taken) : fail(E_MEMORY, "out of memory");
  if (status == OK && j->n) {
    split_classes(j);
    status = fill_device(j);
  }
  if (status == OK && j->n)
    *kernel = (NodeKernel){run, j, release};
  else
    release(j);
  return status;
}
