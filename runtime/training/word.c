/* Ranks of an MPI world hear of a signal at different moments, or one alone does. With each step's report a rank tells
 * rank 0 what it was asked; with each step's beginning rank 0 says what all do after that step. Invariant: the word is
 * sent before rank 0 does anything of the step, and looked at after the rank has done all of it, so that whoever needs
 * something of rank 0 in a step waits for nothing more; rank 0 waits for that of the step before when its own is done.
 */
#include "runtime/training/request.h"
#include "runtime/training/trainer.h"

/* Steps within which several ranks that are asked to save mean one and the same. */
enum { SAME_STEPS = 4 };

static bool talks(const Worker *w) {
  return w->link && w->training->job->asked.world->mpi;
}

/* What rank 0 has to say. */
static int own_word(const Worker *w) {
  return request_take() | (w->next ? REQUEST_REPLAN : 0);
}

int word_asked(const Worker *w) {
  return talks(w) && w->rank ? request_take() : 0;
}

void word_heard(Worker *w, int asked) {
  bool same = w->word.saved_at && w->steps_done - w->word.saved_at < SAME_STEPS;
  w->word.heard |= same ? asked & REQUEST_STOP : asked;
}

/* Rank 0: [ranks], of the step, from 0. */
static Ticket *tickets_of(Worker *w, int64_t step) {
  return w->word.tickets + (step & 1) * w->training->job->decided.ranks;
}

static Status wait_sent(Worker *w, int64_t step) {
  Ticket *tickets = tickets_of(w, step);
  for (int r = 1; talks(w) && !w->rank && r < w->training->job->decided.ranks; r++) {
    Ticket ticket = tickets[r];
    tickets[r] = (Ticket){0};
    TRY(w->link->transport->wait(w->link->endpoints[CHANNEL_CONTROL], ticket));
  }
  return OK;
}

Status word_sent(Worker *w) {
  TRY(wait_sent(w, 0));
  return wait_sent(w, 1);
}

Status word_post(Worker *w) {
  if (!talks(w))
    return OK;
  Endpoint *endpoint = w->link->endpoints[CHANNEL_CONTROL];
  if (w->rank) {
    Transfer receive = {.peer = 0, .data = &w->word.bits, .bytes = sizeof w->word.bits};
    return w->link->transport->post(endpoint, &receive, 1, w->word.tickets);
  }
  int32_t *bits = &w->word.sent[w->steps_done & 1];
  *bits = own_word(w) | w->word.heard;
  w->word.heard &= REQUEST_STOP;
  if (*bits & REQUEST_CHECKPOINT)
    w->word.saved_at = w->steps_done + 1;
  for (int r = 1; r < w->training->job->decided.ranks; r++) {
    Transfer send = {.peer = r, .is_send = true, .data = bits, .bytes = sizeof *bits};
    TRY(w->link->transport->post(endpoint, &send, 1, &tickets_of(w, w->steps_done)[r]));
  }
  return OK;
}

Status word_take(Worker *w) {
  int64_t step = w->steps_done - 1;
  if (talks(w) && w->rank)
    return w->link->transport->wait(w->link->endpoints[CHANNEL_CONTROL], w->word.tickets[0]);
  if (talks(w)) {
    w->word.bits = w->word.sent[step & 1];
    return wait_sent(w, step - 1);
  }
  if (!w->rank)
    w->word.bits = own_word(w);
  return OK;
}
