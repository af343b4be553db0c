/* What a process takes beside arenas, as a model of few numbers, each measured on processes that hold little else
 * (bench/memory.py shows what it comes to). Invariant: it depends on the job alone, so plans of a job are alike. */
#include "runtime/job/job.h"

/* The program and its libraries; what Open MPI adds to them, with what it keeps for its messages; the most that graphs
 * and plans hold for a node and an action while they are made; a thread's stack. */
static const double PROGRAM_BYTES = 10.5e6, MPI_BYTES = 9e6, NODE_BYTES = 8000, ACTION_BYTES = 75, THREAD_BYTES = 50e3;

static double column_bytes(const Column *column, int64_t samples) {
  Shape shape = column_shape(column, column->axis < 0 ? 0 : samples);
  return (double)shape_elements(shape) * (double)dtype_bytes(column->dtype);
}

/* Of the samples that the steps read: pages of their files. */
static double data_bytes(const Job *job) {
  const Dataset *data = &job->given.data;
  const Options *o = job->asked.options;
  int64_t samples = data->samples;
  double bytes = 0;
  if (o->steps > 0 && o->steps < samples / (job->decided.batch ? job->decided.batch : 1))
    samples = o->steps * job->decided.batch;
  for (int i = 0; i < data->n_inputs && samples > 0; i++)
    bytes += column_bytes(&data->columns[i], samples);
  return bytes + (samples > 0 && data->target ? column_bytes(data->target, samples) : 0);
}

/* A context with the code of kernels, as one H100 had it (docs/gpu.md); what NCCL sets aside for each of two
 * neighbours: two communicators of at most eight channels, with its usual buffer of 4 MiB each. */
static const size_t CONTEXT_BYTES = (size_t)531 << 20, NEIGHBOUR_BYTES = (size_t)2 * 8 * 4 << 20;

static bool has_own_memory(const JobDecisions *decided, int rank) {
  return decided->cluster ? decided->cluster->devices[rank].host_bytes_per_second > 0
                          : !decided->devices[rank].backend->is_host;
}

ProcessMemory job_process(const Job *job) {
  const JobDecisions *decided = &job->decided;
  const Schedule *schedule = &decided->plan.schedule;
  double bytes = PROGRAM_BYTES + NODE_BYTES * (double)decided->graph->n_nodes + data_bytes(job);
  for (int r = 0; r < decided->ranks; r++) {
    if (has_own_memory(decided, r))
      return (ProcessMemory){.device_bytes = CONTEXT_BYTES,
                             .nccl_bytes = NEIGHBOUR_BYTES * (size_t)(decided->ranks < 3 ? decided->ranks - 1 : 2)};
    bytes += ACTION_BYTES * schedule->lists[r].n_actions + THREAD_BYTES * decided->threads;
  }
  return (ProcessMemory){.beside_bytes = (size_t)bytes, .mpi_bytes = (size_t)MPI_BYTES};
}
