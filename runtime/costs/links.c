/* What messages take between two ranks. Invariant: both ends post the same messages in the same order. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "runtime/costs/internal.h"

Status agree_most(const Link *link, double own, double *most) {
  *most = own;
  if (!link)
    return OK;
  const Endpoint *endpoint = link->endpoints[CHANNEL_CONTROL];
  int rank = link->transport->rank(endpoint), size = link->transport->size(endpoint);
  if (rank) {
    TRY(link_send(link, 0, &own, sizeof own));
    return link_receive(link, 0, most, sizeof *most);
  }
  for (int r = 1; r < size; r++) {
    double other;
    TRY(link_receive(link, r, &other, sizeof other));
    *most = other > *most ? other : *most;
  }
  for (int r = 1; r < size; r++)
    TRY(link_send(link, r, most, sizeof *most));
  return OK;
}

enum { ROUNDS = 15, LARGEST = 8 << 20 };
static const size_t sizes[LINK_SAMPLES] = {8, 4 << 10, 64 << 10, 512 << 10, 2 << 20, LARGEST};
static const double WORTH_SECONDS = 0.03; /* of one size */

static int by_size(const void *a, const void *b) {
  const double *x = a, *y = b;
  return (*x > *y) - (*x < *y);
}

/* What messages there take, with a short answer back: the first quartile, for somebody else may use the cores. The rank
 * that times says when it is enough. */
static Status exchange(const Link *link, bool times, bool sends, char *data, size_t bytes, double *seconds) {
  double taken[ROUNDS];
  char more = 1;
  int n = 0, peer = times ? 1 : 0;
  double until = clock_seconds() + WORTH_SECONDS;
  while (more) {
    double begun = clock_seconds();
    TRY(sends ? link_send(link, peer, data, bytes) : link_receive(link, peer, data, bytes));
    TRY(sends ? link_receive(link, peer, &(char){0}, 1) : link_send(link, peer, &(char){0}, 1));
    taken[n++ % ROUNDS] = clock_seconds() - begun;
    more = n < ROUNDS && clock_seconds() < until;
    TRY(times ? link_send(link, peer, &more, 1) : link_receive(link, peer, &more, 1));
  }
  n = n < ROUNDS ? n : ROUNDS;
  qsort(taken, (size_t)n, sizeof *taken, by_size);
  *seconds = taken[n / 4];
  return OK;
}

static Status exchange_all(const Link *link, int rank, char *data, LinkSample *samples) {
  double up, down;
  for (int k = 0; k < LINK_SAMPLES; k++) {
    TRY(exchange(link, rank == 0, rank == 0, data, sizes[k], &up));
    TRY(exchange(link, rank == 0, rank != 0, data, sizes[k], &down));
    /* no message is faster than a shorter one */
    double least = k ? fmin(samples[0].up_seconds, samples[0].down_seconds) : 0;
    samples[k] = (LinkSample){sizes[k], up / 2, down / 2};
    if (k)
      samples[k] = (LinkSample){sizes[k], fmax(up - samples[0].up_seconds, fmax(least, samples[k - 1].up_seconds)),
                                fmax(down - samples[0].down_seconds, fmax(least, samples[k - 1].down_seconds))};
  }
  return OK;
}

Status measure_links(const Link *link, int rank, LinkSample *samples) {
  if (rank > 1)
    return OK;
  char *data = calloc(1, LARGEST);
  LinkSample seen_by_peer[LINK_SAMPLES]; /* samples are rank 0's, whose thread this may not be */
  for (size_t i = 0; data && i < LARGEST; i += 64)
    data[i] = 1; /* its own pages */
  if (!data)
    return link_withdraw(link, fail(E_MEMORY, "out of memory: %d bytes", LARGEST));
  Status status = exchange_all(link, rank, data, rank ? seen_by_peer : samples);
  free(data);
  return status;
}

LinkSpec fit_link(const LinkSample *samples, int n) {
  double w = 0, x = 0, y = 0, xx = 0, xy = 0; /* each sample weighs as its inverse square: errors are parts of it */
  for (int i = 0; i < n; i++)
    for (int down = 0; down < 2; down++) {
      double seconds = down ? samples[i].down_seconds : samples[i].up_seconds, bytes = (double)samples[i].bytes;
      double weight = 1 / (seconds * seconds);
      w += weight;
      x += weight * bytes;
      y += weight * seconds;
      xx += weight * bytes * bytes;
      xy += weight * bytes * seconds;
    }
  double slope = (w * xy - x * y) / (w * xx - x * x), start = (y - slope * x) / w;
  if (!(slope > 0))
    return (LinkSpec){.latency_seconds = y / w};
  return (LinkSpec){.latency_seconds = fmax(start, 0), .bytes_per_second = 1 / slope};
}
