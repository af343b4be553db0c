/* Loading libraries, as backend/cuda sees it in the emulation: there are two, and they are linked in
 * (tests/cuda/linked.cpp). */
#ifndef TESTS_CUDA_DLFCN_H
#define TESTS_CUDA_DLFCN_H

#ifdef __cplusplus
extern "C" {
#endif

void *emulated_dlopen(const char *path, int flags);
void *emulated_dlsym(void *library, const char *name);
const char *emulated_dlerror(void);

#ifdef __cplusplus
}
#endif

#define RTLD_NOW 0
#define RTLD_LOCAL 0
#define dlopen emulated_dlopen
#define dlsym emulated_dlsym
#define dlerror emulated_dlerror

#endif
