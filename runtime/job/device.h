/* Which backend and which of its devices each rank computes on: the option --device. */
#ifndef RUNTIME_JOB_DEVICE_H
#define RUNTIME_JOB_DEVICE_H

#include "backend/backend.h"

typedef struct {
  const Backend *backend;
  int device;
} RankDevice;

/* From "auto", "NAME", "NAME:N", or a list of these with commas, one a rank, into devices [ranks]. One for all ranks
 * without a number is, where devices are not the host, spread over them: rank r gets number r modulo how many there
 * are. E_USAGE for what this build does not have and lists of another length; E_DEVICE where there is no device. */
Status devices_parse(Arena *arena, const char *text, int ranks, RankDevice **devices);

/* What devices_parse makes these devices of, by the names of backends: for `asked` "auto" it is "cpu". */
Status devices_text(Arena *arena, const RankDevice *devices, int ranks, const char *asked, const char **text);

/* What decides the bits of these devices: "cpu avx2, cuda NVIDIA H200", each kind once, in alphabetical order. Of other
 * machines' instruction sets nothing is known: they count as this one's. */
Status devices_bits(Arena *arena, const RankDevice *devices, int ranks, const char **text);

/* The precision of this name. E_USAGE for another name, and for tf32 where no rank's device has it. */
Status devices_precision(const char *name, const RankDevice *devices, int ranks, Precision *precision);

/* Sets the precision of products, with bf16 what is stored in bfloat16 where all backends take it, and what each node's
 * workspace takes on each of the ranks' backends; E_UNSUPPORTED where one of their backends cannot run a node. */
Status devices_prepare(const RankDevice *devices, int ranks, Precision precision, Graph *graph);

/* What a rank's device can do; memory that several of the ranks `here` share is divided among them. */
Status devices_describe(const RankDevice *devices, int ranks, int rank, int here, DeviceSpec *spec);

#endif
