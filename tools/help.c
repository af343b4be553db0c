/* Help. Invariant: every option that a subcommand takes is listed, for they come from the table that parses them. */
#include "tools/help.h"

#include <string.h>

#include "runtime/onnxpipe.h"

static const struct {
  const char *name, *usage, *what;
} subcommands[] = {
    {"inspect", "MODEL.onnx [--json]", "what the file holds, what trains and why"},
    {"plan", "MODEL.onnx --ranks N [-o PLAN.json]", "stages, memory and schedule; reads no weights, needs no devices"},
    {"train", "MODEL.onnx --data FILE.npz [--save FILE.onnx]", "trains, alone or under mpirun"},
    {"run", "MODEL.onnx --data FILE.npz --out FILE.npz", "inference"},
    {"profile", "MODEL.onnx", "measures the model's nodes on this machine"},
};
enum { SUBCOMMANDS = sizeof subcommands / sizeof *subcommands };

int help_knows(const char *subcommand) {
  for (int i = 0; i < SUBCOMMANDS; i++)
    if (strcmp(subcommands[i].name, subcommand) == 0)
      return 1;
  return 0;
}

static void print_option(const OnnxpipeOption *option, FILE *out) {
  char left[64];
  snprintf(left, sizeof left, "%s--%s%s%s", strcmp(option->name, "output-plan") == 0 ? "-o, " : "", option->name,
           option->argument ? " " : "", option->argument ? option->argument : "");
  fprintf(out, "  %-32s %s", left, option->help);
  if (option->standard)
    fprintf(out, " (%s)", option->standard);
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
  char word[32];
  OnnxpipeOption option;
  for (int i = 0; i < SUBCOMMANDS; i++)
    if (strcmp(subcommands[i].name, subcommand) == 0)
      fprintf(out, "onnxpipe %s %s …\n\n%s\n\n", subcommand, subcommands[i].usage, subcommands[i].what);
  snprintf(word, sizeof word, " %s ", subcommand);
  for (int i = 0; onnxpipe_options_describe(i, &option) == ONNXPIPE_OK; i++)
    if (strstr(option.subcommands, word))
      print_option(&option, out);
}
