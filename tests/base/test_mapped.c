/* Mapped files that become shorter while they are read: zeros and a mark, on any thread, and no other signal lost. */
#include "tests/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mapped.h"

enum { BYTES = 1 << 20 };

static int make_file(void) {
  char path[] = "/tmp/onnxpipe-mapped-XXXXXX";
  int file = mkstemp(path);
  assert_true(file >= 0);
  unlink(path);
  char *bytes = malloc(BYTES);
  memset(bytes, 'x', BYTES);
  assert_int_equal(write(file, bytes, BYTES), BYTES);
  free(bytes);
  return file;
}

static void *sum(void *argument) {
  const Mapped *mapped = argument;
  size_t found = 0;
  for (size_t i = 0; i < mapped->bytes; i++)
    found += mapped->data[i] == 'x';
  return (void *)found;
}

static void what_is_gone_reads_as_zeros(void **state) {
  (void)state;
  int file = make_file();
  FileStamp stamp = file_stamp(file);
  Mapped mapped, other;
  pthread_t threads[4];
  void *found;
  ASSERT_OK(mapped_open(file, 1000, BYTES - 1000, &mapped));
  ASSERT_OK(mapped_open(file, 0, 100, &other));
  assert_int_equal((size_t)sum(&mapped), BYTES - 1000);
  ASSERT_OK(file_unchanged(file, &stamp));
  assert_int_equal(ftruncate(file, 500000), 0);
  ASSERT_FAILS(E_IO, "was changed while it was in use: it had 1048576 bytes, now 500000", file_unchanged(file, &stamp));
  assert_false(mapped_damaged(&mapped));
  for (int t = 0; t < 4; t++)
    assert_int_equal(pthread_create(&threads[t], NULL, sum, &mapped), 0);
  for (int t = 0; t < 4; t++) {
    pthread_join(threads[t], &found);
    assert_int_equal((size_t)found, 500000 - 1000);
  }
  assert_true(mapped_damaged(&mapped));
  assert_false(mapped_damaged(&other));
  mapped_close(&mapped);
  mapped_close(&other);
  ASSERT_OK(mapped_open(file, 0, 1000, &mapped)); /* a place in the table is used again, unmarked */
  assert_false(mapped_damaged(&mapped));
  mapped_close(&mapped);
  mapped_close(&mapped);
  close(file);
}

static void what_is_rewritten_is_told(void **state) {
  (void)state;
  int file = make_file();
  FileStamp stamp = file_stamp(file);
  const struct timespec later[2] = {{.tv_sec = 2000000000}, {.tv_sec = 2000000000}};
  assert_int_equal(pwrite(file, "y", 1, 7), 1);
  assert_int_equal(futimens(file, later), 0);
  ASSERT_FAILS(E_IO, "was written to while it was in use", file_unchanged(file, &stamp));
  int another = make_file();
  ASSERT_FAILS(E_IO, "another file was put in its place while it was in use", file_unchanged(another, &stamp));
  close(file);
  close(another);
}

static void many_are_mapped_at_a_time(void **state) {
  (void)state;
  enum { MANY = 1100 };
  static Mapped many[MANY];
  int file = make_file();
  for (int i = 0; i < MANY; i++)
    ASSERT_OK(mapped_open(file, 0, 10, &many[i]));
  for (int i = 0; i < MANY; i++)
    mapped_close(&many[i]);
  close(file);
}

static void say(int number) {
  (void)number;
  _exit(42);
}

/* A mapping that is not ours, with the program's own handler or with none. */
static int touch_foreign(bool handled) {
  int file = make_file(), status;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    Mapped mapped;
    signal(SIGBUS, handled ? say : SIG_DFL);
    if (mapped_open(file, 0, BYTES, &mapped) != OK)
      _exit(1);
    volatile char *foreign = mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE, file, 0);
    if (ftruncate(file, 0))
      _exit(1);
    char c = foreign[BYTES / 2];
    _exit(c ? 2 : 3);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  close(file);
  return status;
}

static void signals_of_others_go_where_they_went(void **state) {
  (void)state;
  int status = touch_foreign(false);
#ifndef __SANITIZE_ADDRESS__ /* which reports it by itself */
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
#endif
  (void)status;
}

/* The first mapping of a process takes over what it finds: this is a process that has none yet. */
static void a_handler_that_was_there_is_called(void **state) {
  (void)state;
  int status = touch_foreign(true);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 42);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_handler_that_was_there_is_called), cmocka_unit_test(signals_of_others_go_where_they_went),
      cmocka_unit_test(what_is_gone_reads_as_zeros),        cmocka_unit_test(what_is_rewritten_is_told),
      cmocka_unit_test(many_are_mapped_at_a_time),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
