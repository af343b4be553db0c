#!/usr/bin/env python3
"""PyTorch's pipeline over gpt_25m, for bench/performance.py to compare with: processes of one thread over gloo.

  torchrun --nproc-per-node RANKS bench/peer_pipeline.py SCHEDULE MICROBATCHES

SCHEDULE: GPipe, 1F1B, Interleaved1F1B or InterleavedZeroBubble. Rank 0 prints a line of JSON: the seconds of the fastest step. The
head has a table of its own: torch's stages share no weights.
"""
import json
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed import pipelining

from peer_models import Gpt, build, by_class

SCHEDULES = {"GPipe": pipelining.ScheduleGPipe, "1F1B": pipelining.Schedule1F1B, "Interleaved1F1B": pipelining.ScheduleInterleaved1F1B,
             "InterleavedZeroBubble": pipelining.ScheduleInterleavedZeroBubble}


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    kind, microbatches = sys.argv[1], int(sys.argv[2])
    chunks = 2 if "Interleaved" in kind else 1
    _, (x,), y, _ = build("gpt_25m")
    parts = [Gpt(8, 384, 6, 8192, 256, rank + chunk * ranks, ranks * chunks, untied=True) for chunk in range(chunks)]
    stages = [pipelining.PipelineStage(part, rank + chunk * ranks, ranks * chunks, torch.device("cpu")) for chunk, part in enumerate(parts)]
    schedule = SCHEDULES[kind](stages if chunks > 1 else stages[0], microbatches, loss_fn=by_class)
    optimizer = torch.optim.AdamW([weight for part in parts for weight in part.parameters()], lr=1e-4, fused=True)
    taken = []
    for _ in range(7):
        dist.barrier()
        start = time.perf_counter()
        optimizer.zero_grad()
        schedule.step(*([x] if rank == 0 else []), **({"target": y, "losses": []} if rank == ranks - 1 else {}))
        optimizer.step()
        dist.barrier()
        taken.append(time.perf_counter() - start)
    if rank == 0:
        print(json.dumps({"best_s": min(taken[2:])}))
    dist.destroy_process_group()


main()
