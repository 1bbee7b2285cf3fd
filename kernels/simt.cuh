// 64x64 tiles of matrix products in f32 by 256 threads of 4x4 results each: for f32 storage, for devices without
// tensor cores, and for operands whose rows no 16-byte copy can read.
//
// For few tiles the sum is made in gridDim.y parts: blockIdx.y sums up its share of the chunks and leaves it at
// `parts`, [tile][part] in an order of its own. The block that takes the last of a tile's tickets adds the parts in
// order. The tickets are zeros, before and after.
//
// A tile of an operand is 16 deep: element (k, m) lies at word 64 k + (m ^ 8 (k / 4)). Both ways of filling it
// (four neighbours along k, or along m) and the reads of four neighbours along m meet no bank conflict.
#pragma once
#include "common.cuh"

namespace simt {

constexpr int EDGE = 64, DEPTH = 16, THREADS = 256;
using Tile = float[DEPTH * EDGE];
using Sums = float[4][4];

__device__ __forceinline__ int place(int k, int m) { return k * EDGE + (m ^ (k >> 2 & 3) * 8); }

// Elements c .. c + 3 of a row, zeros from column `cols` on; V neighbours may be read at once.
template <int V, class T>
__device__ __forceinline__ void load4(const T *row, int c, int cols, float (&x)[4]) {
    if (c + 4 <= cols) {
#pragma unroll
        for (int i = 0; i < 4; i += V) {
            float part[V];
            load<V>(row + c + i, part);
#pragma unroll
            for (int j = 0; j < V; ++j) x[i + j] = part[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = c + i < cols ? to_f32(row[c + i]) : 0.f;
    }
}
template <int V, class T>
__device__ __forceinline__ void store4(T *row, int c, int cols, const float (&x)[4]) {
    if (c + 4 <= cols) {
#pragma unroll
        for (int i = 0; i < 4; i += V) {
            float part[V];
#pragma unroll
            for (int j = 0; j < V; ++j) part[j] = x[i + j];
            store<V>(row + c + i, part);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (c + i < cols) from_f32(row + c + i, x[i]);
    }
}

// Widest access of four neighbours: an alignment of eight elements serves them as well.
constexpr int width(int v) { return v < 4 ? v : 4; }

// Four neighbours along k of row m go down a column, four along m stay side by side.
__device__ __forceinline__ void put_k(Tile &tile, int k, int m, const float (&x)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) tile[place(k + i, m)] = x[i];
}
__device__ __forceinline__ void put_m(Tile &tile, int k, int m, const float (&x)[4]) {
    *reinterpret_cast<float4 *>(&tile[place(k, m)]) = make_float4(x[0], x[1], x[2], x[3]);
}

// This thread's results: rows 4 (thread / 16) .. + 3, columns 4 (thread % 16) .. + 3.
__device__ __forceinline__ int first_row() { return threadIdx.x / 16 * 4; }
__device__ __forceinline__ int first_col() { return threadIdx.x % 16 * 4; }

__device__ __forceinline__ void multiply(const Tile &a, const Tile &b, Sums &sums) {
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
        const float4 p = *reinterpret_cast<const float4 *>(&a[place(k, first_row())]);
        const float4 q = *reinterpret_cast<const float4 *>(&b[place(k, first_col())]);
        const float row[4] = {p.x, p.y, p.z, p.w}, col[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(row[i], col[j], sums[i][j]);
    }
}

// This block's share of `chunks` chunks.
struct Share {
    int from, to;

    __device__ __forceinline__ explicit Share(int chunks)
        : from(chunks * blockIdx.y / gridDim.y), to(chunks * (blockIdx.y + 1) / gridDim.y) {}
};

struct Parts {
    float *parts;
    int *tickets;
};

// Leaves the sums of a tile that has `rows` rows, and, with the last ticket, takes the whole; whether it did.
__device__ __forceinline__ bool merge(const Parts &to, int rows, Sums &sums) {
    if (gridDim.y == 1) return true;
    __shared__ int ticket;
    float4 *tile = reinterpret_cast<float4 *>(to.parts) + blockIdx.x * gridDim.y * 4 * THREADS + threadIdx.x;
    const int mine = min(max(rows - first_row(), 0), 4);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (i < mine)
            tile[(blockIdx.y * 4 + i) * THREADS] = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) ticket = atomicAdd(to.tickets + blockIdx.x, 1);
    __syncthreads();
    if (ticket != gridDim.y - 1) return false;
    __threadfence();
    if (threadIdx.x == 0) to.tickets[blockIdx.x] = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float4 sum = {};
#pragma unroll 4
        for (int part = 0; part < (i < mine ? gridDim.y : 0); ++part) {
            const float4 x = tile[(part * 4 + i) * THREADS];
            sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
        }
        sums[i][0] = sum.x, sums[i][1] = sum.y, sums[i][2] = sum.z, sums[i][3] = sum.w;
    }
    return true;
}

}  // namespace simt
