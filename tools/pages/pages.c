/* Fills the templates of the manual page and of the bash completion: onnxpipe_pages TEMPLATE OUTPUT.
 * Invariant: every subcommand and option of theirs comes from the tables that the program itself goes by.
 *
 * A template's line that begins with @ names a piece: @SUBCOMMANDS and @OPTIONS of the manual; @NAMES, @VALUES and
 * @CASES of the completion. @VERSION@ inside a line is the version. */
#include <stdlib.h>
#include <string.h>

#include "tools/help.h"

/* Text as roff reads it literally. */
static void roff(const char *text, FILE *out) {
  static const struct {
    const char *utf8, *escape;
  } table[] = {{"…", "\\&..."}, {"-", "\\-"},    {"\\", "\\[rs]"},   {"`", "\\[ga]"},    {"'", "\\[aq]"},
               {"^", "\\[ha]"}, {"~", "\\[ti]"}, {"·", "\\[u00B7]"}, {"−", "\\[u2212]"}, {".", "\\&."}};
  for (const char *c = text; *c;) {
    size_t i = 0, length = 1;
    while (i < sizeof table / sizeof *table && strncmp(c, table[i].utf8, strlen(table[i].utf8)) != 0)
      i++;
    if (i < sizeof table / sizeof *table) {
      fputs(table[i].escape, out);
      length = strlen(table[i].utf8);
    } else {
      fputc(*c, out);
    }
    c += length;
  }
}

static void manual_subcommands(FILE *out) {
  const Subcommand *s;
  for (int i = 0; (s = help_subcommand(i)); i++) {
    fprintf(out, ".TP\n.B ");
    roff(s->name, out);
    fprintf(out, "\n.I ");
    roff(s->usage, out);
    fprintf(out, "\n.br\n");
    roff(s->what, out);
    fprintf(out, "\n");
  }
}

/* "plan, train" of those that take it; returns how many. */
static int takers(const OnnxpipeOption *option, char text[256]) {
  const Subcommand *s;
  int n = 0;
  text[0] = '\0';
  for (int k = 0; (s = help_subcommand(k)); k++)
    if (help_takes(s->name, option))
      snprintf(text + strlen(text), 256 - strlen(text), "%s%s", n++ ? ", " : "", s->name);
  return n;
}

static void manual_options(FILE *out) {
  OnnxpipeOption option;
  char names[256];
  for (int i = 0; onnxpipe_options_describe(i, &option) == ONNXPIPE_OK; i++) {
    if (!takers(&option, names))
      continue;
    fprintf(out, ".TP\n");
    if (help_letter(&option))
      fprintf(out, "\\fB\\-%c\\fR, ", help_letter(&option));
    fprintf(out, "\\fB\\-\\-");
    roff(option.name, out);
    fprintf(out, "\\fR");
    if (option.argument) {
      fprintf(out, " \\fI");
      roff(option.argument, out);
      fprintf(out, "\\fR");
    }
    fprintf(out, "\n");
    roff(option.help, out);
    if (option.standard) {
      fprintf(out, " (");
      roff(option.standard, out);
      fprintf(out, ")");
    }
    fprintf(out, "\n.br\nTaken by %s.\n", names);
  }
}

static void completion_names(FILE *out) {
  const Subcommand *s;
  for (int i = 0; (s = help_subcommand(i)); i++)
    fprintf(out, "%s ", s->name);
  fprintf(out, "--help --version\n");
}

/* What follows an option that takes a value: files of its suffix, folders, names, or nothing that could be listed. */
static void completion_values(FILE *out) {
  OnnxpipeOption option;
  for (int i = 0; onnxpipe_options_describe(i, &option) == ONNXPIPE_OK; i++) {
    if (!option.argument)
      continue;
    const char *suffix = strchr(option.argument, '.');
    fprintf(out, "    --%s", option.name);
    if (help_letter(&option))
      fprintf(out, " | -%c", help_letter(&option));
    if (strncmp(option.argument, "FILE", 4) == 0)
      fprintf(out, ") _onnxpipe_files '%s' ;;\n", suffix ? suffix : "");
    else if (strcmp(option.argument, "DIR") == 0)
      fprintf(out, ") _onnxpipe_folders ;;\n");
    else if (option.values)
      fprintf(out, ") _onnxpipe_words '%s' ;;\n", option.values);
    else
      fprintf(out, ") ;;\n");
  }
}

static void completion_cases(FILE *out) {
  const Subcommand *s;
  OnnxpipeOption option;
  for (int i = 0; (s = help_subcommand(i)); i++) {
    fprintf(out, "      %s) options='", s->name);
    for (int k = 0; onnxpipe_options_describe(k, &option) == ONNXPIPE_OK; k++)
      if (help_takes(s->name, &option))
        fprintf(out, "--%s ", option.name);
    fprintf(out, "--help' ;;\n");
  }
}

static int piece(const char *name, FILE *out) {
  static const struct {
    const char *name;
    void (*print)(FILE *);
  } pieces[] = {{"@SUBCOMMANDS\n", manual_subcommands},
                {"@OPTIONS\n", manual_options},
                {"@NAMES\n", completion_names},
                {"@VALUES\n", completion_values},
                {"@CASES\n", completion_cases}};
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
    if (strcmp(pieces[i].name, name) == 0) {
      pieces[i].print(out);
      return 1;
    }
  return 0;
}

static void print_line(const char *line, FILE *out) {
  static const char mark[] = "@VERSION@";
  const char *at = strstr(line, mark);
  if (at)
    fprintf(out, "%.*s%s%s", (int)(at - line), line, ONNXPIPE_VERSION, at + strlen(mark));
  else
    fputs(line, out);
}

int main(int argc, char **argv) {
  char line[1024];
  FILE *in = argc == 3 ? fopen(argv[1], "r") : NULL, *out = in ? fopen(argv[2], "w") : NULL;
  if (!in || !out) {
    fprintf(stderr, "usage: onnxpipe_pages TEMPLATE OUTPUT\n");
    return 2;
  }
  while (fgets(line, sizeof line, in))
    if (line[0] != '@')
      print_line(line, out);
    else if (!piece(line, out)) {
      fprintf(stderr, "%s: no piece is called %s", argv[1], line);
      return 1;
    }
  fclose(in);
  return fclose(out) == 0 ? 0 : 1;
}
