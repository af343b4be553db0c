/* What is supported: the table of lowerings, and the findings where a file goes beyond it. Invariant: a node that
 * operator_find accepts has attributes of the kinds that its row names and as many inputs and outputs as it may. */
#include <stdio.h>
#include <string.h>

#include "onnx/lower/lower.h"

static const Lowering *const tables[] = {
#define TABLE(name) lowerings_##name,
#include "onnx/lower/tables.def"
#undef TABLE
};

int64_t operator_opset(const char *domain, Onnx__OperatorSetIdProto *const *imports, size_t n_imports) {
  for (size_t i = 0; i < n_imports; i++)
    if (strcmp(proto_domain(imports[i]->domain), proto_domain(domain)) == 0)
      return imports[i]->version;
  return 0;
}

const char *node_label(Arena *arena, const Onnx__NodeProto *node, size_t index) {
  return node->name && *node->name ? node->name : arena_format(arena, "%s_%zu", proto_text(node->op_type), index);
}

static char attribute_kind(const Onnx__AttributeProto *a) {
  static const char kinds[] = {
      [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT] = 'f',     [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT] = 'i',
      [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING] = 's',    [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR] = 't',
      [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH] = 'g',     [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS] = 'F',
      [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS] = 'I',      [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS] = 'S',
      [ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TYPE_PROTO] = 'T'};
  unsigned type = a->has_type ? (unsigned)a->type : 0;
  char kind = type < sizeof kinds ? kinds[type] : 0;
  if ((kind == 't' && !a->t) || (kind == 'g' && !a->g))
    return 0;
  return kind ? kind : '?';
}

/* The kind that a row's list gives an attribute; 0 where it does not name it. */
static char listed_kind(const char *list, const char *name) {
  size_t length = strlen(name);
  for (const char *at = list; *at; at += strcspn(at, " "), at += strspn(at, " "))
    if (strncmp(at, name, length) == 0 && at[length] == ':')
      return at[length + 1];
  return 0;
}

static const char *check_value(Arena *arena, const Onnx__AttributeProto *a, const char *name, char listed) {
  char kind = listed == 'b' || listed == 'd' ? 'i' : listed;
  if (attribute_kind(a) != kind)
    return arena_format(arena, "attribute '%s' is of another kind than ONNX says", name);
  if (listed == 'b' && a->i != 0 && a->i != 1)
    return arena_format(arena, "attribute '%s' is %lld, not 0 or 1", name, (long long)a->i);
  if (listed == 'd' && (a->i < 1 || a->i > ONNX__TENSOR_PROTO__DATA_TYPE__INT2))
    return arena_format(arena, "attribute '%s' is %lld, which is no data type", name, (long long)a->i);
  return NULL;
}

static const Onnx__AttributeProto *resolve(const Onnx__AttributeProto *a, const Map *call) {
  if (!a->ref_attr_name || !*a->ref_attr_name)
    return a;
  return call ? map_find(call, a->ref_attr_name, strlen(a->ref_attr_name)) : NULL;
}

/* Whether the node has the attribute; of a function's body that is surveyed by itself, nobody knows what calls give. */
static bool is_given(const Onnx__NodeProto *node, const Map *call, const char *name, size_t length) {
  for (size_t i = 0; i < node->n_attribute; i++) {
    const Onnx__AttributeProto *a = node->attribute[i];
    if (strncmp(proto_text(a->name), name, length) == 0 && a->name[length] == '\0')
      return resolve(a, call) || !call;
  }
  return false;
}

static const char *check_required(Arena *arena, const Onnx__NodeProto *node, const Map *call, const Lowering *row) {
  for (const char *at = row->attributes; *at; at += strcspn(at, " "), at += strspn(at, " ")) {
    size_t length = strcspn(at, ":");
    if (at[length + 2] == '!' && !is_given(node, call, at, length))
      return arena_format(arena, "attribute '%.*s' is missing", (int)length, at);
  }
  return NULL;
}

static const char *check_attributes(Arena *arena, const Onnx__NodeProto *node, const Map *call, const Lowering *row) {
  for (size_t i = 0; i < node->n_attribute; i++) {
    const Onnx__AttributeProto *a = node->attribute[i];
    const char *name = proto_text(a->name);
    char listed = listed_kind(row->attributes, name);
    if (!listed)
      return arena_format(arena, "attribute '%s'", name);
    for (size_t k = 0; k < i; k++)
      if (strcmp(node->attribute[k]->name, name) == 0)
        return arena_format(arena, "attribute '%s' is there twice", name);
    const Onnx__AttributeProto *given = resolve(a, call);
    const char *reason = given ? check_value(arena, given, name, listed) : NULL;
    if (reason)
      return reason;
  }
  return check_required(arena, node, call, row);
}

static const char *check_counts(Arena *arena, const Onnx__NodeProto *node, const Lowering *row) {
  size_t n_in = node->n_input, least = (size_t)row->min_in;
  if (n_in < least || n_in > (size_t)row->max_in)
    return arena_format(arena, "%zu inputs", n_in);
  for (size_t i = 0; i < least; i++)
    if (!*node->input[i])
      return arena_format(arena, "input %zu is missing", i);
  if (row->max_in == MANY)
    for (size_t i = least; i < n_in; i++)
      if (!*node->input[i])
        return arena_format(arena, "input %zu is missing", i);
  if (node->n_output < 1 || node->n_output > (size_t)row->max_out)
    return arena_format(arena, "%zu outputs", node->n_output);
  return NULL;
}

/* Whether a row is of this operator; of a domain beside the default one it is called "domain::Operator". */
static bool is_of(const Lowering *row, const char *domain, const char *op) {
  size_t n = strlen(domain);
  if (n && (strncmp(row->op, domain, n) != 0 || strncmp(row->op + n, "::", 2) != 0))
    return false;
  return strcmp(row->op + (n ? n + 2 : 0), op) == 0;
}

static const char *check(Arena *arena, const Onnx__NodeProto *node, int64_t opset, const Map *call,
                         const Lowering **row) {
  int first = 0, last = 0;
  *row = NULL;
  const char *domain = proto_domain(node->domain);
  if (!*domain && (opset < OPSET_FIRST || opset > OPSET_LAST))
    return arena_format(arena, "opset %lld is outside %d to %d", (long long)opset, OPSET_FIRST, OPSET_LAST);
  for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
    for (const Lowering *r = tables[t]; r->op; r++) {
      if (!is_of(r, domain, proto_text(node->op_type)))
        continue;
      if (opset >= r->from && opset <= r->to)
        *row = r;
      first = !first || r->from < first ? r->from : first;
      last = r->to > last ? r->to : last;
    }
  if (!first && *domain)
    return arena_format(arena, "no operator or function of domain '%s'", domain);
  if (!first)
    return "no such operator here";
  if (!*row)
    return arena_format(arena, "opset %lld; it is there from %d to %d", (long long)opset, first, last);
  const char *reason = check_counts(arena, node, *row);
  return reason ? reason : check_attributes(arena, node, call, *row);
}

bool operator_has_row(const Onnx__NodeProto *node, int64_t opset) {
  for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
    for (const Lowering *r = tables[t]; r->op; r++)
      if (strcmp(r->op, proto_text(node->op_type)) == 0 && opset >= r->from && opset <= r->to)
        return true;
  return false;
}

Status operator_find(Arena *arena, const Onnx__NodeProto *node, int64_t opset, const Map *call, const Lowering **row,
                     const char **reason) {
  *reason = check(arena, node, opset, call, row);
  if (*reason)
    *row = NULL;
  return *row || *reason ? OK : status_code(); /* neither: memory is out */
}

Status finding_add(Arena *arena, Findings *findings, const char *node, const char *operator, const char * reason) {
  TRY(ARENA_RESERVE(arena, findings->list, findings->n, findings->capacity, findings->n + 1));
  Finding *f = &findings->list[findings->n++];
  *f = (Finding){arena_string(arena, node), arena_string(arena, proto_text(operator)), arena_string(arena, reason)};
  return f->node && f->operator&& f->reason ? OK : status_code();
}

enum { COMPARED = 1000 }; /* of many findings these are told together, the others only counted */

/* Findings from i on with the operator and reason of finding i; 0 where an earlier one has them. */
static size_t count_alike(const Findings *findings, size_t i) {
  const Finding *list = findings->list;
  size_t n = 0;
  for (size_t k = 0; k < findings->n; k++) {
    bool alike = strcmp(list[k].operator, list[i].operator) == 0 && strcmp(list[k].reason, list[i].reason) == 0;
    if (alike && k < i)
      return 0;
    n += alike;
  }
  return n;
}

/* All findings as one list; `alike`: one entry for those of the same operator and reason, with the first node. Says how
 * many nodes it names; names that exporters never write are cut. */
static size_t list_findings(const Findings *findings, bool alike, char *list, size_t room) {
  size_t at = 0, shown = 0;
  list[0] = '\0';
  for (size_t i = 0; i < findings->n && i < COMPARED; i++) {
    const Finding *f = &findings->list[i];
    char more[32] = "";
    size_t n = alike ? count_alike(findings, i) : 1;
    if (n == 0)
      continue;
    if (n > 1)
      snprintf(more, sizeof more, " and %zu more", n - 1);
    int wrote = snprintf(list + at, room - at, "%snode '%.160s'%s (%.80s): %.400s", at ? "; " : "", f->node, more,
                         f->operator, f->reason);
    if (at + (size_t)wrote >= room) {
      list[at] = '\0';
      break;
    }
    at += (size_t)wrote;
    shown += n;
  }
  return shown;
}

Status findings_fail(const Findings *findings) {
  char list[3000];
  if (findings->n == 0)
    return OK;
  size_t shown = list_findings(findings, false, list, sizeof list);
  if (shown < findings->n)
    shown = list_findings(findings, true, list, sizeof list);
  if (findings->n == 1)
    return fail(E_UNSUPPORTED, "not supported: %s", list);
  if (shown < findings->n)
    return fail(E_UNSUPPORTED, "%zu nodes are not supported: %s; and %zu more", findings->n, list, findings->n - shown);
  return fail(E_UNSUPPORTED, "%zu nodes are not supported: %s", findings->n, list);
}

/* ---- without binding ---- */

typedef struct {
  Model *model;
  Arena *arena;
  Findings findings;
  bool *visited;  /* [n_functions] of the model */
  bool specified; /* within a function of the specification */
} Survey;

static Status survey(Survey *s, const char *prefix, Onnx__NodeProto *const *nodes, size_t n,
                     Onnx__OperatorSetIdProto *const *imports, size_t n_imports);

/* Each function once: its nodes are the same wherever it is called. */
static Status survey_function(Survey *s, const Onnx__FunctionProto *f) {
  for (size_t i = 0; i < s->model->proto->n_functions; i++)
    if (s->model->functions[i] == f) {
      if (s->visited[i])
        return OK;
      s->visited[i] = true;
    }
  const char *prefix = arena_format(s->arena, "%s/", proto_text(f->name));
  return prefix ? survey(s, prefix, f->node, f->n_node, f->opset_import, f->n_opset_import) : status_code();
}

/* What is not supported of a node itself, and of its branches. */
static Status survey_inside(Survey *s, const char *prefix, const Onnx__NodeProto *node, size_t index,
                            const char *reason, Onnx__OperatorSetIdProto *const *imports, size_t n_imports) {
  const char *label = node_label(s->arena, node, index);
  const char *name = label ? arena_format(s->arena, "%s%s", prefix, label) : NULL;
  const char *inside = name ? arena_format(s->arena, "%s/", name) : NULL;
  if (!inside)
    return status_code();
  if (reason)
    return finding_add(s->arena, &s->findings, name, node->op_type, reason);
  for (size_t a = 0; a < node->n_attribute; a++) {
    const Onnx__GraphProto *branch = node->attribute[a]->g;
    if (branch)
      TRY(survey(s, inside, branch->node, branch->n_node, imports, n_imports));
  }
  return OK;
}

/* The function that the specification gives an operator without a row; *reason: why that does not take the node. */
static Status survey_body(Survey *s, const char *prefix, const Onnx__NodeProto *node, size_t index, int64_t opset,
                          const char **reason) {
  const Onnx__FunctionProto *body;
  TRY(body_find(s->model, node, opset, &body));
  if (!body)
    return OK;
  *reason = body_refuses(s->arena, body, node);
  const char *label = node_label(s->arena, node, index);
  const char *inside = label ? arena_format(s->arena, "%s%s/", prefix, label) : NULL;
  if (!inside)
    return status_code();
  bool before = s->specified;
  s->specified = true;
  if (!*reason)
    TRY(survey(s, inside, body->node, body->n_node, body->opset_import, body->n_opset_import));
  s->specified = before;
  return OK;
}

static Status survey(Survey *s, const char *prefix, Onnx__NodeProto *const *nodes, size_t n,
                     Onnx__OperatorSetIdProto *const *imports, size_t n_imports) {
  for (size_t i = 0; i < n; i++) {
    const Onnx__FunctionProto *f = s->specified ? NULL : model_function(s->model, nodes[i]);
    const Lowering *row;
    const char *reason;
    if (f) {
      TRY(survey_function(s, f));
      continue;
    }
    int64_t opset = operator_opset(nodes[i]->domain, imports, n_imports);
    TRY(operator_find(s->arena, nodes[i], opset, NULL, &row, &reason));
    if (reason)
      TRY(survey_body(s, prefix, nodes[i], i, opset, &reason));
    if (reason || (row && strchr(row->attributes, 'g'))) /* names of the others are not worth their memory */
      TRY(survey_inside(s, prefix, nodes[i], i, reason, imports, n_imports));
  }
  return OK;
}

Status model_unsupported(Model *model, json_t *array) {
  const Onnx__ModelProto *proto = model->proto;
  Survey s = {.model = model, .arena = arena_create()};
  if (!s.arena)
    return status_code();
  arena_limit(s.arena, budget_of(model).arena_bytes, "importing a file of this size");
  Status status = ARENA_NEW(s.arena, s.visited, proto->n_functions);
  if (status == OK)
    status = survey(&s, "", proto->graph->node, proto->graph->n_node, proto->opset_import, proto->n_opset_import);
  for (size_t i = 0; i < s.findings.n && status == OK; i++) {
    const Finding *f = &s.findings.list[i];
    json_t *entry = json_pack("{s:s, s:s, s:s}", "node", f->node, "operator", f->operator, "reason", f->reason);
    if (!entry || json_array_append_new(array, entry) != 0)
      status = fail(E_MEMORY, "out of memory or no UTF-8: node '%s'", f->node);
  }
  arena_destroy(s.arena);
  return status;
}
