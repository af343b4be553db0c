/* NCCL's functions, from a library that is loaded when they are first asked for: it is large, and a machine with one
 * device needs none. Only where the build has NCCL's header. */
#ifndef RUNTIME_TRANSPORT_NCCL_LIBRARY_H
#define RUNTIME_TRANSPORT_NCCL_LIBRARY_H

#include <nccl.h>
#include <stdbool.h>

#include "base/status.h"

/* By their names without the prefix. */
#define NCCL_FUNCTIONS(VISIT)                                                                                          \
  VISIT(GetVersion)                                                                                                    \
  VISIT(GetUniqueId)                                                                                                   \
  VISIT(CommInitRankConfig)                                                                                            \
  VISIT(CommGetAsyncError)                                                                                             \
  VISIT(CommFinalize)                                                                                                  \
  VISIT(CommDestroy)                                                                                                   \
  VISIT(CommAbort)                                                                                                     \
  VISIT(GetErrorString)                                                                                                \
  VISIT(GetLastError)                                                                                                  \
  VISIT(GroupStart)                                                                                                    \
  VISIT(GroupEnd)                                                                                                      \
  VISIT(Send)                                                                                                          \
  VISIT(Recv)

typedef struct {
#define VISIT(name) __typeof__(&nccl##name) name;
  NCCL_FUNCTIONS(VISIT)
#undef VISIT
} NcclLibrary;

/* E_UNSUPPORTED where there is none, or one of another major version than the header that this build had. */
Status nccl_library(const NcclLibrary **library);
/* Whether a library of this version, as its headers count, keeps what this build's headers say of functions. */
bool nccl_version_will_do(int version);

#endif
