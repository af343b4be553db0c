/* The command line: words to options, one call of the library, its line of error printed once. Invariant: exit status 0
 * done, 1 the input or the run failed, 2 the command line was wrong, 3 trained but a file could not be written, 130 and
 * 143 ended by a signal after saving. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/onnxpipe.h"
#include "tools/help.h"
#include "tools/progress.h"

typedef struct {
  OnnxpipeOptions *options;
  const char *model;  /* the word that is no option; of export, the checkpoint */
  const char *second; /* of export, the model; NULL: the one that the checkpoint names */
  int help, quiet;
  int rank; /* every rank reads the same words: rank 0 says what is wrong with them */
} CommandLine;

/* Whether there is such an option at all; *option: which. */
static int find_option(const char *name, size_t length, OnnxpipeOption *option) {
  for (int i = 0; onnxpipe_options_describe(i, option) == ONNXPIPE_OK; i++)
    if (strlen(option->name) == length && strncmp(option->name, name, length) == 0)
      return 1;
  return 0;
}

/* One line, whatever bytes a word of the command line has, and in one piece: mpirun writes to the same place. */
static void complain(const char *before, const char *word, const char *after) {
  char line[8192];
  snprintf(line, sizeof line - 1, "onnxpipe: %s%s%s", before, word, after);
  size_t length = strlen(line);
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
      line[i] = '?';
  line[length] = '\n';
  fwrite(line, 1, length + 1, stderr);
}

static int silent_rank; /* another rank says what all were told */

/* Where the library has said why. */
static void end_silently(int number) {
  onnxpipe_remove_unfinished();
  signal(number, SIG_DFL);
  raise(number); /* what it does without us, when we return */
}

static void end_by(int number) {
  const char *line = number == SIGINT    ? "onnxpipe: ended by SIGINT\n"
                     : number == SIGTERM ? "onnxpipe: ended by SIGTERM\n"
                                         : "onnxpipe: ended by SIGHUP\n";
  ssize_t wrote = write(STDERR_FILENO, line, strlen(line));
  (void)wrote;
  end_silently(number);
}

/* The first one ends a training after its step; what does not train, or is asked again, ends at once. */
static void stop_by(int number) {
  static atomic_flag asked = ATOMIC_FLAG_INIT; /* two may come to two threads at one time */
  int error = errno;                           /* of whatever is interrupted */
  if (atomic_flag_test_and_set(&asked) ||
      !onnxpipe_request(number == SIGINT ? ONNXPIPE_INTERRUPT : ONNXPIPE_TERMINATE)) {
    end_by(number);
    return;
  }
  const char *line = number == SIGINT
                         ? "onnxpipe: SIGINT: ends after this step, and saves; another one ends it at once\n"
                         : "onnxpipe: SIGTERM: ends after this step, and saves; another one ends it at once\n";
  ssize_t wrote = silent_rank ? 0 : write(STDERR_FILENO, line, strlen(line));
  (void)wrote;
  errno = error;
}

static void save_by(int number) {
  (void)number;
  onnxpipe_request(ONNXPIPE_CHECKPOINT);
}

/* A run that is ended says so. Nothing is half written then: files take their place whole. */
static void heed_signal(int number, void (*handler)(int)) {
  struct sigaction before, action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  if (sigaction(number, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
    sigaction(number, &action, NULL);
}

/* MPI takes its time to start: what can come meanwhile is heeded before. */
static void heed_signals(void) {
  heed_signal(SIGINT, stop_by);
  heed_signal(SIGHUP, end_by);
  heed_signal(SIGUSR1, save_by);
}

/* Under mpirun, where it is blocked, SIGTERM is the library's, which speaks of it, and then lets it through. */
static void heed_term(void) {
  sigset_t blocked;
  sigemptyset(&blocked);
  pthread_sigmask(SIG_BLOCK, NULL, &blocked);
  heed_signal(SIGTERM, sigismember(&blocked, SIGTERM) ? end_silently : stop_by);
}

static OnnxpipeStatus wrong(const CommandLine *line, const char *before, const char *word, const char *after) {
  if (!line->rank)
    complain(before, word, after);
  return ONNXPIPE_USAGE;
}

/* A stream that was closed before us would be the next file that is opened: what is printed would go into the model
 * that is saved. In its place stands a file that cannot be written. */
static void keep_streams(void) {
  int descriptor;
  do
    descriptor = open("/dev/null", O_RDONLY);
  while (descriptor >= 0 && descriptor <= STDERR_FILENO);
  if (descriptor >= 0)
    close(descriptor);
}

static OnnxpipeStatus printed(void) {
  if (fflush(stdout) == 0 && !ferror(stdout))
    return ONNXPIPE_OK;
  complain("standard output cannot be written", "", "");
  return ONNXPIPE_FAILED;
}

/* Who else takes the option, or which of the subcommand's own is most like the name. */
static OnnxpipeStatus no_option(const CommandLine *line, const char *word, const char *subcommand) {
  enum { MOST = 128 };
  const char *names[MOST];
  char name[128], after[512];
  OnnxpipeOption option;
  int n = 0, dashes = (int)strspn(word, "-");
  snprintf(name, sizeof name, "%.*s", (int)strcspn(word + dashes, "="), word + dashes);
  for (int i = 0; n < MOST && onnxpipe_options_describe(i, &option) == ONNXPIPE_OK; i++)
    if (help_takes(subcommand, &option))
      names[n++] = option.name;
  int nearest = onnxpipe_nearest(name, names, n);
  if (find_option(name, strlen(name), &option) && dashes == 2)
    snprintf(after, sizeof after, " is no option of `%s`, but of%s(--help lists them)", subcommand, option.subcommands);
  else if (nearest >= 0)
    snprintf(after, sizeof after, " is no option of `%s`, did you mean --%s? (--help lists them)", subcommand,
             names[nearest]);
  else
    snprintf(after, sizeof after, " is no option of `%s` (--help lists them)", subcommand);
  return wrong(line, "", word, after);
}

/* One option at words[*at], its value behind "=" or in the next word. */
static OnnxpipeStatus read_option(char **words, int n, int *at, const char *subcommand, CommandLine *line) {
  const char *word = words[*at], *name = word + 2, *value = "";
  if (strcmp(word, "-o") == 0)
    name = strcmp(subcommand, "edit") == 0 || strcmp(subcommand, "export") == 0 ? "output-model" : "output-plan";
  const char *equals = strchr(name, '=');
  size_t length = equals ? (size_t)(equals - name) : strlen(name);
  OnnxpipeOption option;
  if (!find_option(name, length, &option) || !help_takes(subcommand, &option))
    return no_option(line, word, subcommand);
  if (equals)
    value = equals + 1;
  else if (option.argument && *at + 1 >= n)
    return wrong(line, "", word, " needs a value");
  else if (option.argument)
    value = words[++*at];
  if (onnxpipe_options_set(line->options, option.name, value) != ONNXPIPE_OK)
    return wrong(line, "", onnxpipe_error(), "");
  if (strcmp(option.name, "quiet") == 0)
    line->quiet = 1;
  return ONNXPIPE_OK;
}

static OnnxpipeStatus read_words(char **words, int n, const char *subcommand, CommandLine *line) {
  int takes_model = strcmp(subcommand, "simulate") != 0, exports = strcmp(subcommand, "export") == 0;
  for (int i = 0; i < n; i++) {
    const char *word = words[i];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      line->help = 1;
      return ONNXPIPE_OK;
    }
    if (strncmp(word, "--", 2) == 0 || strcmp(word, "-o") == 0) {
      OnnxpipeStatus status = read_option(words, n, &i, subcommand, line);
      if (status != ONNXPIPE_OK)
        return status;
    } else if (word[0] == '-' && word[1]) {
      return no_option(line, word, subcommand);
    } else if (exports && line->model && !line->second) {
      line->second = word;
    } else if (!takes_model || line->model) {
      return wrong(line, "'", word, "' is one word too many");
    } else {
      line->model = word;
    }
  }
  return takes_model && !line->model
             ? wrong(line, "`onnxpipe ", subcommand, exports ? "` needs a checkpoint" : "` needs a model")
             : ONNXPIPE_OK;
}

static OnnxpipeStatus run_on_model(const char *subcommand, const CommandLine *line) {
  OnnxpipeModel *model;
  OnnxpipeStatus status = onnxpipe_open(line->model, line->options, &model);
  if (status != ONNXPIPE_OK)
    return status;
  if (strcmp(subcommand, "inspect") == 0)
    status = onnxpipe_inspect(model, stdout);
  else if (strcmp(subcommand, "plan") == 0)
    status = onnxpipe_plan(model, stdout);
  else if (strcmp(subcommand, "run") == 0)
    status = onnxpipe_run(model, stdout);
  else if (strcmp(subcommand, "edit") == 0)
    status = onnxpipe_edit(model, stdout);
  else if (strcmp(subcommand, "profile") == 0)
    status = onnxpipe_profile(model, stdout);
  else {
    Progress progress = progress_start(line->quiet);
    status = onnxpipe_train(model, stdout, progress_step, &progress);
    progress_end(&progress, stdout, status != ONNXPIPE_FAILED && status != ONNXPIPE_USAGE);
  }
  onnxpipe_close(model);
  return status;
}

static void report_death(void *context, const char *message) {
  (void)context;
  complain("", message, "");
}

/* What was printed until then, where nobody must be waited for: the thread that prints may be what hangs, and a pipe
 * that takes anything takes a buffer whole. */
static void flush_output(void) {
  struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
  if (poll(&out, 1, 0) != 1 || !(out.revents & POLLOUT) || ftrylockfile(stdout) != 0)
    return;
  fflush(stdout);
  funlockfile(stdout);
}

static void end_hanging(void *context, const char *message) {
  (void)context;
  if (*message) /* else it was reported */
    complain("", message, "");
  flush_output();
  _exit(ONNXPIPE_FAILED);
}

static OnnxpipeStatus run(const char *subcommand, char **words, int n, int rank) {
  CommandLine line = {.options = onnxpipe_options_create(), .rank = rank};
  if (!line.options) {
    complain("", onnxpipe_error(), "");
    return ONNXPIPE_FAILED;
  }
  OnnxpipeStatus status = read_words(words, n, subcommand, &line);
  if (status == ONNXPIPE_OK && line.help) {
    if (!rank) {
      help_print(subcommand, stdout);
      status = printed();
    }
  } else if (status == ONNXPIPE_OK) {
    if (strcmp(subcommand, "simulate") == 0)
      status = onnxpipe_simulate(line.options, stdout, stderr);
    else if (strcmp(subcommand, "export") == 0)
      status = onnxpipe_export(line.model, line.second, line.options, stdout);
    else
      status = run_on_model(subcommand, &line);
    if (status == ONNXPIPE_OK || status == ONNXPIPE_INTERRUPTED || status == ONNXPIPE_TERMINATED)
      status = printed() == ONNXPIPE_OK ? status : ONNXPIPE_FAILED;
    else if (*onnxpipe_error())
      complain("", onnxpipe_error(), "");
  }
  onnxpipe_options_destroy(line.options);
  return status;
}

/* What is wrong with the words is said when it is known who says it. */
static void heed_timeout(const char *subcommand, char **words, int n) {
  CommandLine line = {.options = onnxpipe_options_create(), .rank = 1};
  if (line.options && read_words(words, n, subcommand, &line) == ONNXPIPE_OK)
    onnxpipe_start_timeout(line.options);
  onnxpipe_options_destroy(line.options);
}

static void no_subcommand(const char *word) {
  enum { MOST = 16 };
  const char *names[MOST];
  char after[512] = "' is no subcommand: ";
  int n = 0;
  while (n < MOST && help_subcommand(n)) {
    names[n] = help_subcommand(n)->name;
    n++;
  }
  for (int i = 0; i < n; i++) {
    size_t at = strlen(after);
    snprintf(after + at, sizeof after - at, "%s%s", i == 0 ? "" : i + 1 == n ? " or " : ", ", names[i]);
  }
  int nearest = onnxpipe_nearest(word, names, n);
  size_t at = strlen(after);
  if (nearest >= 0)
    snprintf(after + at, sizeof after - at, " (did you mean %s?)", names[nearest]);
  complain("'", word, after);
}

int main(int argc, char **argv) {
  keep_streams();
  const char *subcommand = argc > 1 ? argv[1] : "--help";
  if (strcmp(subcommand, "--version") == 0) {
    printf("%s", onnxpipe_version());
    return printed();
  }
  if (strcmp(subcommand, "--help") == 0 || strcmp(subcommand, "-h") == 0 || strcmp(subcommand, "help") == 0) {
    help_print(NULL, stdout);
    return argc > 1 ? printed() : ONNXPIPE_USAGE;
  }
  if (!help_knows(subcommand)) {
    no_subcommand(subcommand);
    return ONNXPIPE_USAGE;
  }
  int rank = 0, size = 1, collective = strcmp(subcommand, "train") == 0;
  heed_signals();
  onnxpipe_on_hang(end_hanging, NULL);
  if (collective)
    heed_timeout(subcommand, argv + 2, argc - 2);
  if (collective && onnxpipe_start(report_death, NULL, &rank, &size) != ONNXPIPE_OK) {
    complain("", onnxpipe_error(), "");
    onnxpipe_finish(1);
    return ONNXPIPE_FAILED;
  }
  silent_rank = rank != 0;
  heed_term();
  OnnxpipeStatus status = run(subcommand, argv + 2, argc - 2, rank);
  if (collective)
    onnxpipe_finish(status != ONNXPIPE_OK);
  return status;
}
