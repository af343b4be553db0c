/* What planning, training, inference and profiling have in common: options and a model become numbers, data, a graph
 * and a plan. Everything here is the same on every rank; only rank 0 makes the plan.
 *
 * Invariant: whatever the options left open is decided here, and each decision has a line that says what and why. */
#ifndef RUNTIME_JOB_JOB_H
#define RUNTIME_JOB_JOB_H

#include "graph/loss.h"
#include "graph/optimizer.h"
#include "onnx/model.h"
#include "partitioner/plan/plan.h"
#include "runtime/data/dataset.h"
#include "runtime/job/cluster.h"
#include "runtime/job/cores.h"
#include "runtime/job/device.h"
#include "runtime/options.h"
#include "runtime/transport/transport.h"

/* Where this process stands. */
typedef struct {
  bool mpi; /* started by mpirun: `link` is open, and ranks are processes */
  int rank, size;
  Link link;
  void (*report)(void *context, const char *line); /* of what went wrong and ends no run; NULL: nobody asks */
  void *report_context;
  void (*hangs)(void *context, const char *line); /* no rank of this process moves; NULL: nobody watches */
  void *hangs_context;
} World;

typedef struct {
  const char *what, *text;
} Decision;

/* What plans follow from, where it was measured. */
typedef struct {
  const Profile *profiles;            /* [ranks] */
  LinkSpec link;                      /* all zero: not known */
  const DeviceSpec *devices;          /* [ranks]: instead of what they state; NULL */
  const double *bus_bytes_per_second; /* [ranks]: between a rank's device and the host's memory; NULL, 0: not known */
  double wire_bytes_per_second;       /* between two ranks' devices; 0: not known */
  double capacity;                    /* so many ranks can compute at once; 0: all can */
} JobCosts;

/* Initializers that do not train, and have other contents than the model's file says: another file's, or those of the
 * checkpoint that a run goes on from. The same on every rank. */
typedef struct {
  bool *is;              /* [initializers]; NULL: there are none */
  const void **contents; /* [initializers]: dense; NULL: of BIND_READ_BYTES or more, which lie in the store alone */
} Replaced;

/* What was asked: the command line, what its files say, the world that stands behind it. */
typedef struct {
  const Options *options;
  const char *path; /* of the model */
  const World *world;
  PlanRequest planned;        /* what the file of --plan states; all zero: none is given */
  Schedule *schedule;         /* of --schedule-file; NULL: none */
  struct Checkpoint *resumed; /* from which the run goes on; NULL: it begins */
  struct Origin *origin;      /* of --init-from: first contents; NULL: the model's file has them */
  Replaced replaced;
  Options *completed; /* then: `options` are these, the job's own */
} JobRequest;

/* What is given. */
typedef struct {
  Model *model;
  Dataset data;       /* data.samples == 0: none */
  Dataset validation; /* what --validation-split takes away from it; the same */
} JobData;

/* A search for what fits: keeping everything, then computing some anew, then saying what lacks. */
typedef enum { ATTEMPT_ANY, ATTEMPT_KEEP, ATTEMPT_AGAIN, ATTEMPT_EXPLAIN } Attempt;

/* What was decided: where the options left it open, a line says what and why. */
typedef struct {
  int ranks, chunks, microbatches;
  int64_t batch, microbatch_size;
  bool microbatches_open;                                  /* may still be chosen by simulated time */
  bool foresees;                                           /* named schedules stand for what would be found */
  double beat_seconds;                                     /* of a step, that another plan takes; 0: there is none */
  RankDevice *devices;                                     /* [ranks] */
  const char *device_text, *precision_text, *offload_text; /* as a plan names them */
  Precision precision;
  const bool *offloads;   /* [ranks]: the optimizer's state lies in the host's memory; NULL: on none */
  int threads;            /* a rank */
  Cores cores;            /* that they run on */
  const Cluster *cluster; /* that is planned for; NULL: this machine */
  bool pins;              /* they may keep to cores: training */
  bool infers;            /* the graph is bound for inference */
  bool validates;         /* then, beside one that trains */
  bool compares;          /* plans are many (PlanRequest.brief) */
  LossSpec loss;
  OptimizerSpec optimizer;
  Graph *graph;
  const char *schedule; /* a name, or "auto"; NULL: as the options say */
  Attempt attempt;
  size_t beside_bytes;   /* of the rank for which job_check_beside failed last */
  size_t reserved_bytes; /* of --memory-limit, for that */
  PlanRequest request;   /* what the planner was asked for */
  Plan plan;

  Decision *lines;
  size_t n_lines, lines_capacity;
} JobDecisions;

typedef struct {
  Arena *arena;
  JobRequest asked;
  JobData given;
  JobDecisions decided;
} Job;

/* Opens the data, settles ranks, batch and devices. E_USAGE where options contradict each other.
 * The caller has set arena, options, path, world and model, all else is zero. */
Status job_open(Job *job);
void job_close(Job *job);
/* Opens the data that the options name, if any, and takes the validation's from it. */
Status job_take_data(Job *job);
/* Whether options say where data is. */
bool job_has_data(const Options *options);
/* Opens data of the kind that the job trains on: a file of tokens where --tokens is given. Fails as dataset_open. */
Status job_open_data(const Job *job, const char *path, Dataset *data);

/* Reads --schedule-file, where it is given, and settles ranks, stages and microbatches by it: E_USAGE where options
 * contradict it, E_MODEL where it is no schedule for training. */
Status job_read_schedule(Job *job);
/* What makes a plan faster than another: --objective, else the makespan where all ranks wait for all in a step, as they
 * do for --clip-norm or, `agree`, before updates. */
Objective job_objective(const Options *options, bool agree);

/* The optimizer's name: the option's, else the plan file's, which is refused later where there is none of that name. */
const char *job_optimizer(const Job *job);

/* The devices that the text names ("auto" too), one a rank, and what a plan calls them. */
Status job_take_devices(Job *job, const char *text);
/* Which ranks have the optimizer's state in the host's memory, as the option or the plan file says: those whose own
 * memory is another one. E_USAGE where there are none. */
Status job_take_offload(Job *job);
/* How many of the ranks run on this machine. */
int job_ranks_here(const Job *job);

/* Adds a line that says what was decided. */
Status job_decide(Job *job, const char *what, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* What the options say about which initializers train. */
TrainOptions job_train_options(const Options *options);
/* Tells whoever started the library a line about what ends no run. */
void job_report(const Job *job, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints the lines, broken between words in a window. */
Status job_print(const Job *job, FILE *out);

/* The sizes of symbolic dimensions: the data's (NULL: none) and those of --dim, which must not contradict them, and
 * name what an input leaves open. */
Status job_dims(Arena *arena, const Options *options, const Model *model, const Dataset *data, BindOptions *bind);

/* The forward graph of one microbatch, bound to the data's or the options' sizes, in the order that will be cut. */
Status job_bind(Job *job);
/* How many nodes of the bound graph have statistics of a microbatch (batch_couples). */
int job_coupled(const Job *job);
/* A line for each tensor, or kind of tensors, that is tied, split, restored, held fixed or without gradient, by name.
 */
Status job_tell_parameters(Job *job);
/* Loss, backward pass and update appended; checked against the backend; workspaces known. */
Status job_differentiate(Job *job);
/* Whether what lies beside the plan of the job fits, too: E_LIMIT where it does not. */
typedef Status JobBeside(void *context, Job *job);
/* The numbers of microbatches among which job_choose chooses: 1, and the largest divisors of the batch up to 1, 2, 4
 * and 8 times the ranks (1 rank: up to 16, should memory ask). Returns how many. */
enum { JOB_MICROBATCHES = 6 };
int job_list_microbatches(const Job *job, int list[JOB_MICROBATCHES]);
/* Settles microbatches and stages a rank, where they are open, then binds, differentiates and plans (rank 0). Numbers
 * of microbatches beside which `beside` (NULL: nothing is) does not fit are left out. */
Status job_choose(Job *job, JobBeside *beside, void *context);
/* Makes or reads the plan (rank 0), of a graph without a loss for inference. costs NULL: by the devices' stated speed.
 */
Status job_plan(Job *job, const JobCosts *costs);
/* What a process of the planned job takes beside its ranks' arenas; nothing where it is not known: with devices that
 * have memory of their own. */
ProcessMemory job_process(const Job *job);
/* Whether every rank has room for `beside` [ranks] next to the plan's memory and what is `taken` [ranks] already (NULL:
 * nothing): else E_LIMIT with what it is for and the numbers. */
Status job_check_beside(Job *job, const char *what, const size_t *taken, const size_t *beside);
/* The largest divisor of n that is at most `most`. */
int64_t job_largest_divisor(int64_t n, int64_t most);
/* Prints what was decided and the plan to `out` (NULL: nothing), and writes the page of the option `report`. */
Status job_show(const Job *job, FILE *out);
/* Takes over rank 0's plan from its text. */
Status job_plan_from(Job *job, const char *text);

/* How wide what is printed may be: what COLUMNS says, or the terminal, or 100. */
int job_columns(void);
/* Whether it may have colours: a terminal that is not dumb, and NO_COLOR is not set. */
bool job_colours(FILE *out);

/* "1,234,567" into text of at least 32 bytes; returns text. */
char *job_count(int64_t n, char text[32]);
#define COUNT_STR(n) job_count((n), (char[32]){0})

#endif
