/* Functions that devices run, too, written in what C and C++ have in common. */
#ifndef BASE_PORTABLE_H
#define BASE_PORTABLE_H

#ifdef __CUDACC__
#define PORTABLE static __device__ __forceinline__
#else
#define PORTABLE static inline
#endif

#endif
