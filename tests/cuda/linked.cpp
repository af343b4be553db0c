/* Loading libraries: a file that is named like one of these is that one, whatever its folder. */
#include "linked.h"

#include <stddef.h>
#include <string.h>

#include "linked/dlfcn.h"

static char cublaslt, cudnn;

void *emulated_dlopen(const char *path, int) {
  return strstr(path, "libcudnn.so.9") ? &cudnn : strstr(path, "libcublasLt.so.") ? &cublaslt : NULL;
}

const char *emulated_dlerror(void) {
  return "there is always one";
}

void *emulated_dlsym(void *library, const char *name) {
  return library == &cudnn ? emulated_cudnn(name) : emulated_cublaslt(name);
}
