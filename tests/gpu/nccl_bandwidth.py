#!/usr/bin/env python3
"""NCCL between the GPUs of this machine, through the plugin: a thread and a context for each.

Usage: nccl_bandwidth.py PLUGIN DEVICE,DEVICE,... BYTES [ROUNDS]

Prints a line of JSON for an all-reduce, and for an exchange in a ring, in which each rank sends all bytes to the next one
and receives as many: seconds (median of ROUNDS, of the slowest rank in each) and bus bandwidth in bytes a second, by the
convention of nccl-tests: 2 (n - 1) / n times the bytes of an all-reduce, the bytes of a send.
"""

import ctypes
import json
import sys
import threading
import time

import numpy
from plugin import CONSTANTS, STRUCTS, Array, Plugin

ID_BYTES = CONSTANTS["TENAX_CUDA_NCCL_ID_BYTES"]
OK, IN_PROGRESS = CONSTANTS["TENAX_CUDA_OK"], CONSTANTS["TENAX_CUDA_IN_PROGRESS"]
FORM_SECONDS = 60


class Rank(threading.Thread):
    """One GPU's part; `times` by name, of each round, or `problem`."""

    def __init__(self, path, devices, rank, num_bytes, rounds, unique_id, barrier):
        super().__init__(daemon=True)
        self.path, self.devices, self.rank, self.count, self.rounds = path, devices, rank, num_bytes // 4, rounds
        self.unique_id, self.barrier, self.times, self.problem = unique_id, barrier, {}, None

    def run(self):
        try:
            self.measure()
        except (RuntimeError, threading.BrokenBarrierError) as problem:
            self.problem = f"rank {self.rank}: {problem or 'another rank failed'}"
            self.barrier.abort()

    def check(self, status):
        if status not in (OK, IN_PROGRESS):
            raise RuntimeError(self.library.tenax_cuda_nccl_message(self.comm).decode())

    def measure(self):
        # A thread's own device: a context is made and used by one thread.
        plugin, size = Plugin(self.path, self.devices[self.rank]), len(self.devices)
        self.library, self.comm = plugin.library, ctypes.c_void_p()
        plugin.call("nccl_create", self.unique_id, self.rank, size, ctypes.byref(self.comm))
        latest = time.monotonic() + FORM_SECONDS
        while (status := self.library.tenax_cuda_nccl_poll(self.comm)) == IN_PROGRESS:
            if time.monotonic() > latest:
                raise RuntimeError(f"not all of {size} ranks came within {FORM_SECONDS} s")
            time.sleep(0.002)
        self.check(status)
        a, b = (Array(plugin, 4 * self.count, (self.count,), numpy.dtype(numpy.float32)) for _ in range(2))
        for array in (a, b):
            plugin.call("fill_zero", array.address, 4 * self.count)
        transfers = (STRUCTS["tenax_cuda_transfer"] * 2)(
            (a.address, self.count, (self.rank + 1) % size, 1), (b.address, self.count, (self.rank - 1) % size, 0))
        for name, begin in (
                ("all_reduce", lambda: self.library.tenax_cuda_nccl_all_reduce(self.comm, a.address, b.address, self.count)),
                ("exchange", lambda: self.library.tenax_cuda_nccl_exchange(self.comm, transfers, 2))):
            self.times[name] = [self.seconds_of(plugin, begin) for _ in range(self.rounds + 2)][2:]
        latest = time.monotonic() + FORM_SECONDS
        while self.library.tenax_cuda_nccl_finalize(self.comm) == IN_PROGRESS and time.monotonic() < latest:
            time.sleep(0.002)
        self.library.tenax_cuda_nccl_destroy(self.comm)
        plugin.close()

    def seconds_of(self, plugin, begin):
        self.barrier.wait()
        start = time.perf_counter()
        self.check(begin())
        self.check(self.library.tenax_cuda_nccl_join(self.comm))
        plugin.call("synchronize")
        return time.perf_counter() - start


def main():
    path, devices, num_bytes = sys.argv[1], [int(d) for d in sys.argv[2].split(",")], int(sys.argv[3])
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 11
    first = Plugin(path, devices[0])
    unique_id, message = ctypes.create_string_buffer(ID_BYTES), ctypes.create_string_buffer(512)
    if first.library.tenax_cuda_nccl_unique_id(unique_id, message, ctypes.c_size_t(512)) != OK:
        print(f"skipped: {message.value.decode()}")
        return 77
    first.close()
    barrier, size = threading.Barrier(len(devices)), len(devices)
    ranks = [Rank(path, devices, r, num_bytes, rounds, unique_id, barrier) for r in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if problems := [rank.problem for rank in ranks if rank.problem]:
        print(problems[0])
        return 1
    for name, factor in (("all_reduce", 2 * (size - 1) / size), ("exchange", 1)):
        slowest = sorted(max(times) for times in zip(*(rank.times[name] for rank in ranks)))
        seconds = slowest[len(slowest) // 2]
        print(json.dumps({"name": name, "ranks": size, "bytes": num_bytes, "seconds": seconds, "bus_bandwidth": factor * num_bytes / seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
