// What the convolution kernels share: the activation of an input on its way in.
//
// NORM: u = a x + b with a table ab, float [n][2][C] (a, then b, of every sample and channel). SILU: SiLU(u).
#pragma once
#include "common.cuh"

#ifndef NORM
#define NORM 0
#endif
#ifndef SILU
#define SILU 0
#endif
#ifndef UPSAMPLE
#define UPSAMPLE 0
#endif

// x = act(x), V neighbouring channels; `a` points at the first one's a, its b lies `channels` further on.
template <int V>
__device__ __forceinline__ void activate(float (&x)[V], const float *a, int channels) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
#if NORM
        x[i] = fmaf(a[i], x[i], a[channels + i]);
#endif
#if SILU
        x[i] = silu(x[i]);
#endif
    }
}
