// Threads of a block as rows of channel vectors, for kernels that keep something per channel while they walk
// over pixels: coalesced, nothing reloaded, and sums over pixels in a fixed order.
#pragma once
#include "common.cuh"

// Thread (x, y) of `lanes` by blockDim.x / lanes: VX channels from `channel` on, rows y, y + height, ... of the
// block's `span` rows of sample n. Grid: (samples x blocks, ceil(c / VX / lanes)).
struct Columns {
    int lanes, height, x, y, n, block, first, end, channel;
    bool inside;

    __device__ Columns(int rows, int c, int lanes, int blocks, int span)
        : lanes(lanes), height(blockDim.x / lanes), x(threadIdx.x % lanes), y(threadIdx.x / lanes),
          n(blockIdx.x / blocks), block(blockIdx.x - n * blocks), first(block * span),
          end(min(first + span, rows)), channel((blockIdx.y * lanes + x) * VX),
          inside(y < height && channel < c) {}

    // Rows of this block that thread row y walks over.
    __device__ int count(int y) const {
        int len = end - first;
        return y < len ? (len - y - 1) / height + 1 : 0;
    }
    // Where value v of thread (x, y) lies in shared memory; the pad keeps reading by channels free of conflicts.
    __device__ int at(int v, int y, int x) const { return (v * (height + 1) + y) * lanes + x; }
    __device__ int shared_floats() const { return VX * (height + 1) * lanes; }
};
