// What the forward and the backward kernel of attention share: rows of a head, and the two products of a block of
// scores, in f32 for any width of a head (namespace simt) and on tensor cores (namespace tensor).
#pragma once
#include "common.cuh"

constexpr float LOG2E = 1.4426950409f, LN2 = 0.6931471806f;

__device__ __forceinline__ float infinite() { return __int_as_float(0x7f800000); }

// Rows of one head of one sample.
template <class T>
struct Rows {
    T *p;
    int ld, count;

    __device__ __forceinline__ Rows(const View<T> &x, int n, int head, int width, int count)
        : p(x.row(n, 0) + head * width), ld(x.ld), count(count) {}
    __device__ __forceinline__ T *row(int r) const { return p + (i64)min(r, count - 1) * ld; }
};

#if MMA
#include "mma.cuh"

// Blocks of 64 rows by four warps of 16 rows each against blocks of KB rows; heads of up to DP channels (multiples of
// 16, zeros behind the head's own). Rows in shared memory are DP bf16 and 16 bytes apart: an odd number of 16-byte
// units, so that eight rows of an ldmatrix meet no bank conflict.
namespace tensor {

constexpr int ROWS = 64, THREADS = 128, PITCH = DP * 2 + 16;

using Operand = u32[DP / 16][4];   // 16 rows of a warp, as the left side of a product over channels
using Scores = float[KB / 8][4];   // 16 rows x KB
using Sums = float[DP / 8][4];     // 16 rows x DP

extern __shared__ __align__(128) u8 shared[];

// Starts the copy of `COUNT` rows from `first` on; zeros behind the last row and the last channel.
template <int COUNT>
__device__ __forceinline__ void copy(u32 tile, const Rows<const bf16> &x, int first, int width) {
    constexpr int VECTORS = DP / 8;
#pragma unroll
    for (int i = 0; i < (COUNT * VECTORS + THREADS - 1) / THREADS; ++i) {
        const int at = threadIdx.x + i * THREADS, row = at / VECTORS, c = at % VECTORS * 8;
        if (COUNT * VECTORS % THREADS != 0 && row >= COUNT) break;
        const bool inside = first + row < x.count && c < width;
        copy_async_16(tile + row * PITCH + c * 2, x.row(first + row) + (inside ? c : 0), inside);
    }
}

__device__ __forceinline__ void load_operand(Operand &a, u32 tile) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < DP / 16; ++k)
        ldmatrix_x4(a[k], tile + (threadIdx.x / 32 * 16 + (lane & 15)) * PITCH + (k * 2 + (lane >> 4)) * 16);
}

// scores = A B^T over channels, B the KB rows of a tile.
__device__ __forceinline__ void products(Scores &scores, const Operand &a, u32 tile) {
    const int lane = threadIdx.x & 31;
    const u32 from = tile + ((lane >> 4) * 8 + (lane & 7)) * PITCH + (lane >> 3 & 1) * 16;
#pragma unroll
    for (int n = 0; n < KB / 16; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[2 * n][i] = scores[2 * n + 1][i] = 0.f;
#pragma unroll
        for (int k = 0; k < DP / 16; ++k) {
            u32 b[4];
            ldmatrix_x4(b, from + n * 16 * PITCH + k * 32);
            mma_bf16(scores[2 * n], a[k], b[0], b[1]);
            mma_bf16(scores[2 * n + 1], a[k], b[2], b[3]);
        }
    }
}

// sums += weights B, the reduction over the KB rows of a tile. Where a thread's results of one product lie is where the
// next one wants its left side: weights are rounded to bf16 and stay in registers.
__device__ __forceinline__ void accumulate(Sums &sums, const Scores &weights, u32 tile) {
    const int lane = threadIdx.x & 31;
    const u32 from = tile + ((lane >> 3 & 1) * 8 + (lane & 7)) * PITCH + (lane >> 4) * 16;
#pragma unroll
    for (int k = 0; k < KB / 16; ++k) {
        u32 a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            a[i] = pack_bf16(weights[2 * k + (i >> 1)][2 * (i & 1)], weights[2 * k + (i >> 1)][2 * (i & 1) + 1]);
#pragma unroll
        for (int n = 0; n < DP / 16; ++n) {
            u32 b[4];
            ldmatrix_x4_trans(b, from + k * 16 * PITCH + n * 32);
            mma_bf16(sums[2 * n], a, b[0], b[1]);
            mma_bf16(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// Rounds a warp's rows and writes them from row `first` on, by way of its own 16 rows of a tile nobody reads any more.
__device__ __forceinline__ void put(const Sums &sums, u8 *tile, const Rows<bf16> &to, int first, int width) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    u8 *slice = tile + warp * 16 * PITCH;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < DP / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
            *reinterpret_cast<u32 *>(slice + (lane / 4 + 8 * i) * PITCH + (n * 8 + lane % 4 * 2) * 2) =
                pack_bf16(sums[n][2 * i], sums[n][2 * i + 1]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < DP / 16; ++i) {
        const int at = lane + i * 32, row = at / (DP / 8), c = at % (DP / 8) * 8, r = first + warp * 16 + row;
        if (r < to.count && c < width)
            *reinterpret_cast<uint4 *>(to.row(r) + c) = *reinterpret_cast<const uint4 *>(slice + row * PITCH + c * 2);
    }
}

}  // namespace tensor
#else
#include "simt.cuh"

namespace simt {

// Four tiles: 64 x 64 of an operand whose reduction runs over queries or keys.
struct Block {
    Tile part[EDGE / DEPTH];
};

// sums = A B^T over `width` channels: rows a0 .. of `a` against rows b0 .. of `b`.
template <int V, class A, class B>
__device__ __forceinline__ void products(
    Sums &sums, const Rows<A> &a, int a0, const Rows<B> &b, int b0, int width, Tile &at, Tile &bt) {
    const int row = threadIdx.x / 4, k = threadIdx.x % 4 * 4;
    const A *from_a = a.row(a0 + row);
    const B *from_b = b.row(b0 + row);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = 0.f;
    for (int first = 0; first < width; first += DEPTH) {
        float x[4], y[4];
        load4<V>(from_a, first + k, width, x);
        load4<V>(from_b, first + k, width, y);
        __syncthreads();
        put_k(at, k, row, x);
        put_k(bt, k, row, y);
        __syncthreads();
        multiply(at, bt, sums);
    }
}

// This thread's 4x4 weights as an operand whose reduction runs over their columns.
__device__ __forceinline__ void put_transposed(Block &block, const Sums &x) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const float column[4] = {x[0][j], x[1][j], x[2][j], x[3][j]};
        put_m(block.part[first_col() / DEPTH], first_col() % DEPTH + j, first_row(), column);
    }
}

// Channels c0 .. c0 + 63 of rows first .. first + 63, as an operand whose reduction runs over the rows; rows past the
// end are zero.
template <int V, class T>
__device__ __forceinline__ void put_rows(Block &block, const Rows<T> &x, int first, int c0, int width) {
#pragma unroll
    for (int i = 0; i < EDGE / DEPTH; ++i) {
        int k = threadIdx.x / 16, row = first + i * DEPTH + k;
        float y[4];
        load4<V>(x.row(row), c0 + first_col(), row < x.count ? width : 0, y);
        put_m(block.part[i], k, first_col(), y);
    }
}

// sums += A^T B over 64 queries or keys.
__device__ __forceinline__ void multiply(const Block &a, const Block &b, Sums &sums) {
#pragma unroll 1
    for (int i = 0; i < EDGE / DEPTH; ++i) multiply(a.part[i], b.part[i], sums);
}

// Over the 16 threads that share rows.
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int i = 8; i > 0; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
    for (int i = 8; i > 0; i >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

}  // namespace simt
#endif
