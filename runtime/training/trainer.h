/* Training: what is settled before the first step, and one worker a rank. Inside the room. */
#ifndef RUNTIME_TRAINING_TRAINER_H
#define RUNTIME_TRAINING_TRAINER_H

#include "runtime/checkpoint/writer.h"
#include "runtime/costs/costs.h"
#include "runtime/data/sampler.h"
#include "runtime/executor/boundary.h"
#include "runtime/job/job.h"
#include "runtime/onnxpipe.h"
#include "runtime/training/chrome.h"
#include "runtime/training/denominators.h"
#include "runtime/training/metrics.h"
#include "runtime/training/rest.h"
#include "runtime/training/validation.h"

enum { REPORT_LOSS, REPORT_BUSY, REPORT_ASKED, REPORT_PART, REPORT_SQUARES = REPORT_PART + PART_NUMBERS };

/* What rank 0 is told of one step. Squares are those of update nodes, in graph order; negative: another rank's. */
typedef struct {
  double *numbers; /* [REPORT_SQUARES + n_updates + stages]: the loss (NaN where the rank does not have it), the seconds
                      that its nodes have taken since it was opened (negative: not known), what was asked of this rank
                      (word.c), what it wrote of the checkpoint that is under way, the squares, and of the seconds those
                      of each stage */
  Ticket *tickets; /* [ranks]: of sending it (rank 0: of receiving into `from`) */
  double **from;   /* rank 0: [ranks] */
  int64_t step;    /* from 0 */
  int64_t samples; /* of the step */
  double learning_rate, seconds;
} StepReport;

typedef struct NextPlan NextPlan; /* replan.h */

/* Training of a whole job; shared by the workers of a process, read-only while any of them is inside a step or whatever
 * else it was told to do. */
typedef struct {
  Job *job;
  Boundaries boundaries;           /* from trainer_prepare on, with more than one rank; the caller closes them */
  const RankPlace *places;         /* [ranks]: what they follow from */
  int64_t steps;                   /* that the options ask for; 0: they ask for none to be taken */
  int64_t first_step;              /* already done, by the run that it goes on from */
  int64_t epoch_length;            /* samples */
  int64_t epoch_steps;             /* batches of an epoch; where data wraps, whole ones in the data */
  const Costs *costs;              /* rank 0's: what was measured before the first step; NULL: nothing */
  JobCosts planned;                /* rank 0's: what the plan that runs follows from; all zero: from stated speeds */
  NextPlan *replanned;             /* the last one that was taken, and through it those before; the caller drops them */
  Rest *rest;                      /* NULL: all batches are whole; else an epoch's last one is this */
  int64_t every;                   /* steps from one validation or checkpoint to the next */
  Validation *validation;          /* NULL: none; the caller closes it */
  const char *checkpoint_about;    /* rank 0's, with --checkpoint: what checkpoint.json says of the job */
  int checkpoint_lock;             /* rank 0's: -1: no folder is taken */
  double clip_norm;                /* 0: none */
  Metrics *metrics;                /* NULL: none; rank 0's */
  FILE *out;                       /* NULL: quiet */
  int64_t trace_first, trace_last; /* steps that --trace keeps, from 0 */
  OnnxpipeProgress *progress;
  void *progress_context;
} Training;

/* Whether step k, from 0, is an epoch's rest. */
static inline bool training_is_rest(const Training *training, int64_t step) {
  return training->rest && (step + 1) % training->epoch_steps == 0;
}

/* How writing a checkpoint went, the same on every rank. */
typedef struct {
  int64_t step;
  int32_t code; /* a Status */
  char message[1024];
} CheckpointResult;

/* What is said of one that failed, before its message. */
#define CHECKPOINT_LOST "the checkpoint of step %lld was not written: "

/* What one rank has for --trace. */
typedef struct RankPart RankPart;
typedef struct {
  Trace *trace; /* NULL: none */
  /* rank 0: */
  RankPart *parts; /* [ranks] */
  ClockFit *fits;  /* [ranks] */
  double origin, clock_error_seconds;
} Timeline;
/* What all ranks do after the step at hand. */
typedef struct {
  int32_t bits;     /* REQUEST_… */
  int32_t sent[2];  /* rank 0: of even and odd steps */
  int heard;        /* rank 0: of other ranks, since the last word */
  int64_t saved_at; /* the last step after which saving was asked; 0: none */
  Ticket *tickets;  /* [2 * ranks]: of sending them; others' first one: of receiving it */
} Word;

enum { MOST_REPLANS = 3 }; /* a run */

/* Rank 0: what stages take, from one look at them to the next (compare.c). */
typedef struct {
  double *seconds, *since; /* [stages]: up to the last report; when the look began */
  double *ratios;          /* [stages]: what they took by what was planned */
  int *told;               /* [stages]: the last forward node of each in the better cut that was told last; -1: none */
  int *had;                /* [MOST_REPLANS + 1][stages]: the same of the cuts that the run had, and the one it has */
  int n_had;
  bool said;             /* that they take other times */
  int64_t steps, wanted; /* whole steps since; how many tell */
  double run_seconds;    /* that these took */
} StageLook;

/* What computes a rank's steps: those of whole batches, or of an epoch's rest. */
typedef struct {
  const JobDecisions *decided;
  Executor *executor;
  Feeder feeder;
  Denominators denominators;
} Stepper;

/* One rank's. */
typedef struct {
  const Training *training;
  Arena *arena;
  Arena *planned; /* of what follows from the plan */
  int rank;
  const Link *link; /* NULL with one rank */
  Watch *watch;     /* what it is at; outside of worker_… functions, at nothing that is known */
  Store *store;
  Stepper whole, rest; /* rest: where the training has one. They share accumulators and states */
  Stepper *stepper;    /* of the step at hand */
  Sampler sampler;
  int64_t *next_batch; /* [batch]: the samples of the step after the one at hand */
  bool *fed;           /* [inputs of the model, and the target]: this rank reads them */
  void *targets;       /* the batch's, where they decide the denominator; else NULL */
  int n_updates;
  const int *cores;      /* [threads] that the rank's threads keep to; NULL: they go where the system puts them */
  StepReport reports[2]; /* of even and odd steps */
  Word word;
  double *squares;           /* [n_updates] */
  double *busy, *first_busy; /* rank 0: [ranks], of the last report and of the first */
  double measured_seconds;   /* rank 0: of all whole steps that were reported, the first apart where there are more */
  int64_t n_measured;        /* rank 0: whole steps that were reported */
  StageLook look;            /* rank 0 */
  NextPlan *next;            /* what all ranks go on with soon; NULL: with what they have. Until they have been told
                                rank 0's alone */
  struct Carried *carried;   /* between worker_leave and worker_enter */
  int64_t steps_done;
  bool report_is_out;       /* of the last step: posted, not collected */
  OnnxpipeMetrics last;     /* of the last report that rank 0 collected */
  CheckpointWriter *writer; /* NULL: there is no --checkpoint */
  int64_t checkpoint;       /* the step of the one that is under way; -1: none is */
  CheckpointResult written; /* of the last that was waited for */
  Timeline timeline;
  Evaluation *evaluation;       /* NULL: none */
  OnnxpipeValidation validated; /* the last one's */
  char lost_gradients[512];     /* rank 0's: why those of --dump-gradients were not written; "": they were */
  bool holds_line;              /* of metrics: the report's is written when its step was validated */
} Worker;

/* How a failure that one rank had became known to the others. */
typedef struct {
  bool agreed;    /* all ranks know, and may end in good order */
  bool elsewhere; /* the message is another rank's to print */
  bool goes_on;   /* of a save: no file was written, and all is as before */
} Outcome;

/* What happened everywhere: every rank calls it with its own status; OK when all were. Else every rank gets the code
 * and the message of the lowest rank that failed. */
Status trainer_agree(const Link *link, Status status, Outcome *outcome);

/* Settles everything before the executors: steps, data, plan (made by rank 0, and printed to training->out there),
 * files. Collective. Fails E_USAGE, or as what it opens does. */
Status trainer_prepare(Training *training, Outcome *outcome);
/* The graphs beside that of whole batches: *rest, NULL where there is none, and the validation's (NULL: none), every so
 * many steps. Fails as rest_plan and validation_plan. */
Status trainer_plan_beside(Job *job, Validation *validation, int64_t every, Rest **rest);
/* job_choose, with what will lie beside. */
Status trainer_choose(Job *job, Validation *validation);
/* The learning rate of step k, from 0; past `steps` that of their end. */
double trainer_learning_rate(const Options *options, int64_t step, int64_t steps);

/* Whether a launcher says that this process is one of several, and the MPI world of `size` ranks is this one alone. */
bool launcher_is_foreign(int size);
/* E_USAGE there, unless --ranks says that this process is to train alone. */
Status launcher_check(const World *world, const Options *options);
/* Adds the lines about learning, and notes of options that do nothing in this run; E_USAGE where two contradict. */
Status learning_decide(Job *job, int64_t steps);

/* One rank's work, on the thread that owns its link; training, rank, link and watch are set, all else is zero. After a
 * failure only worker_close. */
Status worker_open(Worker *worker);
/* Collective, when every rank's worker is open. */
Status worker_connect(Worker *worker);
void worker_close(Worker *worker);
Status worker_step(Worker *worker);
/* Of the last step; before the first one, zeros and `steps`. In process rank 0's alone, collective under mpirun. */
Status worker_metrics(Worker *worker, OnnxpipeMetrics *metrics);
/* Collective: validates after the steps that were done; w->validated says what came of it, on every rank. */
Status worker_validate(Worker *worker);
/* Collective: the trained model into a file that rank 0 writes. Where outcome->goes_on the worker is as good as before,
 * whatever is returned. */
Status worker_save(Worker *worker, const char *path, Outcome *outcome);
/* Collective: begins a checkpoint of what the last step left, when the one before is written; training goes on
 * meanwhile. What cannot be written is no failure of it. */
Status worker_checkpoint(Worker *worker);
/* Collective: until the one that is under way is written; worker->written says how it went, for the caller to say where
 * that is a failure. */
Status worker_checkpoint_wait(Worker *worker);
/* The same where the run goes on whatever came of it; rank 0 says what was not written. */
Status worker_checkpoint_end(Worker *worker);
/* Collective, between two steps, where rank 0 has a next plan: what this rank will keep of the run is in its memory
 * then, and nothing that followed from the plan is open any more. The worker has the next plan. */
Status worker_leave(Worker *worker);
/* Collective, when the training has the next plan: the run goes on with it. */
Status worker_enter(Worker *worker);
/* Collective: every rank is done in good order. */
Status worker_end(Worker *worker, Outcome *outcome);

/* Rank 0: takes the folder of --checkpoint for this run. E_USAGE where another run has it or left other checkpoints. */
Status checkpoints_take(Training *training);
/* The writer of this rank, with --checkpoint. */
Status checkpoints_open(Worker *worker);
/* The ranks of this process, rank 0 among them, that have ended: what all ranks began is written. */
void checkpoints_finish(Worker *const *workers, int ranks);
/* Of the checkpoint that the run goes on from: what validations had said by then. */
void checkpoints_recall(Worker *worker);
/* What worker_checkpoint and worker_checkpoint_wait do; a rank that fails has not withdrawn. */
Status checkpoints_begin(Worker *worker);
Status checkpoints_wait(Worker *worker);
/* The same where the run goes on, and nobody looks at what came of it. */
Status checkpoints_end(Worker *worker);
/* The metrics of a run that goes on: what lies in the file of its first `steps` steps stays. */
Status checkpoints_metrics(const char *path, int64_t steps);

/* Loads this rank's weights and first contents (executor's Load; context: Job). */
Status weights_load(void *job, ValueId value, void *data, size_t bytes);
/* --init: checks its text; *deviation of "normal:0.02". */
Status init_parse(const char *text, double *deviation);
/* First contents of a trained tensor with --init: matrices are drawn, vectors are the file's, or 1 and 0 where the
 * file's weights are absent. */
Status init_load(const Job *job, ValueId value, void *data, size_t bytes);
/* Every trained tensor to rank 0, which writes the model. Collective. Where rank 0 fails with other than E_COMM and
 * E_DEVICE, all that was sent has been taken. */
Status weights_save(Worker *worker, const char *path);
/* The step's gradients to rank 0, which writes them by initializer name; what cannot be written is said, and known to
 * the worker. Collective, between run and update. */
Status weights_dump_gradients(Worker *worker, const char *path);

/* The measured timeline (timeline.c). */
/* What the options say of it; E_USAGE where they contradict. */
Status timeline_settle(Training *training);
Status timeline_create(Worker *worker);
/* Compares clocks, where ranks have several. Collective, before the first step. */
Status timeline_connect(Worker *worker);
/* Every rank's spans into the file that rank 0 writes; *written: whether it could. Collective, behind the last step. */
Status timeline_write(Worker *worker, Status *written);
/* The same after a failure, of the ranks that are threads of this process, and rank 0 among them. */
Status timeline_write_rest(Worker *const *workers, int n);
/* What all ranks do after a step (word.c). Rank 0 sends, others await; before the step's first action. */
Status word_post(Worker *worker);
/* After the step: word.bits are those of all ranks. */
Status word_take(Worker *worker);
/* Until the last one was sent. */
Status word_sent(Worker *worker);
/* What this rank, not rank 0, has to tell; what rank 0 was told. */
int word_asked(const Worker *worker);
void word_heard(Worker *worker, int asked);

/* Reports of steps (report.c). */
Status report_create(Worker *worker);
/* Sends this rank's numbers of the step on their way, or keeps them (rank 0). Does not wait for rank 0. */
Status report_post(Worker *worker, int64_t step, double loss, double learning_rate, double seconds);
/* Rank 0: waits for every rank's numbers of the step, then metrics and progress. Others: until theirs were taken. */
Status report_collect(Worker *worker, int64_t step);
/* Rank 0: the line of the last step that was collected with what its validation said, `with_step`, or a line with that
 * alone; and a line to training->out. */
Status report_validation(const Worker *worker, bool with_step);
/* Rank 0: says to training->out what steps took, beside the plan's prediction, and how busy every rank was. */
Status report_show(const Worker *worker);
/* What rank 0 compares with the plan. */
Status compare_create(Worker *worker);
/* From here on another plan runs. */
void compare_begin(Worker *worker);
/* Rank 0, of a whole step that was reported; once enough were, and then after twice as many, and so on: prints where
 * stages take more or less than a tenth of what was planned, with the cut that would be better, and has the cache
 * forget what was not so. With --replan that is the worker's next plan, if the run had no such cut before. */
void compare_stages(Worker *worker, const StepReport *report);
/* Rank 0's `last` to every rank. Collective. */
Status report_metrics(Worker *worker);
/* The global gradient norm of the step at hand, on every rank. Collective. */
Status report_norm(Worker *worker, double *norm);

#endif
