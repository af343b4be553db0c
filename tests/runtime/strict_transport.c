/* Stands between ranks that are threads and their transport (the linker's --wrap), and holds both sides to what a
 * transport may do, however fast the threads are: what is sent may be read until its wait, so it has to be the same
 * then; what is received may be written from its post to its wait, so it is spoilt first, has to be so still when
 * what came is put there, and whoever reads it too early computes with NaN. */
#include <stdlib.h>
#include <string.h>

#include "runtime/transport/transport.h"

enum { SPOILT = 0xFF };

typedef struct Request {
  struct Request *next; /* of the endpoint's, until it is waited for */
  Ticket ticket;
  Transfer asked;
  char *own; /* what was sent, or where comes what is received */
} Request;

typedef struct {
  Endpoint *inner;
  Request *requests;
} Strict;

Status __real_transport_local_open(int ranks, Link *links);
void __real_transport_local_close(int ranks, Link *links);
Status __wrap_transport_local_open(int ranks, Link *links);
void __wrap_transport_local_close(int ranks, Link *links);

static Strict *strict(const Endpoint *e) {
  return (Strict *)e;
}

static int strict_rank(const Endpoint *e) {
  return transport_local.rank(strict(e)->inner);
}

static int strict_size(const Endpoint *e) {
  return transport_local.size(strict(e)->inner);
}

static Status strict_check(const Endpoint *e) {
  return transport_local.check(strict(e)->inner);
}

static void strict_withdraw(Endpoint *e, const char *message) {
  transport_local.withdraw(strict(e)->inner, message);
}

static Status post_one(Strict *s, const Transfer *asked, Ticket *ticket) {
  Request *request = calloc(1, sizeof *request);
  if (!request || !(request->own = malloc(asked->bytes + 1))) {
    free(request);
    return fail(E_MEMORY, "out of memory");
  }
  request->asked = *asked;
  request->next = s->requests;
  s->requests = request;
  Transfer inner = *asked;
  if (asked->is_send) {
    memcpy(request->own, asked->data, asked->bytes);
  } else {
    memset(asked->data, SPOILT, asked->bytes);
    inner.data = request->own;
  }
  *ticket = (Ticket){(unsigned long)request};
  return transport_local.post(s->inner, &inner, 1, &request->ticket);
}

static Status strict_post(Endpoint *e, const Transfer *transfers, int n, Ticket *tickets) {
  for (int i = 0; i < n; i++)
    TRY(post_one(strict(e), &transfers[i], &tickets[i]));
  return OK;
}

static bool is_spoilt(const Transfer *asked) {
  const unsigned char *bytes = asked->data;
  for (size_t i = 0; i < asked->bytes; i++)
    if (bytes[i] != SPOILT)
      return false;
  return true;
}

static Status see(const Strict *s, Request *request) {
  const Transfer *asked = &request->asked;
  bool kept = asked->is_send ? !memcmp(request->own, asked->data, asked->bytes) : is_spoilt(asked);
  if (!kept)
    return fail(E_COMM, "rank %d writes over %zu bytes that it %s rank %d", transport_local.rank(s->inner),
                asked->bytes, asked->is_send ? "still sends to" : "waits for from", asked->peer);
  if (!asked->is_send)
    memcpy(asked->data, request->own, asked->bytes);
  return OK;
}

static void drop(Strict *s, Request *request) {
  Request **at = &s->requests;
  while (*at != request)
    at = &(*at)->next;
  *at = request->next;
  free(request->own);
  free(request);
}

static Status strict_wait(Endpoint *e, Ticket ticket) {
  Request *request = (Request *)ticket.id;
  if (!request)
    return OK;
  TRY(transport_local.wait(strict(e)->inner, request->ticket));
  Status status = see(strict(e), request);
  if (status != OK)
    strict_withdraw(e, status_message());
  drop(strict(e), request);
  return status;
}

static const Transport transport_strict = {.name = "local",
                                           .rank = strict_rank,
                                           .size = strict_size,
                                           .post = strict_post,
                                           .wait = strict_wait,
                                           .check = strict_check,
                                           .withdraw = strict_withdraw};

Status __wrap_transport_local_open(int ranks, Link *links) {
  TRY(__real_transport_local_open(ranks, links));
  for (int r = 0; r < ranks; r++) {
    links[r].transport = &transport_strict;
    for (int c = 0; c < CHANNELS; c++) {
      Strict *s = calloc(1, sizeof *s);
      if (!s)
        abort();
      s->inner = links[r].endpoints[c];
      links[r].endpoints[c] = (Endpoint *)s;
    }
  }
  return OK;
}

void __wrap_transport_local_close(int ranks, Link *links) {
  for (int r = 0; r < ranks; r++)
    for (int c = 0; c < CHANNELS; c++) {
      Strict *s = strict(links[r].endpoints[c]);
      links[r].endpoints[c] = s->inner;
      while (s->requests)
        drop(s, s->requests);
      free(s);
    }
  __real_transport_local_close(ranks, links);
}
