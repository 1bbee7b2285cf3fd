// What the forward and the backward kernel of attention share in f32: 64x64 blocks of scores, any head width.
#pragma once
#include "simt.cuh"

constexpr float LOG2E = 1.4426950409f, LN2 = 0.6931471806f;

__device__ __forceinline__ float infinite() { return __int_as_float(0x7f800000); }

namespace simt {

// Four tiles: 64 x 64 of an operand whose reduction runs over queries or keys.
struct Block {
    Tile part[EDGE / DEPTH];
};

// Rows of one head of one sample.
template <class T>
struct Rows {
    T *p;
    int ld, count;

    __device__ __forceinline__ Rows(const View<T> &x, int n, int head, int width, int count)
        : p(x.row(n, 0) + head * width), ld(x.ld), count(count) {}
    __device__ __forceinline__ T *row(int r) const { return p + (i64)min(r, count - 1) * ld; }
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
