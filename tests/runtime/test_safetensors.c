/* Arrays in .safetensors files: what is written reads back; hostile files give one line each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "runtime/data/safetensors.h"
#include "tests/test.h"

static char path[64];

static int setup(void **state) {
  (void)state;
  snprintf(path, sizeof path, "/tmp/onnxpipe-safetensors-%d", (int)getpid());
  return 0;
}

static int teardown(void **state) {
  (void)state;
  unlink(path);
  return 0;
}

static void write_bytes(const void *bytes, size_t n) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  assert_int_equal(fclose(file), 0);
}

/* A file of this header and `n` bytes of tensors. */
static void write_header(const char *header, size_t n) {
  char bytes[4096] = {0};
  size_t length = strlen(header);
  bytes[0] = (char)(length & 255);
  bytes[1] = (char)(length >> 8);
  memcpy(bytes + 8, header, length);
  write_bytes(bytes, 8 + length + n);
}

static void assert_refused(Status code, const char *message) {
  ArrayFile file;
  char full[1024];
  snprintf(full, sizeof full, "%s: %s", path, message);
  ASSERT_FAILS(code, full, safetensors_open(path, &file));
}

static void what_is_written_reads_back(void **state) {
  (void)state;
  const uint8_t bytes[] = {1, 2, 3};
  const float floats[] = {1, -2, 3, 4, 5, 6};
  const int64_t integers[] = {INT64_MIN, 7};
  const uint16_t halves[] = {0x3c00};
  const Array arrays[] = {{"bytes", U8, {1, {3}}, bytes},
                          {"layer.\"0\"\\\n\xc3\xa9", F32, {2, {2, 3}}, floats},
                          {"nothing", F64, {2, {0, 4}}, NULL},
                          {"integers", I64, {1, {2}}, integers},
                          {"half", BF16, {0}, halves}};
  ASSERT_OK(safetensors_file_write(path, arrays, 5));
  ArrayFile file;
  ASSERT_OK(safetensors_open(path, &file));
  assert_int_equal(file.n_arrays, 5);
  for (int i = 0; i < 5; i++) {
    const Array *read = array_find(&file, arrays[i].name);
    assert_non_null(read);
    assert_int_equal(read->dtype, arrays[i].dtype);
    assert_true(shape_equal(read->shape, arrays[i].shape));
    size_t n = (size_t)shape_elements(read->shape) * dtype_bytes(read->dtype);
    if (n)
      assert_memory_equal(read->data, arrays[i].data, n);
    assert_int_equal((uintptr_t)read->data % dtype_bytes(read->dtype), 0);
  }
  array_file_close(&file);
}

static void sizes_and_checksums_are_those_of_the_file(void **state) {
  (void)state;
  const float floats[] = {1, 2, 3};
  const Array array = {"x", F32, {1, {3}}, floats};
  char read[4096];
  size_t bytes;
  uint32_t crc;
  FILE *file = fopen(path, "w+b");
  ASSERT_OK(safetensors_write(file, &array, 1, &bytes, &crc));
  rewind(file);
  assert_int_equal(fread(read, 1, sizeof read, file), bytes);
  fclose(file);
  assert_int_equal(crc32_z(0, (const Bytef *)read, bytes), crc);
  assert_int_equal(bytes % 8, 4);
}

static void a_file_without_tensors(void **state) {
  (void)state;
  ArrayFile file;
  ASSERT_OK(safetensors_file_write(path, NULL, 0));
  ASSERT_OK(safetensors_open(path, &file));
  assert_int_equal(file.n_arrays, 0);
  array_file_close(&file);
}

static void names_that_are_none(void **state) {
  (void)state;
  const float one = 1;
  const Array wrong = {"a\xff", F32, {0}, &one}, reserved = {"__metadata__", F32, {0}, &one};
  char full[256];
  snprintf(full, sizeof full, "%s: a tensor of a safetensors file cannot be called 'a\xff', which is not UTF-8", path);
  ASSERT_FAILS(E_MODEL, full, safetensors_file_write(path, &wrong, 1));
  ASSERT_FAILS(E_MODEL, "a tensor of a safetensors file cannot be called '__metadata__'",
               safetensors_check_name(reserved.name));
  assert_int_equal(access(path, F_OK), -1);
  static const char *const no_text[] = {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "\xc3", "\x80"};
  for (size_t i = 0; i < sizeof no_text / sizeof *no_text; i++)
    assert_int_equal(safetensors_check_name(no_text[i]), E_MODEL);
  ASSERT_OK(safetensors_check_name("\xed\x9f\xbf\xef\xbf\xbd\xf0\x9f\x98\x80"));
}

#define TENSOR(name, type, shape, begin, end)                                                                          \
  "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void hostile_files(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t n;
    const char *message;
  } cases[] = {
      {"{" TENSOR("x", "F32", "[2]", 0, 8) "}", 4, "tensor 'x' lies at bytes 0 to 8 of 4"},
      {"{" TENSOR("x", "F32", "[2]", 0, 4) "}", 4, "tensor 'x' has 4 bytes, F32 [2] takes 8"},
      {"{" TENSOR("x", "F32", "[2]", 8, 0) "}", 8, "tensor 'x' lies at bytes 8 to 0 of 8"},
      {"{" TENSOR("x", "F32", "[2]", -8, 0) "}", 8, "tensor 'x' lies at bytes -8 to 0 of 8"},
      {"{" TENSOR("x", "F32", "[2]", 4, 12) "}", 12, "tensor 'x' begins at byte 4, the one before it ends at 0"},
      {"{" TENSOR("x", "F32", "[2]", 0, 8) "}", 12, "the tensors end at byte 8 of 12"},
      {"{" TENSOR("x", "F32", "[2]", 0, 8) "," TENSOR("y", "F32", "[1]", 4, 8) "}", 8,
       "tensor 'y' begins at byte 4, the one before it ends at 8"},
      {"{" TENSOR("x", "F31", "[2]", 0, 8) "}", 8, "tensor 'x' has the unknown type F31"},
      {"{" TENSOR("x", "F32", "[-2]", 0, 8) "}", 8, "tensor 'x' has a shape that is none"},
      {"{" TENSOR("x", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "tensor 'x' has 9 dimensions, more than 8"},
      {"{\"x\":3}", 0, "tensor 'x' is no object"},
      {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor 'x' has no data_offsets"},
      {"[]", 0, "is no safetensors file: its header is no JSON object"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_header(cases[i].header, cases[i].n);
    assert_refused(E_MODEL, cases[i].message);
  }
  ArrayFile file;
  write_header("{" TENSOR("x", "F32", "[1]", 0, 4) "," TENSOR("x", "F32", "[1]", 4, 8) "}", 8);
  assert_int_equal(safetensors_open(path, &file), E_MODEL);
  write_header("{" TENSOR("x", "F32", "[4294967296,4294967296,4294967296]", 0, 0) "}", 0);
  assert_int_equal(safetensors_open(path, &file), E_SHAPE);
  write_bytes("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
  assert_refused(E_MODEL, "is no safetensors file: a header of 9223372036854775807 bytes in a file of 10");
  write_bytes("\x02\0\0", 3);
  assert_refused(E_MODEL, "is no safetensors file: 3 bytes");
  write_bytes("\x02\0\0\0\0\0\0\0{\0", 10);
  assert_refused(E_MODEL, "is no safetensors file: its header has a zero byte");
}

/* A file of every header that one wrong byte makes of a good one opens or is refused, and is never read outside. */
static void mutated_headers(void **state) {
  (void)state;
  char good[512];
  int length =
      snprintf(good, sizeof good, "%s", "{" TENSOR("x", "F32", "[2,1]", 0, 8) "," TENSOR("y", "I16", "[3]", 8, 14) "}");
  for (int at = 0; at < length; at++)
    for (int byte = 1; byte < 256; byte += 3) {
      char bad[512];
      memcpy(bad, good, (size_t)length + 1);
      bad[at] = (char)byte;
      write_header(bad, 14);
      ArrayFile file;
      if (safetensors_open(path, &file) != OK)
        continue;
      for (int i = 0; i < file.n_arrays; i++) {
        char copy[64];
        size_t n;
        ASSERT_OK(shape_bytes(file.arrays[i].shape, file.arrays[i].dtype, &n));
        assert_true(n <= sizeof copy);
        if (n)
          memcpy(copy, file.arrays[i].data, n);
      }
      array_file_close(&file);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(what_is_written_reads_back, setup, teardown),
      cmocka_unit_test_setup_teardown(sizes_and_checksums_are_those_of_the_file, setup, teardown),
      cmocka_unit_test_setup_teardown(a_file_without_tensors, setup, teardown),
      cmocka_unit_test_setup_teardown(names_that_are_none, setup, teardown),
      cmocka_unit_test_setup_teardown(hostile_files, setup, teardown),
      cmocka_unit_test_setup_teardown(mutated_headers, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
