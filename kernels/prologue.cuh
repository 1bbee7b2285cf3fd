// What both passes of a prologue's gradient share.
#pragma once
#include "columns.cuh"
#include "norm.cuh"
#include "resample.cuh"

// du of one row: d holds dact, x the stored input.
__device__ __forceinline__ void pre_activation(float (&d)[VX], const float (&x)[VX], const float (&a)[VX],
                                               const float (&b)[VX]) {
#pragma unroll
    for (int v = 0; v < VX; ++v)
        if constexpr (SILU) d[v] *= silu_slope(NORM ? fmaf(a[v], x[v], b[v]) : x[v]);
}
