/* The last product and the cross entropy of its rows as one node. Its logits are the largest tensor of a model with
 * many classes, and live from the forward pass into the backward one. Since a loss is a number, whose cotangent is
 * known before, a few rows at a time can be multiplied, become their own gradient and go on into those of the product's
 * operands, all in the forward pass: no product is computed twice, and no more than these rows ever stand. */
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

enum {
  ROWS_BYTES = 32 << 20, /* of logits that stand, or */
  LEAST_ROWS = 256,      /* for both operands are read, and an accumulator is written, for each part */
  MOST_READERS = 4,
  MOST_ABSORBED = 16,
  MOST_SCALE = 8
};

/* Of what stands for them: the bias, where there is one, then what the scale is made of. */
enum { IN_SUM, IN_X, IN_W, IN_TARGET, IN_MORE, MOST_IN = IN_MORE + 1 + 2 * MOST_SCALE };

typedef struct {
  Instead instead;
  const Graph *from;
  const Node *product, *slopes, *towards_x, *towards_w, *towards_bias;
  const Node *scale[MOST_SCALE]; /* make the loss's cotangent of what is known before the step, in order */
  ValueId scale_value;
  int n_scale, first_leaf; /* of `in` */
  bool biased;
  NodeId absorbed[MOST_ABSORBED];
  ValueId in[MOST_IN], gives[2];
  Attr attrs[5];
} Head;

static const Node *producer(const Graph *g, ValueId id) {
  NodeId node = graph_value(g, id)->producer;
  return node == NO_NODE ? NULL : graph_node(g, node);
}

/* What it is a view of. */
static ValueId behind_reshapes(const Graph *g, ValueId id) {
  for (const Node *n = producer(g, id); n && n->op == OP_Reshape; n = producer(g, id))
    id = n->in[0];
  return id;
}

static int64_t last_of(const Graph *g, ValueId id) {
  Shape shape = graph_value(g, id)->shape;
  return shape.rank ? shape.dim[shape.rank - 1] : -1;
}

static bool reads(const Node *n, ValueId id) {
  for (int k = 0; k < n->n_in; k++)
    if (n->in[k] == id)
      return true;
  return false;
}

static bool absorb(Head *h, const Node *n) {
  if (h->instead.n_absorbed == MOST_ABSORBED)
    return false;
  h->absorbed[h->instead.n_absorbed++] = n->id;
  return true;
}

/* Who reads the rows, or them as another stack of rows: such reshapes vanish. False where there are too many. */
static bool find_readers(Head *h, ValueId id, const Node *readers[MOST_READERS], int *n) {
  const Graph *g = h->from;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (!reads(node, id))
      continue;
    if (node->op == OP_Reshape) {
      if (last_of(g, node->out[0]) != last_of(g, id) || !absorb(h, node) || !find_readers(h, node->out[0], readers, n))
        return false;
    } else if (*n == MOST_READERS) {
      return false;
    } else {
      readers[(*n)++] = node;
    }
  }
  return true;
}

/* Rows times one matrix, perhaps with a row added. */
static bool is_product(const Graph *g, const Node *n) {
  if (!n || (n->op != OP_MatMul && n->op != OP_Gemm) || node_int(n, "transA", 0) || rule_in(g, n, 0)->shape.rank < 2 ||
      rule_in(g, n, 1)->shape.rank != 2 || node_float(n, "alpha", 1) != 1 || node_float(n, "beta", 1) != 1)
    return false;
  return !rule_has_in(n, 2) ||
         (rule_in(g, n, 2)->shape.rank == 1 && last_of(g, n->in[2]) == rule_out(g, n, 0)->shape.dim[1]);
}

/* The product's rows are read by the loss and its gradient alone. */
static bool find_slopes(Head *h, const Node *loss) {
  const Graph *g = h->from;
  const Node *readers[MOST_READERS];
  int n = 0;
  if (!find_readers(h, h->product->out[0], readers, &n) || n != 2)
    return false;
  const Node *grad = readers[readers[0] == loss];
  h->slopes = grad;
  if (readers[grad == readers[0]] != loss || grad->op != OP_CrossEntropyGrad || grad->in[1] != loss->in[1] ||
      grad->in[2] != loss->out[1] || grad->in[0] == grad->in[3] || !absorb(h, grad))
    return false;
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i] != grad && reads(g->nodes[i], loss->out[1]))
      return false;
  for (size_t i = 0; i < g->n_outputs; i++)
    if (g->outputs[i] == loss->out[1] || g->outputs[i] == loss->out[0])
      return false;
  return true;
}

/* Whether it sums over all axes but the last. */
static bool sums_rows(const Graph *g, const Node *n) {
  int count;
  const int64_t *axes = node_ints(n, "axes", &count);
  for (int i = 0; i < count; i++)
    if (axes[i] != i)
      return false;
  return n->op == OP_ReduceSum && count == rule_in(g, n, 0)->shape.rank - 1;
}

/* Who reads the rows' gradient: the products of both operands' gradients, and the bias's sum. */
static bool find_products(Head *h) {
  const Graph *g = h->from;
  const Node *readers[MOST_READERS], *p = h->product;
  bool t = node_int(p, "transB", 0);
  int n = 0;
  if (!find_readers(h, h->slopes->out[0], readers, &n))
    return false;
  for (int i = 0; i < n; i++) {
    const Node *r = readers[i];
    bool second = node_int(r, "transB", 0);
    if (r->op == OP_MatMul && !h->towards_x && !node_int(r, "transA", 0) && r->in[1] == p->in[1] && second == !t)
      h->towards_x = r;
    else if (r->op == OP_AccumulateMatMul && !h->towards_w && node_int(r, "transA", 0) && !second &&
             behind_reshapes(g, r->in[t ? 2 : 1]) == behind_reshapes(g, p->in[0]))
      h->towards_w = r;
    else if (h->biased && !h->towards_bias && sums_rows(g, r))
      h->towards_bias = r;
    else
      return false;
    if (!absorb(h, r))
      return false;
  }
  return h->towards_x && h->towards_w && absorb(h, p) && last_of(g, p->in[0]) == last_of(g, h->towards_x->out[0]);
}

static bool add_in(Head *h, ValueId id) {
  if (h->instead.n_in == MOST_IN)
    return false;
  h->in[h->instead.n_in++] = id;
  return true;
}

/* What is known before the step: the batch's denominators, numbers, and what is made of these. */
static bool find_scale(Head *h, ValueId id) {
  const Node *n = producer(h->from, id);
  Role role = graph_value(h->from, id)->role;
  if (!n)
    return (role == ROLE_STEP || role == ROLE_CONSTANT) && add_in(h, id);
  for (int k = 0; k < n->n_in; k++)
    if (n->in[k] == NO_VALUE || !find_scale(h, n->in[k]))
      return false;
  if (h->n_scale == MOST_SCALE || n->n_out != 1 || shape_elements(graph_value(h->from, id)->shape) != 1)
    return false;
  h->scale[h->n_scale++] = n;
  return true;
}

/* The copy of a value that the scale is made of. */
static ValueId copy_of(const Head *h, ValueId id, const ValueId *in, const ValueId *made, int n) {
  for (int k = 0; k < n; k++)
    if (h->scale[k]->out[0] == id)
      return made[k];
  int k = h->first_leaf;
  while (h->in[k] != id)
    k++;
  return in[k];
}

static Status emit_scale_again(Graph *g, const Head *h, const ValueId *in, ValueId *scale) {
  ValueId made[MOST_SCALE], operand[MOST_READERS];
  for (int i = 0; i < h->n_scale; i++) {
    const Node *n = h->scale[i];
    for (int k = 0; k < n->n_in; k++)
      operand[k] = copy_of(h, n->in[k], in, made, i);
    TRY(graph_emit(g, n->op, operand, n->n_in, n->attrs, n->n_attrs, &made[i]));
  }
  *scale = copy_of(h, h->scale_value, in, made, h->n_scale);
  return OK;
}

/* A gradient as the backward pass has it: it goes down to the stages before from there. */
static Status emit_backward(Graph *g, NodeId head, int k, Shape shape, ValueId *out) {
  Attr to = attr_ints("shape", shape.dim, shape.rank);
  g->building = PHASE_B;
  g->origin = head;
  Status status = graph_emit(g, OP_Reshape, &graph_node(g, head)->out[k], 1, &to, 1, out);
  g->building = PHASE_F;
  g->origin = NO_NODE;
  return status;
}

static Status emit_head(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  const Head *h = (const Head *)instead;
  ValueId operand[] = {in[IN_SUM], in[IN_X], in[IN_W], in[IN_TARGET], NO_VALUE, h->biased ? in[IN_MORE] : NO_VALUE};
  NodeId head;
  TRY(emit_scale_again(g, h, in, &operand[4]));
  TRY(graph_add_node(g, OP_ProductCrossEntropy, "loss", operand, 5 + h->biased, instead->attrs, instead->n_attrs, NULL,
                     2 + h->biased, &head));
  out[0] = graph_node(g, head)->out[1];
  TRY(emit_backward(g, head, 0, rule_out(h->from, h->towards_x, 0)->shape, &out[1]));
  return h->towards_bias ? emit_backward(g, head, 2, rule_out(h->from, h->towards_bias, 0)->shape, &out[2]) : OK;
}

/* Rows at a time, by their number and size alone; 0: all may stand. */
static int64_t choose_rows(int64_t rows, int64_t columns, size_t size) {
  int64_t fit = ROWS_BYTES / (columns * (int64_t)size);
  int64_t most = fit < LEAST_ROWS ? LEAST_ROWS : fit, parts = (rows + most - 1) / most;
  return parts < 2 ? 0 : ((rows + parts - 1) / parts + 7) / 8 * 8;
}

static bool fill(Head *h, const Node *loss) {
  const Graph *g = h->from;
  const Node *p = h->product;
  Shape w = rule_in(g, p, 1)->shape;
  int64_t rows = choose_rows(shape_elements(rule_in(g, loss, 1)->shape), w.dim[!node_int(p, "transB", 0)],
                             dtype_bytes(rule_out(g, p, 0)->dtype));
  if (!rows || rule_in(g, p, 0)->dtype != rule_in(g, h->towards_w, 0)->dtype)
    return false;
  h->in[IN_SUM] = h->towards_w->in[0];
  h->in[IN_X] = p->in[0];
  h->in[IN_W] = p->in[1];
  h->in[IN_TARGET] = loss->in[1];
  if (h->biased)
    h->in[IN_MORE] = p->in[2];
  h->first_leaf = h->instead.n_in = IN_MORE + h->biased;
  h->scale_value = h->slopes->in[3];
  if (!find_scale(h, h->scale_value))
    return false;
  h->gives[0] = h->towards_x->out[0];
  h->gives[1] = h->towards_bias ? h->towards_bias->out[0] : NO_VALUE;
  h->attrs[0] = attr_int("transB", node_int(p, "transB", 0));
  h->attrs[1] = attr_int("rows", rows);
  h->attrs[2] = attr_int("begins", node_int(h->towards_w, "begins", 0));
  h->attrs[3] = attr_int("ignore_index", node_int(loss, "ignore_index", -100));
  h->attrs[4] = attr_int("narrow", 0);
  h->instead.in = h->in;
  h->instead.attrs = h->attrs;
  h->instead.n_attrs = 5;
  h->instead.absorbed = h->absorbed;
  h->instead.gives = h->gives;
  h->instead.n_gives = 1 + (h->towards_bias != NULL);
  h->instead.emit = emit_head;
  return true;
}

static bool find_head(Head *h, const Node *loss) {
  const Graph *g = h->from;
  h->product = producer(g, behind_reshapes(g, loss->in[0]));
  if (!is_product(g, h->product) || node_int(loss, "class_axis", 0) != rule_in(g, loss, 0)->shape.rank - 1)
    return false;
  h->biased = rule_has_in(h->product, 2);
  return find_slopes(h, loss) && find_products(h) && fill(h, loss);
}

static Status find(const Graph *g, const Instead **instead) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    Head *head;
    if (g->nodes[i]->op != OP_CrossEntropy)
      continue;
    TRY(ARENA_NEW(g->arena, head, 1));
    head->from = g;
    if (find_head(head, g->nodes[i]))
      instead[i] = &head->instead;
  }
  return OK;
}

const Pass pass_head = {"head-loss", NULL, 0, find};
