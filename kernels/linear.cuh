// What the kernels of a linear layer share: rows of all samples as one list, and the prologue.
#pragma once
#include "common.cuh"

// Row m of a list of rows of which each sample has `per_sample`, near a row whose place is known: no division unless
// it lies in another sample.
struct Place {
    int n, r, per_sample;

    __device__ __forceinline__ Place(int m, int per_sample)
        : n(m / per_sample), r(m % per_sample), per_sample(per_sample) {}
    __device__ __forceinline__ Place operator+(int rows) const {
        Place at = *this;
        at.r += rows;
        if (at.r >= per_sample) {
            at.n += at.r / per_sample;
            at.r %= per_sample;
        }
        return at;
    }
    template <class T>
    __device__ __forceinline__ T *in(const View<T> &x) const { return x.row(n, r); }
};

// act = SiLU(a x + b), each part optional.
template <bool WITH_NORM, bool WITH_SILU, int V>
__device__ __forceinline__ void apply(float (&x)[V], const float (&a)[V], const float (&b)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
        if constexpr (WITH_NORM) x[i] = fmaf(a[i], x[i], b[i]);
        if constexpr (WITH_SILU) x[i] = silu(x[i]);
    }
}

// The same of V neighbours from channel c on of sample n; the table ab is [n][2][cols], a then b.
template <bool WITH_NORM, bool WITH_SILU, int V>
__device__ __forceinline__ void activate(float (&x)[V], const float *ab, int n, int c, int cols) {
    float a[V] = {}, b[V] = {};
    if constexpr (WITH_NORM) {
        const float *from = ab + (i64)n * 2 * cols + c;
#pragma unroll
        for (int i = 0; i < V; ++i)
            if (c + i < cols) a[i] = from[i], b[i] = from[cols + i];
    }
    apply<WITH_NORM, WITH_SILU>(x, a, b);
}
