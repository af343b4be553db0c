/* Loads NCCL, once. Invariant: what it hands out is whole, and of the major version that the header is of, within
 * which NCCL keeps what its functions take: `ncclConfig_t` begins with its size. */
#ifdef ONNXPIPE_NCCL

#include "runtime/transport/nccl_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

/* By its name, else in the folder where the toolkit lay when this was built. Tests bring one in their own program:
 * NULL. */
#ifndef NCCL_FILES
#define NCCL_FILES "libnccl.so.2", CUDA_LIBRARIES "/libnccl.so.2"
#endif

static NcclLibrary loaded;
static char missing[256]; /* "": all there */

bool nccl_version_will_do(int version) {
  /* 2809 is 2.8.9; since 2.9 the minor version has two digits: 22809 is 2.28.9 */
  return (version < 10000 ? version / 1000 : version / 10000) == NCCL_MAJOR;
}

static void load(void) {
  static const char *const files[] = {NCCL_FILES};
  int version = 0;
  void *library = NULL;
  for (size_t i = 0; i < sizeof files / sizeof *files && !library; i++)
    library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(missing, sizeof missing, "%s", dlerror());
    return;
  }
#define VISIT(function)                                                                                                \
  *(void **)&loaded.function = dlsym(library, "nccl" #function);                                                       \
  if (!loaded.function)                                                                                                \
    snprintf(missing, sizeof missing, "it has no function nccl%s", #function);
  NCCL_FUNCTIONS(VISIT)
#undef VISIT
  if (!missing[0] && (loaded.GetVersion(&version) != ncclSuccess || !nccl_version_will_do(version)))
    snprintf(missing, sizeof missing, "version %d is not of NCCL %d", version, NCCL_MAJOR);
}

Status nccl_library(const NcclLibrary **library) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load);
  *library = &loaded;
  return missing[0] ? fail(E_UNSUPPORTED, "NCCL cannot be loaded: %s", missing) : OK;
}

#else

typedef int Empty;

#endif
