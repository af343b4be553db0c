/* Blocking messages over the control channel, on any transport. Invariant: a rank whose part of an exchange fails has
 * withdrawn, for its peer waits. */
#include <stdio.h>

#include "runtime/transport/transport.h"

Status link_withdraw(const Link *link, Status status) {
  char message[4096];
  snprintf(message, sizeof message, "%s", status_message());
  link->transport->withdraw(link->endpoints[CHANNEL_CONTROL], message);
  return status_adopt(status, message);
}

static Status exchange(const Link *link, Transfer transfer) {
  Endpoint *endpoint = link->endpoints[CHANNEL_CONTROL];
  Ticket ticket;
  Status status = link->transport->post(endpoint, &transfer, 1, &ticket);
  if (status == OK)
    status = link->transport->wait(endpoint, ticket);
  return status == OK ? OK : link_withdraw(link, status);
}

Status link_send(const Link *link, int peer, const void *data, size_t bytes) {
  /* a send only reads */
  return exchange(link, (Transfer){.peer = peer, .is_send = true, .data = (void *)data, .bytes = bytes});
}

Status link_receive(const Link *link, int peer, void *data, size_t bytes) {
  return exchange(link, (Transfer){.peer = peer, .data = data, .bytes = bytes});
}
