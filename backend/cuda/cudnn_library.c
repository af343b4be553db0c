/* Loads cuDNN, once. Invariant: what it hands out is whole and of version 9. Its further libraries lie in its own
 * folder, where it finds them itself. */
#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/cuda/cudnn_api.h"

#define FILE_NAME "libcudnn.so.9"
#define PACKAGE "/lib/python3*/site-packages/nvidia/cudnn/lib/" FILE_NAME

static CudnnLibrary loaded;
static char missing[512]; /* "": all there */

static void *open_file(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library && !missing[0])
    snprintf(missing, sizeof missing, "%s", dlerror());
  return library;
}

/* The first that fits the pattern, in the order of names. folder: what the pattern begins with; NULL: nothing. */
static void *open_package(const char *folder, const char *pattern) {
  char whole[1024];
  glob_t found;
  void *library = NULL;
  if (!folder || !folder[0])
    return NULL;
  snprintf(whole, sizeof whole, "%s%s", folder, pattern);
  if (glob(whole, 0, NULL, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc && !library; i++)
      library = open_file(found.gl_pathv[i]);
    globfree(&found);
  }
  return library;
}

/* Where ONNXPIPE_CUDNN says (a file, or its folder) and nowhere else; without it by its name, in a Python package's
 * folder, and where the toolkit lay when this was built. */
static void *find_library(void) {
  const char *asked = getenv("ONNXPIPE_CUDNN");
  char path[1024];
  struct stat is;
  void *library = NULL;
  if (asked && strcmp(asked, "off") == 0) {
    snprintf(missing, sizeof missing, "ONNXPIPE_CUDNN is off");
    return NULL;
  }
  if (asked && asked[0]) {
    bool folder = stat(asked, &is) == 0 && S_ISDIR(is.st_mode);
    snprintf(path, sizeof path, "%s%s", asked, folder ? "/" FILE_NAME : "");
    return open_file(path);
  }
  if (!(library = open_file(FILE_NAME)) && !(library = open_package(getenv("VIRTUAL_ENV"), PACKAGE)) &&
      !(library = open_package(getenv("CONDA_PREFIX"), PACKAGE)) &&
      !(library = open_package(getenv("HOME"), "/.local" PACKAGE)) &&
      !(library = open_package("/usr/local", "/lib/python3*/dist-packages/nvidia/cudnn/lib/" FILE_NAME)) &&
      !(library = open_package("/usr/local", PACKAGE)))
    library = open_file(CUDA_LIBRARIES "/" FILE_NAME);
  return library;
}

static void load(void) {
  void *library = find_library();
  if (!library)
    return;
  missing[0] = '\0';
#define VISIT(function, result, arguments)                                                                             \
  *(void **)&loaded.function = dlsym(library, "cudnn" #function);                                                      \
  if (!loaded.function)                                                                                                \
    snprintf(missing, sizeof missing, "it has no function cudnn%s", #function);
  CUDNN_FUNCTIONS(VISIT)
#undef VISIT
  if (!missing[0] && loaded.GetVersion() / 10000 != CUDNN_MAJOR)
    snprintf(missing, sizeof missing, "version %zu is not of cuDNN %d", loaded.GetVersion(), CUDNN_MAJOR);
}

const CudnnLibrary *cudnn_library(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load);
  return missing[0] ? NULL : &loaded;
}

const char *cudnn_missing(void) {
  return missing;
}
