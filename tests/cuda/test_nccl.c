/* NCCL itself: it loads, and on one device a rank sends to itself, in a group, on a communicator and a stream as wires
 * have them. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"
#include "runtime/transport/nccl_library.h"
#include "runtime/transport/wire.h"

enum { BYTES = 10000001, PIECES = 3 };

static const NcclLibrary *nccl;

/* Until what was asked of the communicator is carried out. */
static void settle(ncclComm_t comm, ncclResult_t result) {
  for (int looks = 0; result == ncclInProgress; looks++) {
    assert_true(looks < 600000);
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    assert_int_equal(nccl->CommGetAsyncError(comm, &result), ncclSuccess);
  }
  if (result != ncclSuccess)
    FAIL_TEST("%s: %s", nccl->GetErrorString(result), nccl->GetLastError(comm));
}

/* Within a group. */
static bool is_well(ncclResult_t result) {
  return result == ncclSuccess || result == ncclInProgress;
}

static ncclComm_t open_comm(void) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclUniqueId id;
  ncclComm_t comm = NULL;
  config.blocking = 0;
  config.maxCTAs = 8;
  assert_int_equal(nccl->GetUniqueId(&id), ncclSuccess);
  ncclResult_t result = nccl->CommInitRankConfig(&comm, 1, id, 0, &config);
  settle(comm, result);
  return comm;
}

static void check(Stream *stream, const char *device, const char *expected) {
  char *host = malloc(BYTES);
  assert_non_null(host);
  ASSERT_OK(backend_cuda.copy(stream, host, device, BYTES, COPY_DEVICE_TO_HOST));
  assert_memory_equal(host, expected, BYTES);
  free(host);
}

/* What a stream of its own sends is what the rank's stream put there before, and the rank's stream, waiting, has it. */
static void sends_to_itself_in_a_group(void **state) {
  (void)state;
  Stream *own, *wire;
  Event *ready, *done;
  void *from, *to;
  DeviceSpec device;
  if (backend_cuda.describe(0, &device) != OK) {
    print_message("skipped: %s\n", status_message());
    skip();
  }
  char *host = malloc(BYTES);
  assert_non_null(host);
  for (size_t i = 0; i < BYTES; i++)
    host[i] = (char)(i * 131 >> 3);
  ASSERT_OK(backend_cuda.stream_open(0, 1, &own));
  ASSERT_OK(backend_cuda.stream_open(0, 1, &wire));
  ASSERT_OK(backend_cuda.event_create(own, &ready));
  ASSERT_OK(backend_cuda.event_create(wire, &done));
  ASSERT_OK(backend_cuda.alloc(own, BYTES, &from));
  ASSERT_OK(backend_cuda.alloc(own, BYTES, &to));
  ncclComm_t comm = open_comm();
  cudaStream_t stream = backend_cuda.stream_handle(wire);
  for (int round = 0; round < 3; round++) {
    host[round] = (char)(100 + round);
    ASSERT_OK(backend_cuda.zero(own, to, BYTES));
    ASSERT_OK(backend_cuda.copy(own, from, host, BYTES, COPY_HOST_TO_DEVICE));
    ASSERT_OK(backend_cuda.event_record(own, ready));
    ASSERT_OK(backend_cuda.event_wait(wire, ready));
    assert_int_equal(nccl->GroupStart(), ncclSuccess);
    for (size_t p = 0, at = 0; p < PIECES; p++) {
      size_t bytes = p + 1 == PIECES ? BYTES - at : 1000 * p + 1;
      assert_true(is_well(nccl->Send((char *)from + at, bytes, ncclUint8, 0, comm, stream)));
      assert_true(is_well(nccl->Recv((char *)to + at, bytes, ncclUint8, 0, comm, stream)));
      at += bytes;
    }
    settle(comm, nccl->GroupEnd());
    ASSERT_OK(backend_cuda.event_record(wire, done));
    ASSERT_OK(backend_cuda.event_wait(own, done));
    check(own, to, host);
  }
  settle(comm, nccl->CommFinalize(comm));
  assert_int_equal(nccl->CommDestroy(comm), ncclSuccess);
  backend_cuda.event_destroy(ready);
  backend_cuda.event_destroy(done);
  backend_cuda.release(own, from);
  backend_cuda.release(own, to);
  backend_cuda.stream_close(wire);
  backend_cuda.stream_close(own);
  free(host);
}

/* Whole, and of the major version of the header; the emulated one is older than its header. */
static void the_library_loads(void **state) {
  (void)state;
  assert_true(nccl_version_will_do(wire_nccl_version()));
}

static void any_version_of_its_major_will_do(void **state) {
  (void)state;
  static const int good[] = {2708, 2809, 21005, 22803, 22809, 29900}, bad[] = {0, 1305, 3000, 30000, 31201};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    assert_true(nccl_version_will_do(good[i]));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_false(nccl_version_will_do(bad[i]));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_library_loads),
                                     cmocka_unit_test(any_version_of_its_major_will_do),
                                     cmocka_unit_test(sends_to_itself_in_a_group)};
  if (nccl_library(&nccl) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  return cmocka_run_group_tests_name("nccl", tests, NULL, NULL);
}
