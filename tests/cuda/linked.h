/* The libraries that the emulation has in itself. NULL: the library has no function of this name. */
#ifndef TESTS_CUDA_LINKED_H
#define TESTS_CUDA_LINKED_H

void *emulated_cublaslt(const char *function);
void *emulated_cudnn(const char *function);

#endif
