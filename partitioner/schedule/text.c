/* Owns the text form of schedules. Invariant: what schedule_write prints reads back as the same schedule, and no text
 * makes the reader do more work than its length allows. */
#include "partitioner/schedule/schedule.h"

#include <ctype.h>
#include <string.h>

static const char *const kind_texts[ACTION_KINDS] = {"F", "B", "W", "BW", "SEND_F", "RECV_F", "SEND_B", "RECV_B"};

char *action_text(Action action, char *text) {
  if (action.kind < ACTION_KINDS)
    snprintf(text, 32, "%u%s%u", action.stage, kind_texts[action.kind], action.microbatch);
  else
    snprintf(text, 32, "%u?%u", action.stage, action.microbatch);
  return text;
}

static void write_list(const ActionList *list, Text *text) {
  char name[32];
  int open = 0; /* the group whose bracket is open */
  if (list->n_actions == 0)
    text_add_char(text, '-');
  for (int i = 0; i < list->n_actions; i++) {
    Action action = list->actions[i];
    if (i > 0)
      text_add_char(text, ' ');
    if (action.group && action.group != open)
      text_add_char(text, '[');
    open = action.group;
    text_add_string(text, action_text(action, name));
    if (open && (i + 1 == list->n_actions || list->actions[i + 1].group != open)) {
      text_add_char(text, ']');
      open = 0;
    }
  }
  text_add_char(text, '\n');
}

void schedule_write(const Schedule *schedule, Text *text) {
  text_add(text, "schedule %s send_depth %d receive_ahead %d\n", schedule->name, schedule->send_depth,
           schedule->receive_ahead);
  for (int rank = 0; rank < schedule->ranks; rank++)
    write_list(&schedule->lists[rank], text);
}

/* ---- reading ---- */

typedef struct {
  Arena *arena;
  const char *at;
  const char *line; /* where the current line begins */
  int line_number;
  Schedule *schedule;
  size_t lists_capacity;
  int *rank_of_stage; /* [SCHEDULE_LIMIT]; -1: on none */
  int group;
  bool started; /* the header or a rank was read */
  bool has_ahead;
} Reader;

static Status refuse(const Reader *reader, const char *at, const char *problem) {
  Status status = fail(E_USAGE, "line %d, column %d: ", reader->line_number, (int)(at - reader->line) + 1);
  char place[64];
  snprintf(place, sizeof place, "%s", status_message());
  return fail(status, "%s%s", place, problem);
}

static bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

static void skip_blanks(Reader *reader) {
  while (is_blank(*reader->at))
    reader->at++;
}

static bool at_line_end(const Reader *reader) {
  return *reader->at == '\n' || *reader->at == '\0';
}

/* A decimal number of at most `most`. */
static Status read_number(Reader *reader, const char *what, int most, int *number) {
  const char *begin = reader->at;
  char problem[96];
  long value = 0;
  for (; isdigit((unsigned char)*reader->at); reader->at++) {
    value = value * 10 + (*reader->at - '0');
    if (value > most) {
      snprintf(problem, sizeof problem, "%s is larger than %d", what, most);
      return refuse(reader, begin, problem);
    }
  }
  if (reader->at == begin) {
    snprintf(problem, sizeof problem, "%s expected", what);
    return refuse(reader, begin, problem);
  }
  *number = (int)value;
  return OK;
}

/* The longest kind that stands here. */
static Status read_kind(Reader *reader, uint8_t *kind) {
  size_t longest = 0;
  for (int k = 0; k < ACTION_KINDS; k++) {
    size_t length = strlen(kind_texts[k]);
    if (length > longest && strncmp(reader->at, kind_texts[k], length) == 0) {
      *kind = (uint8_t)k;
      longest = length;
    }
  }
  if (longest == 0)
    return refuse(reader, reader->at, "F, B, W, BW, SEND_F, RECV_F, SEND_B or RECV_B expected after the stage");
  reader->at += longest;
  return OK;
}

static Status read_action(Reader *reader, int rank, Action *action) {
  const char *begin = reader->at;
  int stage, microbatch;
  TRY(read_number(reader, "a stage", SCHEDULE_LIMIT - 1, &stage));
  TRY(read_kind(reader, &action->kind));
  TRY(read_number(reader, "a microbatch", SCHEDULE_LIMIT - 1, &microbatch));
  if (!is_blank(*reader->at) && *reader->at != ']' && !at_line_end(reader))
    return refuse(reader, reader->at, "a blank or ] expected after an action");
  action->stage = (uint16_t)stage;
  action->microbatch = (uint16_t)microbatch;
  int *owner = &reader->rank_of_stage[stage];
  if (*owner >= 0 && *owner != rank) {
    char problem[96];
    snprintf(problem, sizeof problem, "stage %d is on rank %d and on rank %d", stage, *owner, rank);
    return refuse(reader, begin, problem);
  }
  *owner = rank;
  Schedule *schedule = reader->schedule;
  if (stage >= schedule->stages)
    schedule->stages = stage + 1;
  if (microbatch >= schedule->microbatches)
    schedule->microbatches = microbatch + 1;
  return OK;
}

/* The rest of a rank's line. */
static Status read_list(Reader *reader, int rank, ActionList *list) {
  size_t capacity = 0;
  bool in_group = false;
  if (*reader->at == '-') {
    reader->at++;
    skip_blanks(reader);
    return at_line_end(reader) ? OK : refuse(reader, reader->at, "nothing may follow -");
  }
  for (; !at_line_end(reader); skip_blanks(reader)) {
    if (*reader->at == '[') {
      if (in_group)
        return refuse(reader, reader->at, "[ inside [");
      in_group = true;
      reader->group = reader->group == 1 ? 2 : 1;
      reader->at++;
    } else if (*reader->at == ']') {
      if (!in_group)
        return refuse(reader, reader->at, "] without [");
      in_group = false;
      reader->at++;
    } else {
      Action action = {.group = in_group ? (uint8_t)reader->group : 0};
      TRY(read_action(reader, rank, &action));
      TRY(ARENA_RESERVE(reader->arena, list->actions, list->n_actions, capacity, list->n_actions + 1));
      list->actions[list->n_actions++] = action;
    }
  }
  return in_group ? refuse(reader, reader->at, "[ without ]") : OK;
}

/* A word of the header, or "". */
static void read_word(Reader *reader, char *word, size_t bytes) {
  size_t length = 0;
  skip_blanks(reader);
  while (!at_line_end(reader) && !is_blank(*reader->at) && length + 1 < bytes)
    word[length++] = *reader->at++;
  word[length] = '\0';
}

/* `schedule NAME [send_depth N] [receive_ahead N]` */
static Status read_header(Reader *reader) {
  Schedule *schedule = reader->schedule;
  if (reader->started)
    return refuse(reader, reader->at, "the line `schedule` must be the first");
  char word[64];
  read_word(reader, word, sizeof word);
  read_word(reader, word, sizeof word);
  if (word[0] == '\0')
    return refuse(reader, reader->at, "a name expected after schedule");
  for (const char *c = word; *c; c++)
    if (!isgraph((unsigned char)*c))
      return refuse(reader, reader->at, "a name has printable ASCII characters alone");
  schedule->name = arena_string(reader->arena, word);
  if (!schedule->name)
    return status_code();
  for (skip_blanks(reader); !at_line_end(reader); skip_blanks(reader)) {
    const char *begin = reader->at;
    read_word(reader, word, sizeof word);
    skip_blanks(reader);
    if (strcmp(word, "send_depth") == 0) {
      TRY(read_number(reader, "a send_depth", SCHEDULE_LIMIT, &schedule->send_depth));
    } else if (strcmp(word, "receive_ahead") == 0) {
      TRY(read_number(reader, "a receive_ahead", SCHEDULE_LIMIT * 4, &schedule->receive_ahead));
      reader->has_ahead = true;
    } else {
      return refuse(reader, begin, "send_depth or receive_ahead expected");
    }
  }
  return OK;
}

static bool begins_header(const char *at) {
  return strncmp(at, "schedule", 8) == 0 && (is_blank(at[8]) || at[8] == '\n' || at[8] == '\0');
}

static Status read_line(Reader *reader) {
  Schedule *schedule = reader->schedule;
  skip_blanks(reader);
  if (*reader->at == '#')
    reader->at += strcspn(reader->at, "\n");
  if (at_line_end(reader))
    return OK;
  if (begins_header(reader->at)) {
    TRY(read_header(reader));
  } else {
    if (schedule->ranks == SCHEDULE_LIMIT)
      return refuse(reader, reader->at, "too many ranks");
    TRY(ARENA_RESERVE(reader->arena, schedule->lists, schedule->ranks, reader->lists_capacity, schedule->ranks + 1));
    int rank = schedule->ranks++;
    memset(&schedule->lists[rank], 0, sizeof schedule->lists[rank]);
    TRY(read_list(reader, rank, &schedule->lists[rank]));
  }
  reader->started = true;
  return OK;
}

/* Peers and what the lists as a whole say: B and W joined or not, how far ahead receives stand. */
static Status finish(Reader *reader) {
  Schedule *schedule = reader->schedule;
  if (schedule->ranks == 0)
    return fail(E_USAGE, "a schedule without ranks");
  size_t forwards = 0;
  schedule->forward_only = true;
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action *action = &schedule->lists[rank].actions[i];
      forwards += action->kind == ACTION_F;
      schedule->joined |= action->kind == ACTION_BW;
      schedule->forward_only &= action->kind == ACTION_F || !action_is_compute(*action);
      if (action_is_compute(*action))
        continue;
      int step = action->kind == ACTION_SEND_F || action->kind == ACTION_RECV_B ? 1 : -1;
      int other = action->stage + step;
      /* a stage that does not exist: the checker says so */
      int peer = other < 0 || other >= schedule->stages ? rank : reader->rank_of_stage[other];
      action->peer = (uint16_t)(peer < 0 ? rank : peer);
    }
  if (forwards != (size_t)schedule->stages * (size_t)schedule->microbatches)
    return fail(E_USAGE, "%d stages and %d microbatches are named, but there are %zu forward actions", schedule->stages,
                schedule->microbatches, forwards);
  for (int stage = 0; stage < schedule->stages; stage++)
    if (reader->rank_of_stage[stage] < 0)
      return fail(E_USAGE, "stage %d is on no rank", stage);
  schedule->rank_of_stage = arena_copy(reader->arena, reader->rank_of_stage, (size_t)schedule->stages * sizeof(int));
  return schedule->rank_of_stage ? OK : status_code();
}

/* The most compute actions between a RECV and its use, where a list has both. */
static Status measure_ahead(Arena *arena, const Schedule *schedule, int *most) {
  size_t microbatches = (size_t)schedule->microbatches;
  int *use[2]; /* F and the first backward action: 1 + how many compute actions stand before it; 0: none */
  TRY(ARENA_NEW(arena, use[0], (size_t)schedule->stages * microbatches));
  TRY(ARENA_NEW(arena, use[1], (size_t)schedule->stages * microbatches));
  *most = 0;
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *list = &schedule->lists[rank];
    int computes = 0;
    for (int i = 0; i < list->n_actions; i++) {
      Action action = list->actions[i];
      if (!action_is_compute(action))
        continue;
      computes++;
      int *first = &use[action.kind != ACTION_F][action.stage * microbatches + action.microbatch];
      *first = *first ? *first : computes;
    }
    computes = 0;
    for (int i = 0; i < list->n_actions; i++) {
      Action action = list->actions[i];
      computes += action_is_compute(action);
      if (action.kind != ACTION_RECV_F && action.kind != ACTION_RECV_B)
        continue;
      int between = use[action.kind != ACTION_RECV_F][action.stage * microbatches + action.microbatch] - 1 - computes;
      *most = between > *most ? between : *most;
    }
  }
  return OK;
}

static Status read_lines(Reader *reader) {
  for (;;) {
    reader->line = reader->at;
    TRY(read_line(reader));
    if (*reader->at == '\0')
      return finish(reader);
    reader->at++;
    reader->line_number++;
  }
}

Status schedule_read(Arena *arena, const char *text, Schedule *schedule) {
  *schedule = (Schedule){.name = "file", .send_depth = 2};
  Reader reader = {.arena = arena, .at = text, .line = text, .line_number = 1, .schedule = schedule};
  TRY(ARENA_NEW(arena, reader.rank_of_stage, SCHEDULE_LIMIT));
  for (int stage = 0; stage < SCHEDULE_LIMIT; stage++)
    reader.rank_of_stage[stage] = -1;
  TRY(read_lines(&reader));
  return reader.has_ahead ? OK : measure_ahead(arena, schedule, &schedule->receive_ahead);
}
