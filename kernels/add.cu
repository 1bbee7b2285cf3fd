// Sum of one to five tensors, each possibly resampled (resample.cuh): y = p0 + p1 + ...
//
// p_i: View<T_i>, y: View<TY> [n, rows, c] with rows of width w. A thread makes VX channels of a row.
// Grid: (ceil(rows c / VX / threads), min(n, 65535)). Reads each summand and writes y once.
//
// Macros: COUNT = 1..5, T0..T4 storage and R0..R4 resampling of the summands (0, 1 of a pool, 2 of an upsampling),
// TY, VX = 1, 2, 4, 8: neighbours that all tensors allow.
#include "resample.cuh"

extern "C" __global__ void add(View<const T0> p0, View<const T1> p1, View<const T2> p2, View<const T3> p3,
                               View<const T4> p4, View<TY> y, int n, int rows, int w, int c) {
    grid_begin();
    int vectors = c / VX, i = blockIdx.x * blockDim.x + threadIdx.x;
    int r = i / vectors, channel = (i - r * vectors) * VX;
    if (r >= rows) return;
    for (int sample = blockIdx.y; sample < n; sample += gridDim.y) {
        float parts[COUNT][VX];
        gather<VX, R0>(p0, sample, r, w, channel, parts[0]);
        if constexpr (COUNT > 1) gather<VX, R1>(p1, sample, r, w, channel, parts[1]);
        if constexpr (COUNT > 2) gather<VX, R2>(p2, sample, r, w, channel, parts[2]);
        if constexpr (COUNT > 3) gather<VX, R3>(p3, sample, r, w, channel, parts[3]);
        if constexpr (COUNT > 4) gather<VX, R4>(p4, sample, r, w, channel, parts[4]);
        float sum[VX];
#pragma unroll
        for (int v = 0; v < VX; ++v) {
            sum[v] = parts[0][v];
#pragma unroll
            for (int k = 1; k < COUNT; ++k) sum[v] += parts[k][v];
        }
        store<VX>(y.row(sample, r) + channel, sum);
    }
}
