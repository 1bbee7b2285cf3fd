// Norm + SiLU + 2x2 mean, with the 2x2 mean of the raw input: the entry of a residual block that halves. And the
// plain norm + activation, for convolutions that cannot do it on their way in too (UPSAMPLE: doubled, for them).
//
// x: View<TX> [n, h, w, c]; norm_pool: y: View<TY>, raw: View<TR> [n, h / 2, w / 2, c]; norm_act: y like x, or
// [n, 2 h, 2 w, c]. Coefficients: norm.cuh. Grid: columns.cuh, with the rows of y (of norm_act: of x). Reads x once,
// writes its outputs once.
//
// Macros: TX, TY, TR (raw), TG, TS, VN, SCALE_SHIFT, SILU, UPSAMPLE = 0 | 1, VX = 1, 2, 4, 8.
#include "columns.cuh"
#include "norm.cuh"

#ifndef UPSAMPLE
#define UPSAMPLE 0
#endif

__device__ __forceinline__ float activate(float a, float x, float b) {
    float u = fmaf(a, x, b);
    return SILU ? silu(u) : u;
}

extern "C" __global__ void norm_act(View<const TX> x, View<const float> stats, const TG *gamma, const TG *beta,
                                    View<const TS> scale_shift, int c, int groups, View<TY> y, int rows, int w,
                                    int lanes, int blocks, int span) {
    grid_begin();
    const Norm norm = {stats, gamma, beta, scale_shift, c, groups};
    Columns at(rows, c, lanes, blocks, span);
    if (!at.inside) return;
    float a[VX], b[VX], mean[VX], rstd[VX];
    norm.coefficients<VX>(at.n, at.channel, a, b, mean, rstd);
#pragma unroll 4
    for (int r = at.first + at.y; r < at.end; r += at.height) {
        float values[VX];
        load<VX>(x.row(at.n, r) + at.channel, values);
#pragma unroll
        for (int v = 0; v < VX; ++v) values[v] = activate(a[v], values[v], b[v]);
        int top = UPSAMPLE ? r / w * 4 * w + r % w * 2 : r;
        store<VX>(y.row(at.n, top) + at.channel, values);
        if constexpr (UPSAMPLE) {
            store<VX>(y.row(at.n, top + 1) + at.channel, values);
            store<VX>(y.row(at.n, top + 2 * w) + at.channel, values);
            store<VX>(y.row(at.n, top + 2 * w + 1) + at.channel, values);
        }
    }
}

extern "C" __global__ void norm_pool(View<const TX> x, View<const float> stats, const TG *gamma, const TG *beta,
                                     View<const TS> scale_shift, int c, int groups, View<TY> y, View<TR> raw, int rows,
                                     int w, int lanes, int blocks, int span) {
    grid_begin();
    const Norm norm = {stats, gamma, beta, scale_shift, c, groups};
    Columns at(rows, c, lanes, blocks, span);
    if (!at.inside) return;
    float a[VX], b[VX], mean[VX], rstd[VX];
    norm.coefficients<VX>(at.n, at.channel, a, b, mean, rstd);
    for (int r = at.first + at.y; r < at.end; r += at.height) {
        int p = r / (w / 2), top = 2 * p * w + 2 * (r - p * (w / 2));
        float pixels[4][VX], act[VX] = {}, plain[VX] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) load<VX>(x.row(at.n, top + i / 2 * w + i % 2) + at.channel, pixels[i]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int v = 0; v < VX; ++v) {
                act[v] = fmaf(0.25f, activate(a[v], pixels[i][v], b[v]), act[v]);
                plain[v] = fmaf(0.25f, pixels[i][v], plain[v]);
            }
        store<VX>(y.row(at.n, r) + at.channel, act);
        store<VX>(raw.row(at.n, r) + at.channel, plain);
    }
}
