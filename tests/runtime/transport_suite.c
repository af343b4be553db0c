/* The conformance suite of the transports. Every byte sent follows from who sends to whom and how often before. */
#include "transport_suite.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RANKS = 8 };

static int rank_of(const Link *link) {
  return link->transport->rank(link->endpoints[CHANNEL_DATA]);
}

static int size_of(const Link *link) {
  return link->transport->size(link->endpoints[CHANNEL_DATA]);
}

static unsigned char byte_at(int from, int to, int k, size_t i) {
  return (unsigned char)(31 * from + 17 * to + 7 * k + (int)(i * 131 >> 3) + (int)i);
}

static void fill(unsigned char *data, size_t bytes, int from, int to, int k) {
  for (size_t i = 0; i < bytes; i++)
    data[i] = byte_at(from, to, k, i);
}

static Status verify(const unsigned char *data, size_t bytes, int from, int to, int k) {
  for (size_t i = 0; i < bytes; i++)
    if (data[i] != byte_at(from, to, k, i))
      return fail(E_MODEL, "message %d of rank %d to rank %d: byte %zu of %zu is %d, not %d", k, from, to, i, bytes,
                  data[i], byte_at(from, to, k, i));
  return OK;
}

static Status post(const Link *link, Channel channel, const Transfer *transfers, int n, Ticket *tickets) {
  return link->transport->post(link->endpoints[channel], transfers, n, tickets);
}

static Status wait_all(const Link *link, Channel channel, const Ticket *tickets, int n) {
  for (int i = 0; i < n; i++)
    TRY(link->transport->wait(link->endpoints[channel], tickets[i]));
  return OK;
}

/* The k-th send of a to b meets the k-th receive, over all pairs, with sizes from 0 to some thousands. */
static Status case_order(const Link *link) {
  enum { MESSAGES = 40, MOST = 5000 };
  int rank = rank_of(link), size = size_of(link);
  unsigned char *data = malloc((size_t)2 * MESSAGES * MOST);
  if (!data)
    return fail(E_MEMORY, "out of memory");
  Status status = OK;
  for (int peer = 0; peer < size && status == OK; peer++) {
    if (peer == rank)
      continue;
    Ticket tickets[2 * MESSAGES];
    for (int k = 0; k < MESSAGES && status == OK; k++) {
      size_t bytes = (size_t)(k * 977 % MOST) * (k % 5 != 0);
      unsigned char *out = data + (size_t)(2 * k) * MOST, *in = out + MOST;
      fill(out, bytes, rank, peer, k);
      Transfer both[2] = {{.peer = peer, .is_send = true, .data = out, .bytes = bytes},
                          {.peer = peer, .data = in, .bytes = bytes}};
      status = post(link, CHANNEL_DATA, both, 2, &tickets[2 * k]);
    }
    for (int k = 2 * MESSAGES; k-- > 0 && status == OK;) /* tickets may be waited for in any order */
      status = wait_all(link, CHANNEL_DATA, &tickets[k], 1);
    for (int k = 0; k < MESSAGES && status == OK; k++)
      status = verify(data + (size_t)(2 * k + 1) * MOST, (size_t)(k * 977 % MOST) * (k % 5 != 0), peer, rank, k);
  }
  free(data);
  return status;
}

/* Everybody sends to everybody at once, more than any transport buffers. */
static Status case_group(const Link *link) {
  enum { BYTES = 300000 };
  int rank = rank_of(link), size = size_of(link), n = 0;
  unsigned char *data = malloc((size_t)2 * MOST_RANKS * BYTES);
  if (!data)
    return fail(E_MEMORY, "out of memory");
  Transfer transfers[2 * MOST_RANKS];
  Ticket tickets[2 * MOST_RANKS];
  for (int peer = 0; peer < size; peer++) {
    if (peer == rank)
      continue;
    unsigned char *out = data + (size_t)(2 * peer) * BYTES;
    fill(out, BYTES, rank, peer, 0);
    transfers[n++] = (Transfer){.peer = peer, .is_send = true, .data = out, .bytes = BYTES};
    transfers[n++] = (Transfer){.peer = peer, .data = out + BYTES, .bytes = BYTES};
  }
  Status status = post(link, CHANNEL_DATA, transfers, n, tickets);
  if (status == OK)
    status = wait_all(link, CHANNEL_DATA, tickets, n);
  for (int peer = 0; peer < size && status == OK; peer++)
    if (peer != rank)
      status = verify(data + (size_t)(2 * peer + 1) * BYTES, BYTES, peer, rank, 0);
  free(data);
  return status;
}

/* One large message around the ring, in pieces where the transport has a largest size. */
static Status case_large(const Link *link) {
  enum { BYTES = 10000001 };
  int rank = rank_of(link), size = size_of(link);
  if (size == 1)
    return OK;
  int next = (rank + 1) % size, before = (rank + size - 1) % size;
  unsigned char *out = malloc(BYTES), *in = malloc(BYTES);
  Status status = out && in ? OK : fail(E_MEMORY, "out of memory");
  if (status == OK) {
    fill(out, BYTES, rank, next, 3);
    Transfer both[2] = {{.peer = next, .is_send = true, .data = out, .bytes = BYTES},
                        {.peer = before, .data = in, .bytes = BYTES}};
    Ticket tickets[2];
    status = post(link, CHANNEL_DATA, both, 2, tickets);
    if (status == OK)
      status = wait_all(link, CHANNEL_DATA, tickets, 2);
    if (status == OK)
      status = verify(in, BYTES, before, rank, 3);
  }
  free(out);
  free(in);
  return status;
}

static Status case_nothing(const Link *link) {
  int rank = rank_of(link), size = size_of(link), n = 0;
  Transfer transfers[2 * MOST_RANKS];
  Ticket tickets[2 * MOST_RANKS];
  for (int peer = 0; peer < size; peer++)
    if (peer != rank) {
      transfers[n++] = (Transfer){.peer = peer, .is_send = true};
      transfers[n++] = (Transfer){.peer = peer};
    }
  TRY(post(link, CHANNEL_DATA, transfers, n, tickets));
  TRY(wait_all(link, CHANNEL_DATA, tickets, n));
  TRY(post(link, CHANNEL_DATA, NULL, 0, NULL));
  return link->transport->wait(link->endpoints[CHANNEL_DATA], (Ticket){0});
}

/* A receive that is posted on one channel does not take what is sent on the other. */
static Status case_channels(const Link *link) {
  int rank = rank_of(link), size = size_of(link);
  for (int peer = 0; peer < size; peer++) {
    if (peer == rank)
      continue;
    unsigned char out[2][64], in[2][64];
    Ticket data[2], control[2];
    fill(out[0], sizeof out[0], rank, peer, 10);
    fill(out[1], sizeof out[1], rank, peer, 11);
    Transfer on_control[2] = {{.peer = peer, .data = in[1], .bytes = sizeof in[1]},
                              {.peer = peer, .is_send = true, .data = out[1], .bytes = sizeof out[1]}};
    Transfer on_data[2] = {{.peer = peer, .is_send = true, .data = out[0], .bytes = sizeof out[0]},
                           {.peer = peer, .data = in[0], .bytes = sizeof in[0]}};
    bool first = rank < peer;
    TRY(first ? post(link, CHANNEL_CONTROL, on_control, 2, control) : post(link, CHANNEL_DATA, on_data, 2, data));
    TRY(first ? post(link, CHANNEL_DATA, on_data, 2, data) : post(link, CHANNEL_CONTROL, on_control, 2, control));
    TRY(wait_all(link, CHANNEL_CONTROL, control, 2));
    TRY(wait_all(link, CHANNEL_DATA, data, 2));
    TRY(verify(in[0], sizeof in[0], peer, rank, 10));
    TRY(verify(in[1], sizeof in[1], peer, rank, 11));
  }
  return OK;
}

/* Blocking messages: rank 0 gathers from all and tells all. */
static Status case_messages(const Link *link) {
  int rank = rank_of(link), size = size_of(link);
  for (int round = 0; round < 100; round++) {
    long sum = rank * round, other;
    if (rank == 0) {
      for (int peer = 1; peer < size; peer++) {
        TRY(link_receive(link, peer, &other, sizeof other));
        sum += other;
      }
      for (int peer = 1; peer < size; peer++)
        TRY(link_send(link, peer, &sum, sizeof sum));
    } else {
      TRY(link_send(link, 0, &sum, sizeof sum));
      TRY(link_receive(link, 0, &sum, sizeof sum));
    }
    if (sum != (long)round * size * (size - 1) / 2)
      return fail(E_MODEL, "round %d: rank %d has sum %ld", round, rank, sum);
  }
  return OK;
}

static uint32_t draw(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* A random list of messages that every rank knows: each posts its ends in the order of the list, in groups of random
 * size, and waits for them much later. */
static Status case_random(const Link *link) {
  enum { MESSAGES = 600, MOST = 3000, BEHIND = 24 };
  int rank = rank_of(link), size = size_of(link), counts[MOST_RANKS][MOST_RANKS] = {{0}};
  if (size == 1)
    return OK;
  static _Thread_local unsigned char buffers[BEHIND][MOST];
  struct {
    Ticket ticket;
    int from, to, k;
    size_t bytes;
  } out[BEHIND] = {0};
  uint32_t common = 12345, own = 777u + (uint32_t)rank;
  int posted = 0, n = 0, group_size = 1;
  Transfer group[BEHIND];
  Ticket tickets[BEHIND];
  for (int m = 0; m <= MESSAGES; m++) {
    int from = (int)(draw(&common) % (uint32_t)size);
    int to = (from + 1 + (int)(draw(&common) % (uint32_t)(size - 1))) % size;
    size_t bytes = draw(&common) % MOST;
    bool last = m == MESSAGES, mine = !last && (rank == from || rank == to);
    if (mine) {
      int at = posted % BEHIND;
      if (posted >= BEHIND) { /* the slot's earlier message must be over: it is not in the open group */
        TRY(wait_all(link, CHANNEL_DATA, &out[at].ticket, 1));
        if (out[at].to == rank)
          TRY(verify(buffers[at], out[at].bytes, out[at].from, rank, out[at].k));
      }
      int k = counts[from][to]++;
      if (rank == from)
        fill(buffers[at], bytes, from, to, k);
      group[n++] =
          (Transfer){.peer = rank == from ? to : from, .is_send = rank == from, .data = buffers[at], .bytes = bytes};
      out[at].from = from, out[at].to = to, out[at].k = k, out[at].bytes = bytes;
      posted++;
    }
    if (n && (n >= group_size || last)) {
      TRY(post(link, CHANNEL_DATA, group, n, tickets));
      for (int i = 0; i < n; i++)
        out[(posted - n + i) % BEHIND].ticket = tickets[i];
      n = 0;
      group_size = 1 + (int)(draw(&own) % 4);
    }
  }
  for (int i = posted > BEHIND ? posted - BEHIND : 0; i < posted; i++) {
    int at = i % BEHIND;
    TRY(wait_all(link, CHANNEL_DATA, &out[at].ticket, 1));
    if (out[at].to == rank)
      TRY(verify(buffers[at], out[at].bytes, out[at].from, rank, out[at].k));
  }
  return OK;
}

/* A transfer with nobody is refused before anything is posted. */
static Status case_refused(const Link *link) {
  Ticket ticket;
  int wrong[] = {-1, size_of(link), rank_of(link)};
  for (int i = 0; i < 3; i++)
    if (post(link, CHANNEL_DATA, &(Transfer){.peer = wrong[i]}, 1, &ticket) != E_USAGE)
      return fail(E_MODEL, "a transfer with rank %d was accepted", wrong[i]);
  return OK;
}

const SuiteCase transport_suite[] = {
    {"order", case_order},       {"group", case_group},       {"large", case_large},   {"nothing", case_nothing},
    {"channels", case_channels}, {"messages", case_messages}, {"random", case_random}, {"refused", case_refused}};
const int transport_suite_size = sizeof transport_suite / sizeof *transport_suite;

Status transport_suite_withdraw(const Link *link) {
  int rank = rank_of(link), size = size_of(link);
  char expected[64], data[100];
  if (rank == size - 1) {
    link->transport->withdraw(link->endpoints[CHANNEL_DATA], "node 'a' (Add): out of luck");
  } else {
    /* all wait in a circle: only the withdrawal can end it */
    Transfer receive = {.peer = rank ? rank - 1 : size - 1, .data = data, .bytes = sizeof data};
    Ticket ticket;
    Status status = post(link, CHANNEL_DATA, &receive, 1, &ticket);
    if (status == OK)
      status = link->transport->wait(link->endpoints[CHANNEL_DATA], ticket);
    if (status != E_COMM)
      return fail(E_MODEL, "rank %d waited with status %d", rank, status);
    snprintf(expected, sizeof expected, "rank %d: node 'a' (Add): out of luck", size - 1);
    if (strcmp(status_message(), expected) != 0)
      return fail(E_MODEL, "the message is \"%s\"", status_message());
    link->transport->withdraw(link->endpoints[CHANNEL_DATA], "I follow");
  }
  if (link_send(link, rank ? 0 : 1, data, 1) != E_COMM)
    return fail(E_MODEL, "rank %d sends after the end", rank);
  return OK;
}
