// Clipping by the global norm, AdamW with decoupled decay (Loshchilov & Hutter, ICLR 2019) and the moving average of
// the weights, over flat f32 arenas that are aligned to 16 bytes. Rounds as src/device/vector.rs does: the same bits.
//
//   global_norm         part [gridDim.x] (f64): a block's sum of squares. Grid: fixed by `count` and the device.
//   global_norm_finish  out [2]: the norm, and the factor that clips it to `clip` (no clipping if clip < 0; 0 if the
//                       norm is not finite: the update is skipped). One block.
//   adamw_begin         counters [2] (updates made, skipped) and corrections [2] = 1 / (1 - beta1^k),
//                       1 / sqrt(1 - beta2^k). One thread.
//   adamw               w, m, v, average and, with COPY, the bf16 copy of w in the same order. rates [2]: learning
//                       rate, decay of the average; fresh = 1 - beta, rounded once, by the host.
//
// Bytes per weight: 4 for the norm; 36, or 38 with COPY, for the update. Everything that changes from step to step
// lies on the device, so the launches never change.
//
// Macros: COPY = 0 | 1.
#include "sums.cuh"

// Sum of four squares; in f64 where f32 could overflow or lose small ones.
__device__ __forceinline__ double squares(const float (&g)[4]) {
    float sum = fmaf(g[0], g[0], g[1] * g[1]) + fmaf(g[2], g[2], g[3] * g[3]);
    if (sum > 1e-28f && sum < 1e38f) return (double)sum;
    double wide = 0.;
#pragma unroll
    for (int j = 0; j < 4; ++j) wide = fma((double)g[j], (double)g[j], wide);
    return wide;
}

extern "C" __global__ void global_norm(const float *grads, double *part, i64 count) {
    grid_begin();
    __shared__ double shared[32];
    double sum = 0.;
    i64 step = (i64)gridDim.x * blockDim.x * 4;
#pragma unroll 4
    for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < count; i += step) {
        float g[4] = {};
        if (i + 4 <= count) {
            load<4>(grads + i, g);
        } else {
#pragma unroll
            for (int j = 0; j < 3; ++j)
                if (i + j < count) g[j] = grads[i + j];
        }
        sum += squares(g);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

extern "C" __global__ void global_norm_finish(const double *part, int blocks, double clip, float *out) {
    grid_begin();
    __shared__ double shared[32];
    double sum = 0.;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += part[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x > 0) return;
    double norm = sqrt(sum);
    bool finite = norm < __longlong_as_double(0x7ff0000000000000);
    out[0] = (float)norm;
    out[1] = !finite ? 0.f : clip >= 0. && norm > clip ? (float)(clip / norm) : 1.f;
}

// b^k by squaring.
__device__ __forceinline__ double power(double b, u32 k) {
    double p = 1.;
    for (; k > 0; k >>= 1, b *= b)
        if (k & 1) p *= b;
    return p;
}

extern "C" __global__ void adamw_begin(const float *norm, u32 *counters, float *corrections, double beta1,
                                       double beta2) {
    grid_begin();
    if (norm[1] == 0.f) {
        ++counters[1];
        return;
    }
    u32 k = ++counters[0];
    corrections[0] = (float)(1. / (1. - power(beta1, k)));
    corrections[1] = (float)(1. / sqrt(1. - power(beta2, k)));
}

// Products and sums rounded one by one, so that every device agrees with the CPU.
__device__ __forceinline__ float blend(float a, float x, float b, float y) {
    return __fadd_rn(__fmul_rn(a, x), __fmul_rn(b, y));
}

extern "C" __global__ void adamw(const float *grads, const float *norm, const float *rates, const float *corrections,
                                 float *w, float *m, float *v, float *average, bf16 *copy, float beta1, float fresh1,
                                 float beta2, float fresh2, float eps, float decay, i64 count) {
    grid_begin();
    float clip = norm[1];
    if (clip == 0.f) return;
    float lr = rates[0], keep = rates[1], fresh = __fsub_rn(1.f, keep), first = corrections[0], second = corrections[1];
    float shrink = __fsub_rn(1.f, __fmul_rn(lr, decay));
    i64 step = (i64)gridDim.x * blockDim.x * 4;
    for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < count; i += step) {
        float gs[4] = {}, ws[4] = {}, ms[4] = {}, vs[4] = {}, es[4] = {};
        bool whole = i + 4 <= count;
        if (whole) {
            load<4>(grads + i, gs), load<4>(w + i, ws), load<4>(average + i, es);
            load<4>(m + i, ms), load<4>(v + i, vs);
        } else {
#pragma unroll
            for (int j = 0; j < 3; ++j)
                if (i + j < count)
                    gs[j] = grads[i + j], ws[j] = w[i + j], ms[j] = m[i + j], vs[j] = v[i + j], es[j] = average[i + j];
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float g = __fmul_rn(gs[j], clip);
            ms[j] = blend(beta1, ms[j], fresh1, g);
            vs[j] = blend(beta2, vs[j], fresh2, __fmul_rn(g, g));
            float root = __fadd_rn(__fmul_rn(__fsqrt_rn(vs[j]), second), eps);
            float move = __fdiv_rn(__fmul_rn(ms[j], first), root);
            ws[j] = __fsub_rn(__fmul_rn(ws[j], shrink), __fmul_rn(lr, move));
            es[j] = blend(keep, es[j], fresh, ws[j]);
        }
        if (whole) {
            store<4>(w + i, ws), store<4>(m + i, ms), store<4>(v + i, vs), store<4>(average + i, es);
            if constexpr (COPY)
                *reinterpret_cast<uint2 *>(copy + i) = make_uint2(pack_bf16(ws[0], ws[1]), pack_bf16(ws[2], ws[3]));
        } else {
#pragma unroll
            for (int j = 0; j < 3; ++j)
                if (i + j < count) {
                    w[i + j] = ws[j], m[i + j] = ms[j], v[i + j] = vs[j], average[i + j] = es[j];
                    if constexpr (COPY) from_f32(copy + i + j, ws[j]);
                }
        }
    }
}
