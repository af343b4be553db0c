/* Help. Invariant: every option that a subcommand takes is listed, for they come from the table that parses them. */
#include "tools/help.h"

#include <string.h>

static const Subcommand subcommands[] = {
    {"inspect", "MODEL.onnx [--json]", "what the file holds, what trains and why"},
    {"plan", "MODEL.onnx --ranks N [-o PLAN.json]", "stages, memory and schedule; reads no weights, needs no devices"},
    {"train", "MODEL.onnx --data FILE.npz [--save FILE.onnx]", "trains, alone or under mpirun"},
    {"run", "MODEL.onnx --data FILE.npz --out FILE.npz", "inference"},
    {"simulate", "--ranks P --microbatches M --forward-ms F --backward-input-ms B --backward-weight-ms W",
     "times schedules, from given times"},
    {"edit", "MODEL.onnx -o FILE.onnx …", "changes that inspect advises: Dropout, heads, batches, what was folded"},
    {"export", "CHECKPOINT [MODEL.onnx] -o FILE", "what a checkpoint holds, as .onnx, .safetensors or .npz"},
    {"profile", "MODEL.onnx", "measures the model's nodes on this machine"},
};
enum { SUBCOMMANDS = sizeof subcommands / sizeof *subcommands };

const Subcommand *help_subcommand(int i) {
  return i >= 0 && i < SUBCOMMANDS ? &subcommands[i] : NULL;
}

int help_takes(const char *subcommand, const OnnxpipeOption *option) {
  char word[32];
  snprintf(word, sizeof word, " %s ", subcommand);
  return strstr(option->subcommands, word) != NULL;
}

char help_letter(const OnnxpipeOption *option) {
  return strcmp(option->name, "output-plan") == 0 || strcmp(option->name, "output-model") == 0 ? 'o' : 0;
}

int help_knows(const char *subcommand) {
  for (int i = 0; i < SUBCOMMANDS; i++)
    if (strcmp(subcommands[i].name, subcommand) == 0)
      return 1;
  return 0;
}

enum { INDENT = 35, COLUMNS = 100 };

/* Words of text behind column `at`, a space before each, in lines that begin at INDENT; returns the column behind them.
 */
static int print_words(const char *text, int at, FILE *out) {
  while (*text) {
    int length = (int)strcspn(text, " ");
    if (at + 1 + length > COLUMNS)
      at = fprintf(out, "\n%*s", INDENT - 1, "") - 1;
    at += fprintf(out, " %.*s", length, text);
    text += length + (text[length] == ' ');
  }
  return at;
}

static void print_option(const OnnxpipeOption *option, FILE *out) {
  char left[64], letter[8] = "", standard[64];
  if (help_letter(option))
    snprintf(letter, sizeof letter, "-%c, ", help_letter(option));
  snprintf(left, sizeof left, "%s--%s%s%s", letter, option->name, option->argument ? " " : "",
           option->argument ? option->argument : "");
  int at = print_words(option->help, fprintf(out, "  %-*s", INDENT - 3, left), out);
  if (option->standard) {
    snprintf(standard, sizeof standard, "(%s)", option->standard);
    print_words(standard, at, out);
  }
  fprintf(out, "\n");
}

void help_print(const char *subcommand, FILE *out) {
  if (!subcommand) {
    fprintf(out, "onnxpipe trains a model that was exported to ONNX, cut into pipeline stages.\n\n");
    for (int i = 0; i < SUBCOMMANDS; i++)
      fprintf(out, "  onnxpipe %-9s %s\n", subcommands[i].name, subcommands[i].what);
    fprintf(out, "\n  onnxpipe SUBCOMMAND --help lists a subcommand's options; onnxpipe --version\n");
    return;
  }
  OnnxpipeOption option;
  for (int i = 0; i < SUBCOMMANDS; i++)
    if (strcmp(subcommands[i].name, subcommand) == 0)
      fprintf(out, "onnxpipe %s %s …\n\n%s\n\n", subcommand, subcommands[i].usage, subcommands[i].what);
  for (int i = 0; onnxpipe_options_describe(i, &option) == ONNXPIPE_OK; i++)
    if (help_takes(subcommand, &option))
      print_option(&option, out);
}
