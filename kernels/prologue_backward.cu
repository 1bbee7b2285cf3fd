// Last step of a prologue's gradient (prologue.cu has the formulas): dx, and dgamma, dbeta over the samples.
//
// x, dx [n, rows, c]; dact and up to four residual gradients of that shape, half or double the size (resample.cuh);
// apply and sums from prologue_backward_finalize (null without NORM). Grid: (n blocks + ceil(2 c / 32) if NORM, as in
// columns.cuh), 256 threads: blocks past n blocks in x (those of y = 0 alone) each add up 32 columns of dgamma, then
// dbeta. Reads dact, x and the residuals once, writes dx once.
//
// Macros: TX, TD, TO storage of x, dact, dx; RD resampling of dact (0, 1 of a pool, 2 of an upsampling); RESIDUALS
// 0..4, T0..T3 and R0..R3 their storage and resampling; NORM, SILU, SCALE_SHIFT 0 | 1; TG, TS, VN as in norm.cuh;
// ADD_GAMMA, ADD_BETA 0 | 1: add to what is there; VX = 1, 2, 4, 8: neighbours that all tensors allow.
#include "prologue.cuh"

// 32 columns of dgamma (from Q), then dbeta (from P): thread rows take every eighth sample.
__device__ __forceinline__ void sum_samples(const float *sums, const Norm &norm, float *dgamma, float *dbeta, int n,
                                            int first) {
    __shared__ float shared[8][32];
    int y = threadIdx.x / 32, column = first + threadIdx.x % 32, c = norm.c;
    bool gamma = column < c;
    int channel = gamma ? column : column - c;
    float sum = 0.f;
    if (channel < c)
        for (int i = y; i < n; i += 8)
            sum = fmaf(norm.scale(i, channel), sums[(i64)i * 2 * c + (gamma ? c : 0) + channel], sum);
    shared[y][threadIdx.x % 32] = sum;
    __syncthreads();
    if (y > 0 || channel >= c) return;
#pragma unroll
    for (int i = 1; i < 8; ++i) sum += shared[i][threadIdx.x];
    float *to = gamma ? dgamma + channel : dbeta + channel;
    *to = (gamma ? ADD_GAMMA : ADD_BETA) ? *to + sum : sum;
}

extern "C" __global__ void prologue_backward(
    View<const TD> dact, View<const TX> x, View<const float> stats, const TG *gamma, const TG *beta,
    View<const TS> scale_shift, int c, int groups, const float *apply, const float *sums, View<const T0> r0,
    View<const T1> r1, View<const T2> r2, View<const T3> r3, View<TO> dx, float *dgamma, float *dbeta, int n, int rows,
    int w, int lanes, int blocks, int span) {
    grid_begin();
    const Norm norm = {stats, gamma, beta, scale_shift, c, groups};
    if (NORM && blockIdx.x >= n * blocks) {
        if (blockIdx.y == 0) sum_samples(sums, norm, dgamma, dbeta, n, (blockIdx.x - n * blocks) * 32);
        return;
    }
    Columns at(rows, c, lanes, blocks, span);
    if (!at.inside) return;
    float a[VX], b[VX], mean[VX], rstd[VX], m1[VX], m2[VX];
    if constexpr (NORM) {
        norm.coefficients<VX>(at.n, at.channel, a, b, mean, rstd);
        apply += (i64)at.n * 2 * c + at.channel;
        load<VX>(apply, m1), load<VX>(apply + c, m2);
    }
    for (int r = at.first + at.y; r < at.end; r += at.height) {
        float d[VX], values[VX], more[RESIDUALS > 0 ? RESIDUALS : 1][VX];
        gather<VX, RD>(dact, at.n, r, w, at.channel, d);
        load<VX>(x.row(at.n, r) + at.channel, values);
        if constexpr (RESIDUALS > 0) gather<VX, R0>(r0, at.n, r, w, at.channel, more[0]);
        if constexpr (RESIDUALS > 1) gather<VX, R1>(r1, at.n, r, w, at.channel, more[1]);
        if constexpr (RESIDUALS > 2) gather<VX, R2>(r2, at.n, r, w, at.channel, more[2]);
        if constexpr (RESIDUALS > 3) gather<VX, R3>(r3, at.n, r, w, at.channel, more[3]);
        pre_activation(d, values, a, b);
#pragma unroll
        for (int v = 0; v < VX; ++v) {
            if constexpr (NORM) d[v] = fmaf(a[v], d[v], fmaf(m2[v], values[v] - mean[v], m1[v]));
#pragma unroll
            for (int i = 0; i < RESIDUALS; ++i) d[v] += more[i][v];
        }
        store<VX>(dx.row(at.n, r) + at.channel, d);
    }
}
