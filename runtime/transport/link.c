/* Blocking messages over the control channel, on any transport. */
#include "runtime/transport/transport.h"

static Status exchange(const Link *link, Transfer transfer) {
  Endpoint *endpoint = link->endpoints[CHANNEL_CONTROL];
  Ticket ticket;
  TRY(link->transport->post(endpoint, &transfer, 1, &ticket));
  return link->transport->wait(endpoint, ticket);
}

Status link_send(const Link *link, int peer, const void *data, size_t bytes) {
  /* a send only reads */
  return exchange(link, (Transfer){.peer = peer, .is_send = true, .data = (void *)data, .bytes = bytes});
}

Status link_receive(const Link *link, int peer, void *data, size_t bytes) {
  return exchange(link, (Transfer){.peer = peer, .data = data, .bytes = bytes});
}
