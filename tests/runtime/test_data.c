/* Arrays in .npz files: what is written reads back; hostile files give one line each. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#include "runtime/data/data.h"
#include "tests/files.h"
#include "tests/test.h"

static char path[64];

static int setup(void **state) {
  (void)state;
  snprintf(path, sizeof path, "/tmp/onnxpipe-data-%d.npz", (int)getpid());
  return 0;
}

static int teardown(void **state) {
  (void)state;
  unlink(path);
  return 0;
}

/* A zip with one member of these bytes. */
static void write_zip(const char *member, const void *bytes, size_t n, int method) {
  int code;
  unlink(path);
  zip_t *zip = zip_open(path, ZIP_TRUNCATE | ZIP_CREATE, &code);
  assert_non_null(zip);
  zip_int64_t index = zip_file_add(zip, member, zip_source_buffer(zip, bytes, n, 0), 0);
  assert_true(index >= 0);
  zip_set_file_compression(zip, (zip_uint64_t)index, method, 9);
  assert_int_equal(zip_close(zip), 0);
}

/* An .npy array of version 1.0 with this header text and `n` bytes of elements. */
static size_t make_npy(char *out, const char *header, const void *elements, size_t n) {
  size_t length = strlen(header);
  memcpy(out, "\x93NUMPY\x01\x00", 8);
  out[8] = (char)(length & 255);
  out[9] = (char)(length >> 8);
  memcpy(out + 10, header, length);
  memcpy(out + 10 + length, elements, n);
  return 10 + length + n;
}

static void write_npy(const char *header, const void *elements, size_t n) {
  char bytes[4096];
  write_zip("x.npy", bytes, make_npy(bytes, header, elements, n), ZIP_CM_STORE);
}

static void assert_refused(Status code, const char *message) {
  ArrayFile file;
  char full[1024];
  snprintf(full, sizeof full, "%s: %s", path, message);
  ASSERT_FAILS(code, full, array_file_open(path, &file));
}

static void spill(const char *bytes, size_t n) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  fclose(file);
}

static void what_is_written_reads_back(void **state) {
  (void)state;
  float f[6] = {1, 2, 3, 4, 5, -0.5f};
  int64_t scalar = -7;
  Array arrays[] = {{"x", F32, {2, {2, 3}}, f}, {"a/b.c", I64, {0}, &scalar}, {"empty", F64, {1, {0}}, NULL}};
  ASSERT_OK(array_file_write(path, arrays, 3));
  ArrayFile file;
  ASSERT_OK(array_file_open(path, &file));
  assert_int_equal(file.n_arrays, 3);
  const Array *x = array_find(&file, "x");
  assert_non_null(x);
  assert_int_equal(x->dtype, F32);
  assert_int_equal(x->shape.rank, 2);
  assert_memory_equal(x->data, f, sizeof f);
  double d[2];
  ASSERT_OK(array_convert(x, 4, 2, F64, d));
  assert_true(d[0] == 5 && d[1] == -0.5);
  int32_t narrow;
  ASSERT_OK(array_convert(array_find(&file, "a/b.c"), 0, 1, I32, &narrow));
  assert_int_equal(narrow, -7);
  assert_null(array_find(&file, "y"));
  array_file_close(&file);
}

static void deflated_members_and_other_versions(void **state) {
  (void)state;
  int16_t elements[100];
  for (int i = 0; i < 100; i++)
    elements[i] = (int16_t)(i - 50);
  char bytes[1024];
  size_t n = make_npy(bytes, "{\"descr\":'<i2','fortran_order':False,'shape':(100,)}\n", elements, sizeof elements);
  memmove(bytes + 12, bytes + 10, n - 10); /* version 2.0 has a length of four bytes */
  bytes[6] = 2;
  bytes[10] = bytes[11] = 0;
  write_zip("x.npy", bytes, n + 2, ZIP_CM_DEFLATE);
  ArrayFile file;
  ASSERT_OK(array_file_open(path, &file));
  int64_t wide[100];
  ASSERT_OK(array_convert(&file.arrays[0], 0, 100, I64, wide));
  assert_int_equal(wide[0], -50);
  assert_int_equal(wide[99], 49);
  array_file_close(&file);
}

static void conversions_check_ranges(void **state) {
  (void)state;
  int64_t big[] = {1, -2, INT64_C(5000000000)};
  uint64_t huge = UINT64_MAX;
  uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7c00};
  Array a = {"ids", I64, {1, {3}}, big}, u = {"u", U64, {1, {1}}, &huge}, h = {"h", F16, {1, {4}}, halves};
  int32_t narrow[3];
  int64_t wide[3];
  uint8_t byte;
  ASSERT_OK(array_convert(&a, 0, 2, I32, narrow));
  assert_int_equal(narrow[1], -2);
  ASSERT_FAILS(E_MODEL, "array 'ids': value 5000000000 at position 2 does not fit int32",
               array_convert(&a, 0, 3, I32, narrow));
  ASSERT_FAILS(E_MODEL, "array 'ids': value -2 at position 1 does not fit uint8", array_convert(&a, 1, 1, U8, &byte));
  ASSERT_FAILS(E_MODEL, "array 'u': value 18446744073709551615 at position 0 does not fit int64",
               array_convert(&u, 0, 1, I64, wide));
  ASSERT_FAILS(E_SHAPE, "array 'ids' is int64, which does not convert to float32", array_convert(&a, 0, 3, F32, wide));
  float f[4];
  ASSERT_OK(array_convert(&h, 0, 4, F32, f));
  assert_true(f[0] == 1 && f[1] == -2 && f[2] == ldexpf(1, -24) && isinf(f[3]));
}

static void no_zip(void **state) {
  (void)state;
  unlink(path);
  assert_refused(E_IO, "cannot be opened: No such file or directory");
  spill("", 0);
  assert_refused(E_MODEL, "is empty");
  spill("just some text\n", 15);
  assert_refused(E_MODEL, "is no whole .npz file: Not a zip archive");
  write_zip("x.txt", "hello", 5, ZIP_CM_STORE);
  assert_refused(E_MODEL, "member 'x.txt' is no .npy array");
  write_zip("x.npy", "hello", 5, ZIP_CM_STORE);
  assert_refused(E_MODEL, "member 'x.npy': no .npy array");
}

static void bad_headers(void **state) {
  (void)state;
  double zeros[8] = {0};
  static const struct {
    const char *header, *message;
  } cases[] = {
      {"{'descr': '>f8', 'fortran_order': False, 'shape': (8,), }",
       "type '>f8' is big-endian: save it with .astype('<f8')"},
      {"{'descr': '|O', 'fortran_order': False, 'shape': (8,), }", "type '|O' is not a number type that is read here"},
      {"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (8,), }",
       "a record type is not an array of numbers"},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (7,), }", "float64 [7] needs 56 bytes, there are 64"},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 3), }", "float64 [3,3] needs 72 bytes, there are 64"},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (-8,), }", "the header's shape is no tuple of numbers"},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }",
       "the header's shape is no tuple of numbers"},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,8), }", "more than 8 axes"},
      {"{'descr': '<f8', 'fortran_order': False, }", "the .npy header lacks 'shape'"},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (8,), 'x': 1}", "the .npy header has the unknown key 'x'"},
      {"{'descr': '<f8", "the header's type is no string"},
      {"{", "the .npy header is no dictionary"},
      {"", "the .npy header is no dictionary"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char message[256];
    snprintf(message, sizeof message, "member 'x.npy': %s", cases[i].message);
    write_npy(cases[i].header, zeros, sizeof zeros);
    assert_refused(E_MODEL, message);
  }
  write_zip("x.npy", "\x93NUMPY\x01\x00\xff\x00{'descr'", 18, ZIP_CM_STORE);
  assert_refused(E_MODEL, "member 'x.npy': the .npy header of 255 bytes is cut off");
  write_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000, 1000000000), }", zeros, 64);
  ArrayFile file;
  assert_int_equal(array_file_open(path, &file), E_SHAPE);
}

/* Cut anywhere, or with any byte changed, a file is read or refused; sanitizers watch. */
static void damaged_files(void **state) {
  (void)state;
  for (int method = 0; method < 2; method++) {
    double elements[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    char npy[512];
    size_t n = make_npy(npy, "{'descr': '<f8', 'fortran_order': False, 'shape': (8,), }", elements, sizeof elements);
    write_zip("x.npy", npy, n, method ? ZIP_CM_DEFLATE : ZIP_CM_STORE);
    char *whole = read_whole(path, &n);
    ArrayFile file;
    for (size_t cut = 0; cut < n; cut++) {
      spill(whole, cut);
      assert_int_not_equal(array_file_open(path, &file), OK);
    }
    for (size_t i = 0; i < n; i++)
      for (int bit = 0; bit < 8; bit += 3) {
        whole[i] ^= (char)(1 << bit);
        spill(whole, n);
        if (array_file_open(path, &file) == OK) {
          for (int a = 0; a < file.n_arrays; a++) {
            size_t bytes;
            ASSERT_OK(shape_bytes(file.arrays[a].shape, file.arrays[a].dtype, &bytes));
            char *copy = malloc(bytes + 1);
            memcpy(copy, file.arrays[a].data, bytes);
            free(copy);
          }
          array_file_close(&file);
        }
        whole[i] ^= (char)(1 << bit);
      }
    free(whole);
  }
}

/* A member that states more than its bytes can hold is refused before memory is taken for it. */
static void bombs(void **state) {
  (void)state;
  char zeros[4000] = {0};
  write_zip("x.npy", zeros, sizeof zeros, ZIP_CM_DEFLATE);
  size_t n;
  char *bytes = read_whole(path, &n);
  uint32_t size = sizeof zeros, stated = 0xf0000000u;
  int patched = 0;
  for (size_t i = 0; i + 4 <= n; i++)
    if (memcmp(bytes + i, &size, 4) == 0) {
      memcpy(bytes + i, &stated, 4);
      patched++;
    }
  assert_int_equal(patched, 2); /* the local header and the directory */
  spill(bytes, n);
  free(bytes);
  ArrayFile file;
  assert_int_equal(array_file_open(path, &file), E_MODEL);
  assert_non_null(strstr(status_message(), "states 4026531840 bytes, more than "));
}

static void writing_fails_whole(void **state) {
  (void)state;
  Array array = {"x", F32, {0}, &(float){1}};
  assert_int_equal(array_file_write("/nonexistent/x.npz", &array, 1), E_IO);
  assert_string_equal(status_message(), "/nonexistent/x.npz: cannot be written: No such file or directory");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_written_reads_back),
      cmocka_unit_test(deflated_members_and_other_versions),
      cmocka_unit_test(conversions_check_ranges),
      cmocka_unit_test(no_zip),
      cmocka_unit_test(bad_headers),
      cmocka_unit_test(damaged_files),
      cmocka_unit_test(bombs),
      cmocka_unit_test(writing_fails_whole),
  };
  return cmocka_run_group_tests_name("data", tests, setup, teardown);
}
