/* The training graph of a job. Invariant: after job_differentiate every node runs on the job's backend. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "graph/autodiff.h"
#include "graph/batch.h"
#include "graph/op.h"
#include "graph/order.h"
#include "graph/passes/passes.h"
#include "runtime/job/job.h"

/* "NAME=N" of --dim. */
static Status parse_dim(Arena *arena, const char *text, DimBinding *dim) {
  const char *equals = strrchr(text, '=');
  char *end = NULL;
  dim->value = equals ? strtoll(equals + 1, &end, 10) : 0;
  if (!equals || equals == text || end == equals + 1 || *end || dim->value < 0)
    return fail(E_USAGE, "--dim: '%s' is not NAME=N with a size of at least 0", text);
  char *name = arena_string(arena, text);
  if (!name)
    return status_code();
  name[equals - text] = '\0';
  dim->name = name;
  return OK;
}

/* The names that --dim may have: those of the inputs' open dimensions, "INPUT.AXIS" where one has none. */
static Status open_dims(Arena *arena, const Model *model, const char ***names, int *n) {
  int n_inputs, most = 0;
  const ModelInput *inputs = model_inputs(model, &n_inputs);
  for (int i = 0; i < n_inputs; i++)
    most += inputs[i].rank > 0 ? inputs[i].rank : 0;
  TRY(ARENA_NEW(arena, *names, most));
  *n = 0;
  for (int i = 0; i < n_inputs; i++)
    for (int k = 0; k < inputs[i].rank; k++) {
      if (inputs[i].dim[k] >= 0)
        continue;
      const char *name = inputs[i].dim_name[k] && *inputs[i].dim_name[k]
                             ? inputs[i].dim_name[k]
                             : arena_format(arena, "%s.%d", inputs[i].name, k);
      if (!name)
        return status_code();
      (*names)[(*n)++] = name;
    }
  return OK;
}

static Status refuse_dim(const char *dim, const char *const *names, int n) {
  char list[1024] = "", hint[NEAREST_BYTES];
  for (int i = 0; i < n; i++) {
    size_t at = strlen(list);
    bool again = false;
    for (int k = 0; k < i; k++)
      again |= strcmp(names[k], names[i]) == 0;
    if (!again)
      snprintf(list + at, sizeof list - at, "%s'%s'", at ? ", " : "", names[i]);
  }
  return fail(E_USAGE, "--dim: no input has an open dimension '%s'%s%s%s", dim, n ? ", only " : ": none is open", list,
              nearest_hint(dim, names, n, hint));
}

Status job_dims(Arena *arena, const Options *options, const Model *model, const Dataset *data, BindOptions *bind) {
  DimBinding *dims;
  const char **names;
  int known = data ? data->n_dims : 0, n = known, n_open;
  TRY(ARENA_NEW(arena, dims, (size_t)n + options->dim.n));
  TRY(open_dims(arena, model, &names, &n_open));
  if (n)
    memcpy(dims, data->dims, (size_t)n * sizeof *dims);
  for (size_t i = 0; i < options->dim.n; i++) {
    DimBinding dim;
    int is = 0;
    TRY(parse_dim(arena, options->dim.items[i], &dim));
    while (is < n_open && strcmp(names[is], dim.name) != 0)
      is++;
    if (is == n_open)
      return refuse_dim(dim.name, names, n_open);
    for (int k = 0; k < known; k++)
      if (strcmp(dims[k].name, dim.name) == 0 && dims[k].value != dim.value)
        return fail(E_USAGE, "--dim %s=%lld contradicts %s, where it is %lld", dim.name, (long long)dim.value,
                    data->path, (long long)dims[k].value);
    dims[n++] = dim;
  }
  bind->dims = dims;
  bind->n_dims = n;
  return OK;
}

/* An input that the data gives once; or once for all samples, where the file's batch is all of them. */
static Status input_contents(void *context, int input, DType dtype, Shape shape, void *data, bool *given) {
  const Job *job = context;
  const Dataset *set = &job->given.data;
  bool whole = model_fixed_batch(job->given.model) == set->samples && !job->asked.options->shuffle;
  const Column *column = &set->columns[input];
  *given = (column->axis < 0 || whole) && shape_equal(column->shape, shape);
  return *given ? column_gather(column, NULL, set->samples, dtype, data) : OK;
}

/* Takes: the devices of all ranks. */
static bool devices_take(const void *context, const Graph *graph, const Node *node) {
  const JobDecisions *decided = context;
  for (int r = 0; r < decided->ranks; r++)
    if ((r == 0 || decided->devices[r].backend != decided->devices[r - 1].backend) &&
        !backend_accepts(decided->devices[r].backend, graph, node))
      return false;
  return true;
}

/* Whether what is done with a product's sums goes with it: in float32 sums are written before, so that nothing is won,
 * and the GELU alone could not be computed anew. */
static bool joins_products(const Job *job) {
  return job->decided.precision == PRECISION_BF16;
}

Status job_bind(Job *job) {
  const Options *o = job->asked.options;
  BindOptions bind = {.batch = job->decided.microbatch_size,
                      .evaluate = backend_evaluate,
                      .contents = job->given.data.samples ? input_contents : NULL,
                      .contents_context = job,
                      .replaced = job->asked.replaced.contents,
                      .no_fuse = o->no_fuse,
                      .takes = devices_take,
                      .takes_context = &job->decided,
                      .training = job->decided.infers ? o->train_mode : !o->eval_mode,
                      .updates = !job->decided.infers && !o->eval_mode,
                      .live = job->decided.validates};
  TRY(job_dims(job->arena, job->asked.options, job->given.model, &job->given.data, &bind));
  TRY(model_bind(job->given.model, &bind, job->arena, &job->decided.graph));
  for (int i = 0; i < 2 && job->decided.infers && !o->no_fuse && joins_products(job); i++)
    TRY(graph_rewrite(job->decided.graph, i ? &pass_product_add : &pass_product_gelu, devices_take, &job->decided,
                      job->arena, NULL, &job->decided.graph));
  return graph_order_for_cuts(job->decided.graph);
}

int job_coupled(const Job *job) {
  int n = 0;
  for (size_t i = 0; i < job->decided.graph->n_nodes; i++)
    n += batch_couples(job->decided.graph, job->decided.graph->nodes[i]);
  return n;
}

/* One value a channel has no variance: PyTorch refuses it, too. */
static Status refuse_single(const Job *job, const Node *node) {
  const Value *x = graph_value(job->decided.graph, node->in[0]);
  if (shape_elements(x->shape) != x->shape.dim[1])
    return OK;
  return fail(E_SHAPE,
              "%s: node '%s' (%s): a microbatch of %lld has one value a channel, which have no variance: take larger "
              "ones (--batch, --microbatches), or the file's statistics (--eval-mode)",
              job->asked.path, node->name, op_def(node->op)->name, (long long)job->decided.microbatch_size);
}

/* Which of the model's nodes compute otherwise than when it evaluates. */
static Status tell_mode(Job *job) {
  const Graph *graph = job->decided.graph;
  int statistics = 0, drops = 0;
  if (job->asked.options->eval_mode)
    return job_decide(job, "mode", "evaluation: the file's statistics, which stay, and no Dropout (--eval-mode)");
  for (size_t i = 0; i < graph->n_nodes; i++) {
    if (batch_couples(graph, graph->nodes[i])) {
      statistics++;
      TRY(refuse_single(job, graph->nodes[i]));
    }
    OpKind op = graph->nodes[i]->op;
    drops += op == OP_Dropout || (op == OP_Attention && node_attr(graph->nodes[i], "ratio"));
  }
  if (!statistics && !drops)
    return OK;
  return job_decide(job, "mode",
                    "training: %d node%s of batch normalisation by the microbatch's statistics, %d of Dropout "
                    "(--eval-mode: none)",
                    statistics, statistics == 1 ? "" : "s", drops);
}

static Status find_output(const Job *job, ValueId *output) {
  const Graph *graph = job->decided.graph;
  const char *name = job->asked.options->output;
  char names[1024] = "", hint[NEAREST_BYTES];
  const char **known;
  TRY(ARENA_NEW(job->arena, known, graph->n_outputs));
  for (size_t i = 0; i < graph->n_outputs; i++) {
    const char *this = graph_value(graph, graph->outputs[i])->name;
    if (!name || strcmp(this, name) == 0) {
      *output = graph->outputs[i];
      return OK;
    }
    known[i] = this;
    snprintf(names + strlen(names), sizeof names - strlen(names), "%s'%s'", i ? ", " : "", this);
  }
  return fail(E_USAGE, "--output: %s has no output '%s', it has %s%s", job->asked.path, name ? name : "", names,
              name ? nearest_hint(name, known, (int)graph->n_outputs, hint) : "");
}

/* Whether an integer input has the output's shape without its last axis, as a language model's tokens do. */
static bool looks_like_tokens(const Graph *graph, Shape output) {
  for (size_t i = 0; i < graph->n_inputs; i++) {
    const Value *input = graph_value(graph, graph->inputs[i]);
    Shape shape = output;
    shape.rank--;
    if (output.rank > 1 && !dtype_is_float(input->dtype) && shape_equal(input->shape, shape))
      return true;
  }
  return false;
}

/* Type and shape of one microbatch's target where no data says them. */
static Status assume_target(Job *job) {
  const Value *output = graph_value(job->decided.graph, job->decided.loss.output);
  LossSpec *loss = &job->decided.loss;
  bool guessed = loss->kind == LOSS_AUTO;
  if (guessed)
    loss->kind = looks_like_tokens(job->decided.graph, output->shape) ? LOSS_CROSS_ENTROPY : LOSS_MSE;
  loss->target_shape = output->shape;
  loss->target_dtype = output->dtype;
  if (loss->kind == LOSS_CROSS_ENTROPY && output->shape.rank) {
    int axis = loss->class_axis >= 0 ? loss->class_axis : output->shape.rank - 1;
    if (axis >= output->shape.rank)
      return fail(E_USAGE, "--class-axis %d is outside the output '%s' %s", axis, output->name,
                  SHAPE_STR(output->shape));
    for (int i = axis; i + 1 < output->shape.rank; i++)
      loss->target_shape.dim[i] = output->shape.dim[i + 1];
    loss->target_shape.rank--;
    loss->target_dtype = I64;
    loss->class_axis = axis;
  }
  return guessed ? job_decide(job, "note", "no data: a loss of %s is assumed (--loss)", loss_name(loss->kind)) : OK;
}

static bool has_classes(const Column *target) {
  return !dtype_is_float(target->dtype) && target->dtype != BOOL;
}

/* The plan file's loss. LOSS_AUTO where there is none, or it is not for such targets: then the file is refused for what
 * they say. */
static LossKind planned_loss(const Job *job) {
  const Column *target = job->given.data.target;
  LossKind kind = job->asked.planned.loss ? loss_find(job->asked.planned.loss) : LOSS_COUNT;
  if (kind == LOSS_COUNT)
    return LOSS_AUTO;
  bool fits = !target || kind == LOSS_MODEL || (kind == LOSS_CROSS_ENTROPY) == has_classes(target);
  return fits ? kind : LOSS_AUTO;
}

/* Class numbers [N,1] for a prediction [N,C]: the axis of size 1 stands where the classes do, and goes. */
static Status drop_class_axis(Job *job, Shape prediction) {
  LossSpec *loss = &job->decided.loss;
  Shape *target = &loss->target_shape, whole = *target;
  int axis = -1;
  if (loss->target_dtype != I64 || (loss->kind != LOSS_AUTO && loss->kind != LOSS_CROSS_ENTROPY) ||
      whole.rank != prediction.rank)
    return OK;
  for (int i = 0; i < whole.rank; i++)
    if (i != loss->target_batch_axis && whole.dim[i] == 1 && prediction.dim[i] != 1) {
      if (axis >= 0)
        return OK; /* which one? */
      axis = i;
    } else if (whole.dim[i] != prediction.dim[i]) {
      return OK;
    }
  if (axis < 0 || (loss->class_axis >= 0 && loss->class_axis != axis))
    return OK;
  for (int i = axis; i + 1 < whole.rank; i++)
    target->dim[i] = whole.dim[i + 1];
  target->rank--;
  loss->class_axis = axis;
  loss->target_batch_axis -= loss->target_batch_axis > axis;
  return job_decide(job, "note", "array 'target' has classes as %s: taken as %s", SHAPE_STR(whole), SHAPE_STR(*target));
}

static Status append_loss(Job *job) {
  const Options *o = job->asked.options;
  LossSpec *loss = &job->decided.loss;
  *loss = (LossSpec){.kind = loss_find(o->loss),
                     .ignore_index = o->ignore_index,
                     .microbatches = job->decided.microbatches,
                     .class_axis = -1};
  if (loss->kind == LOSS_AUTO)
    loss->kind = planned_loss(job);
  TRY(find_output(job, &loss->output));
  const Value *output = graph_value(job->decided.graph, loss->output);
  if (options_given(o, "class-axis")) {
    loss->class_axis = axis_normalize(o->class_axis, output->shape.rank);
    if (loss->class_axis < 0)
      return fail(E_USAGE, "--class-axis %lld is outside the output '%s' %s", (long long)o->class_axis, output->name,
                  SHAPE_STR(output->shape));
  }
  const Column *target = job->given.data.target;
  bool has_data = job->given.data.samples > 0;
  if (loss->kind == LOSS_AUTO && has_data && !target && shape_elements(output->shape) == 1)
    loss->kind = LOSS_MODEL;
  if (loss->kind == LOSS_MODEL)
    return loss_append(job->decided.graph, loss);
  if (has_data)
    TRY(dataset_need_target(&job->given.data));
  if (target) {
    loss->target_dtype = has_classes(target) ? I64 : output->dtype;
    loss->target_shape = column_shape(target, job->decided.microbatch_size);
    loss->target_batch_axis = target->axis;
    if (target->dtype != loss->target_dtype && !o->tokens)
      TRY(job_decide(job, "note", "array 'target' is %s: converted to %s", dtype_name(target->dtype),
                     dtype_name(loss->target_dtype)));
    TRY(drop_class_axis(job, output->shape));
  } else {
    TRY(assume_target(job));
  }
  Status status = loss_append(job->decided.graph, loss);
  if (status != OK && target)
    status_context("%s: ", job->given.data.path);
  return status;
}

/* An option of other losses than the one that is taken. */
static Status refuse_idle_loss(const Job *job) {
  const Options *o = job->asked.options;
  LossKind kind = job->decided.loss.kind;
  const char *idle = o->ignore_index != -100 ? "ignore-index" : options_given(o, "class-axis") ? "class-axis" : NULL;
  if (kind == LOSS_CROSS_ENTROPY || !idle)
    return OK;
  return fail(E_USAGE, "--%s does nothing with a loss of %s: it is an option of cross_entropy", idle, loss_name(kind));
}

const char *job_optimizer(const Job *job) {
  const char *planned = options_given(job->asked.options, "optimizer") ? NULL : job->asked.planned.optimizer;
  return planned && optimizer_find(planned) != OPTIMIZER_COUNT ? planned : job->asked.options->optimizer;
}

/* An option of other optimizers than the one that is taken; with its default it does no harm. */
static Status refuse_idle_optimizer(const Job *job) {
  const Options *o = job->asked.options;
  bool sgd = job->decided.optimizer.kind == OPTIMIZER_SGD;
  bool decays = job->decided.optimizer.kind != OPTIMIZER_SPARSE_ADAM || o->weight_decay == 0;
  if (options_given(o, "weight-decay") && !decays)
    return fail(E_USAGE, "--weight-decay does nothing with --optimizer %s: it is an option of sgd, adam and adamw",
                job_optimizer(job));
  const char *idle = sgd ? (o->beta1 != 0.9     ? "beta1"
                            : o->beta2 != 0.999 ? "beta2"
                            : o->eps != 1e-8    ? "eps"
                                                : NULL)
                         : (o->momentum != 0 ? "momentum"
                            : o->nesterov    ? "nesterov"
                                             : NULL);
  return !idle ? OK
               : fail(E_USAGE, "--%s does nothing with --optimizer %s: it is an option of %s", idle, job_optimizer(job),
                      sgd ? "adam, adamw and sparse_adam" : "sgd");
}

/* Whether all devices update tables by the rows that were looked up. */
static bool devices_take_rows(const JobDecisions *decided) {
  static const OpKind ops[] = {OP_AccumulateRows, OP_SquaredNormRows, OP_SgdUpdateRows, OP_AdamUpdateRows};
  bool able = true;
  for (int r = 0; r < decided->ranks; r++)
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
      able &= decided->devices[r].backend->kernels[ops[i]] != NULL;
  return able;
}

static Status choose_optimizer(Job *job) {
  const Options *o = job->asked.options;
  OptimizerSpec *spec = &job->decided.optimizer;
  *spec = optimizer_defaults(optimizer_find(job_optimizer(job)));
  spec->learning_rate = o->lr;
  spec->momentum = o->momentum;
  spec->nesterov = o->nesterov;
  spec->beta1 = o->beta1;
  spec->beta2 = o->beta2;
  spec->epsilon = o->eps;
  if (options_given(o, "weight-decay"))
    spec->weight_decay = o->weight_decay;
  TRY(refuse_idle_optimizer(job));
  optimizer_choose(job->decided.graph, spec, job->decided.microbatches, devices_take_rows(&job->decided));
  return OK;
}

static void count_trained(const Job *job, int64_t *tensors, int64_t *elements) {
  *tensors = *elements = 0;
  for (size_t v = 0; v < job->decided.graph->n_values; v++)
    if (job->decided.graph->values[v]->role == ROLE_PARAMETER) {
      ++*tensors;
      *elements += shape_elements(job->decided.graph->values[v]->shape);
    }
}

static Status decide_optimizer(Job *job) {
  const Options *o = job->asked.options;
  const OptimizerSpec *spec = &job->decided.optimizer;
  char numbers[128];
  if (spec->kind == OPTIMIZER_SGD)
    snprintf(numbers, sizeof numbers, "%s %g", spec->nesterov ? "Nesterov momentum" : "momentum", spec->momentum);
  else
    snprintf(numbers, sizeof numbers, "beta1 %g, beta2 %g, eps %g", spec->beta1, spec->beta2, spec->epsilon);
  return job_decide(job, "optimizer", "%s, learning rate %g, %s, weight decay %g%s", job_optimizer(job),
                    spec->learning_rate, numbers, spec->weight_decay,
                    options_given(o, "optimizer") || options_given(o, "lr") ? "" : " (--optimizer, --lr)");
}

/* What is fused of a training graph: products that are gradients of parameters go into the accumulators; the last one
 * goes with its loss; what comes back past a norm goes into the norm's own gradient; in bfloat16 what is done with the
 * sums of other products goes with these. */
static Status fuse_training(Job *job) {
  static const Pass *const passes[] = {&pass_accumulate,   &pass_head,          &pass_residual,
                                       &pass_product_gelu, &pass_product_slope, &pass_product_add};
  int n = joins_products(job) ? 6 : 3;
  LossSpec *loss = &job->decided.loss;
  for (int i = 0; i < n; i++) {
    Graph *graph = job->decided.graph;
    ValueId *map;
    TRY(ARENA_NEW(job->arena, map, graph->n_values));
    TRY(graph_rewrite(graph, passes[i], devices_take, &job->decided, job->arena, map, &job->decided.graph));
    loss->output = map[loss->output];
  }
  return OK;
}

static Status offload(Job *job) {
  Graph *graph = job->decided.graph;
  bool has_states = false;
  graph->offloads = job->decided.offloads;
  for (ValueId v = 0; v < graph->n_values; v++)
    has_states |= graph_value(graph, v)->role == ROLE_STATE;
  if (graph->offloads && !has_states)
    return fail(E_USAGE, "--offload optimizer does nothing with --optimizer %s without --momentum: it keeps no state",
                job_optimizer(job));
  return OK;
}

static Status tell_passes(Job *job) {
  const char *text;
  if (!job->asked.options->verbose)
    return OK;
  TRY(graph_passes_text(job->decided.graph, job->arena, &text));
  return job_decide(job, "passes", "%s (--no-fuse)", text);
}

Status job_differentiate(Job *job) {
  Graph *graph = job->decided.graph;
  size_t n_unreached = 0;
  int64_t tensors, elements;
  TRY(append_loss(job));
  TRY(refuse_idle_loss(job));
  count_trained(job, &tensors, &elements);
  if (!tensors)
    return fail(E_MODEL, "%s: nothing in it trains (`onnxpipe inspect` says why; --train GLOB)", job->asked.path);
  TRY(choose_optimizer(job));
  TRY(autodiff_append(graph, &n_unreached));
  if (n_unreached == (size_t)tensors)
    return fail(E_MODEL, "%s: no gradient of the loss reaches any of the %lld trained tensors", job->asked.path,
                (long long)tensors);
  TRY(optimizer_append(graph, &job->decided.optimizer));
  if (!job->asked.options->no_fuse)
    TRY(fuse_training(job));
  graph = job->decided.graph;
  TRY(offload(job));
  Status status = devices_prepare(job->decided.devices, job->decided.ranks, job->decided.precision, graph);
  if (status != OK) {
    status_context("%s: ", job->asked.path);
    return status;
  }
  TRY(job_decide(job, "trains", "%s tensors of %s elements", COUNT_STR(tensors), COUNT_STR(elements)));
  TRY(tell_mode(job));
  TRY(tell_passes(job));
  TRY(job_tell_parameters(job));
  const char *why = strcmp(job->asked.options->loss, "auto") != 0  ? ""
                    : planned_loss(job) != LOSS_AUTO               ? ", as the plan has"
                    : job->decided.loss.kind == LOSS_MODEL         ? ", for there is no target and it is one number"
                    : !job->given.data.target                      ? ""
                    : job->decided.loss.kind == LOSS_CROSS_ENTROPY ? ", for the targets are integers"
                                                                   : ", for the targets are not integers";
  TRY(job_decide(job, "loss", "%s of output '%s'%s", loss_name(job->decided.loss.kind),
                 graph_value(graph, job->decided.loss.output)->name, why));
  return decide_optimizer(job);
}
