// 64x64 tiles of matrix products in f32 by 256 threads of 4x4 results each: for f32 storage, for devices without
// tensor cores, and for operands whose rows no 16-byte copy can read.
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

}  // namespace simt
