/* Large deflated members: inflated once for all that open the file, into a file that leaves nothing behind. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zip.h>

#include "runtime/data/data.h"
#include "runtime/data/npy.h"
#include "tests/test.h"

enum { ELEMENTS = 3 << 19, SMALL = 1000 };

static char folder[64], temporary[80], path[80];
static int32_t *numbers; /* [ELEMENTS] */

static int setup(void **state) {
  (void)state;
  strcpy(folder, "/tmp/onnxpipe-inflated-XXXXXX");
  numbers = malloc(ELEMENTS * sizeof *numbers);
  if (!numbers || !mkdtemp(folder))
    return -1;
  snprintf(temporary, sizeof temporary, "%s/t", folder);
  snprintf(path, sizeof path, "%s/x.npz", folder);
  for (int i = 0; i < ELEMENTS; i++)
    numbers[i] = i / 7;
  setenv("TMPDIR", temporary, 1);
  return mkdir(temporary, 0700);
}

static int teardown(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  free(numbers);
  return system(command);
}

/* Two members, x and small. */
static void write_archive(int method) {
  static const char *const names[] = {"x.npy", "small.npy"};
  const int64_t counts[] = {ELEMENTS, SMALL};
  char *bytes[2];
  int code;
  unlink(path);
  zip_t *zip = zip_open(path, ZIP_TRUNCATE | ZIP_CREATE, &code);
  assert_non_null(zip);
  for (int i = 0; i < 2; i++) {
    size_t n = (size_t)counts[i] * sizeof *numbers;
    bytes[i] = malloc(n + NPY_HEADER_BYTES);
    size_t header = npy_write_header(I32, (Shape){1, {counts[i]}}, bytes[i]);
    memcpy(bytes[i] + header, numbers, n);
    zip_int64_t index = zip_file_add(zip, names[i], zip_source_buffer(zip, bytes[i], header + n, 0), 0);
    assert_true(index >= 0);
    zip_set_file_compression(zip, (zip_uint64_t)index, method, 1);
  }
  assert_int_equal(zip_close(zip), 0);
  free(bytes[0]);
  free(bytes[1]);
}

static int count_files(void) {
  DIR *listing = opendir(temporary);
  int n = 0;
  assert_non_null(listing);
  for (struct dirent *entry; (entry = readdir(listing));)
    n += entry->d_name[0] != '.';
  closedir(listing);
  return n;
}

static bool is_right(const ArrayFile *file) {
  const Array *x = array_find(file, "x"), *small = array_find(file, "small");
  return x && small && x->shape.dim[0] == ELEMENTS && memcmp(x->data, numbers, ELEMENTS * sizeof *numbers) == 0 &&
         memcmp(small->data, numbers, SMALL * sizeof *numbers) == 0;
}

static void one_inflates_and_all_map(void **state) {
  (void)state;
  ArrayFile first, second, third;
  write_archive(ZIP_CM_DEFLATE);
  ASSERT_OK(array_file_open(path, &first));
  assert_true(is_right(&first));
  assert_int_equal(count_files(), 1);

  const int32_t mark = -1; /* what the second finds was not inflated by it */
  const uint8_t *place = (const uint8_t *)array_find(&first, "x")->data + sizeof(int32_t[100]);
  int descriptor = open(first.spill.path, O_WRONLY);
  assert_int_equal(pwrite(descriptor, &mark, sizeof mark, place - first.spill.map.data), sizeof mark);
  close(descriptor);
  ASSERT_OK(array_file_open(path, &second));
  assert_memory_equal((const int32_t *)array_find(&second, "x")->data + 100, &mark, sizeof mark);
  array_file_settle(&first);
  assert_int_equal(count_files(), 0);

  ASSERT_OK(array_file_open(path, &third)); /* of another run */
  assert_true(is_right(&third));
  array_file_close(&second);
  array_file_close(&first);
  ASSERT_OK(array_file_unchanged(&third));
  assert_true(is_right(&third));
  array_file_close(&third);
  assert_int_equal(count_files(), 0);
}

static void what_nobody_finished_is_made_anew(void **state) {
  (void)state;
  ArrayFile file;
  write_archive(ZIP_CM_DEFLATE);
  ASSERT_OK(array_file_open(path, &file));
  char name[256], command[512];
  snprintf(name, sizeof name, "%s", file.spill.path);
  array_file_close(&file);
  snprintf(command, sizeof command, "umask 077 && head -c 5000000 /dev/zero > '%s'", name);
  assert_int_equal(system(command), 0);
  ASSERT_OK(array_file_open(path, &file));
  assert_true(is_right(&file));
  array_file_close(&file);
  assert_int_equal(count_files(), 0);

  snprintf(command, sizeof command, "umask 0 && head -c 5000000 /dev/zero > '%s'", name); /* anybody's: not used */
  assert_int_equal(system(command), 0);
  ASSERT_OK(array_file_open(path, &file));
  assert_true(is_right(&file) && !file.spill.map.data);
  array_file_close(&file);
  assert_int_equal(count_files(), 1);
  unlink(name);
}

static void processes_at_once(void **state) {
  (void)state;
  enum { PROCESSES = 4 };
  pid_t children[PROCESSES];
  write_archive(ZIP_CM_DEFLATE);
  for (int i = 0; i < PROCESSES; i++) {
    children[i] = fork();
    if (children[i])
      continue;
    ArrayFile file;
    bool right = array_file_open(path, &file) == OK && is_right(&file) && file.spill.map.data;
    array_file_close(&file);
    _exit(right ? 0 : 1);
  }
  for (int i = 0; i < PROCESSES; i++) {
    int code;
    assert_int_equal(waitpid(children[i], &code, 0), children[i]);
    assert_int_equal(code, 0);
  }
  assert_int_equal(count_files(), 0);
}

static void without_room_memory_has_to_do(void **state) {
  (void)state;
  ArrayFile file;
  write_archive(ZIP_CM_DEFLATE);
  setenv("TMPDIR", "/nonexistent", 1);
  Status status = array_file_open(path, &file);
  setenv("TMPDIR", temporary, 1);
  ASSERT_OK(status);
  assert_true(is_right(&file) && !file.spill.map.data);
  array_file_close(&file);
  write_archive(ZIP_CM_STORE); /* nothing is inflated */
  ASSERT_OK(array_file_open(path, &file));
  assert_true(is_right(&file));
  assert_int_equal(count_files(), 0);
  array_file_close(&file);
}

static void faults_leave_nothing_behind(void **state) {
  (void)state;
  ArrayFile file;
  char message[256];
  write_archive(ZIP_CM_DEFLATE);
  int descriptor = open(path, O_RDWR);
  char damage[16];
  memset(damage, 0x55, sizeof damage);
  assert_int_equal(pwrite(descriptor, damage, sizeof damage, 20000), sizeof damage);
  close(descriptor);
  assert_int_equal(array_file_open(path, &file), E_MODEL);
  snprintf(message, sizeof message, "%s: member 'x.npy': ", path);
  assert_memory_equal(status_message(), message, strlen(message));
  assert_int_equal(count_files(), 0);
}

/* The first of the tests: cmocka takes the signal for itself when the next one begins. */
static void a_file_that_is_cut_is_noticed(void **state) {
  (void)state;
  ArrayFile file;
  write_archive(ZIP_CM_DEFLATE);
  ASSERT_OK(array_file_open(path, &file));
  assert_int_equal(truncate(file.spill.path, 0), 0);
  assert_false(is_right(&file)); /* zeros, and no signal */
  ASSERT_FAILS(E_IO, "the file that it was inflated to became shorter while it was in use",
               array_file_unchanged(&file));
  array_file_close(&file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_file_that_is_cut_is_noticed),     cmocka_unit_test(one_inflates_and_all_map),
      cmocka_unit_test(what_nobody_finished_is_made_anew), cmocka_unit_test(processes_at_once),
      cmocka_unit_test(without_room_memory_has_to_do),     cmocka_unit_test(faults_leave_nothing_behind),
  };
  return cmocka_run_group_tests_name("inflated", tests, setup, teardown);
}
