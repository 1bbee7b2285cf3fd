// The forward process: eps drawn by Philox, x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps.
//
// x0: View<TX0>, xt: View<TX>, eps: View<TE>, all [n, rows, c]; t - 1 [n] (u32), coefficients
// [T] (sqrt(ab), sqrt(1 - ab)), seed [2], index [n][2]. Element r c + channel of eps is normal number that of
// the sample's noise stream, so that block m of four normals is elements 4m..4m+3, whatever row they are in.
//
// A thread makes VXX elements (VX = 1: one block of four, one by one); VX = 4, 8 need 4 or 8 neighbours in one
// run of memory in all three tensors: VX divides c, or all are dense and VX divides rows c.
// Grid: (ceil(rows c / max(VX, 4) / threads), min(n, 65535)). Reads x_0, writes x_t and eps once; about 110
// operations per block, of them 40 integer multiplications of Philox.
//
// Macros: TX0, TX, TE, VX = 1, 4, 8.
#include "philox.cuh"

constexpr int COUNT = VX == 8 ? 8 : 4;

__device__ __forceinline__ void draw(const Philox &philox, int e, float (&normals)[COUNT]) {
#pragma unroll
    for (int b = 0; b < COUNT / 4; ++b) {
        float four[4];
        normals4(philox.block(e / 4 + b), four);
#pragma unroll
        for (int j = 0; j < 4; ++j) normals[4 * b + j] = four[j];
    }
}

extern "C" __global__ void q_sample(View<const TX0> x0, const u32 *t, const float2 *coefficients, View<TX> xt,
                                    View<TE> eps, const u32 *seed, const u32 *index, int n, int rows, int c) {
    grid_begin();
    int e = (blockIdx.x * blockDim.x + threadIdx.x) * COUNT;
    if (e >= rows * c) return;
    for (int i = blockIdx.y; i < n; i += gridDim.y) {
        float2 k = coefficients[t[i]];
        float noise[COUNT];
        draw(Philox(seed, NOISE, index + 2 * (i64)i), e, noise);
        int r = e / c, channel = e - r * c;
        if constexpr (VX > 1) {
            float x[COUNT];
            load<COUNT>(x0.row(i, r) + channel, x);
#pragma unroll
            for (int j = 0; j < COUNT; ++j) x[j] = k.x * x[j] + k.y * noise[j];
            store<COUNT>(xt.row(i, r) + channel, x);
            store<COUNT>(eps.row(i, r) + channel, noise);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (e + j >= rows * c) break;
                from_f32(xt.row(i, r) + channel, k.x * to_f32(x0.row(i, r)[channel]) + k.y * noise[j]);
                from_f32(eps.row(i, r) + channel, noise[j]);
                if (++channel == c) channel = 0, ++r;
            }
        }
    }
}
