// What a convolution or linear layer does to its input while reading it: its coefficients, and its gradient.
//
// act = SiLU(a x + b), a and b per sample and channel (norm.cuh). With u = a x + b, du = dact SiLU'(u),
// xhat = (x - mu) rho, P = sum du, Q = sum du xhat over a sample's pixels, e = gamma (1 + s) and M1, M2 the means
// of e P, e Q over the group:
//
//   dx = a du - rho^2 M2 (x - mu) - rho M1 + residual gradients
//   ds = gamma Q + beta P,  dt = P,  dgamma = sum_n (1 + s) Q,  dbeta = sum_n (1 + s) P
//
// x, dx [n, rows, c]; dact and up to four residual gradients of that shape, half or double the size (resample.cuh).
//
//   prologue_table             ab [n][2][c]: a, then b. Grid: ceil(n c / threads).
//   prologue_backward_sums     part [n][blocks][2][c]: P and Q of a block's pixels. Grid: columns.cuh. Shared:
//                              2 VX (threads / lanes + 1) lanes floats.
//   prologue_backward_finalize sums [n][2][c] (P, Q), apply [n][2][c] (-rho M1, -rho^2 M2), ds and dt. A block does
//                              `chunk` groups of a sample. Grid: (n, ceil(groups / chunk)).
//   prologue_backward          dx; blocks past n blocks in x (those of y = 0 alone) each add up 32 columns of dgamma,
//                              dbeta over the samples. Grid: (n blocks + ceil(2 c / 32), as in columns.cuh), 256 threads.
//
// Bytes: dact and x twice, residuals and dx once. SiLU' costs two special-function operations, twice.
// Sums: a thread's rows, then threads, blocks of pixels and samples in order.
//
// Macros: TX, TD, TO storage of x, dact, dx; T0..T3 and R0..R3 storage and resampling of the residuals, RD that of dact
// (0, 1 of a pool, 2 of an upsampling); RESIDUALS 0..4; NORM, SILU, SCALE_SHIFT 0 | 1; TG of gamma and beta; VN; TS of
// scale, shift and their gradient; BACKWARD 0 leaves the table alone; ADD_GAMMA, ADD_BETA 0 | 1; VX = 1, 2, 4, 8: neighbours that all tensors allow.
#include "columns.cuh"
#include "norm.cuh"
#include "resample.cuh"

extern "C" __global__ void prologue_table(Norm norm, float *ab, int n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    int sample = (int)(i / norm.c), channel = (int)(i - (i64)sample * norm.c);
    if (sample >= n) return;
    float a[1], b[1], mean[1], rstd[1];
    norm.coefficients<1>(sample, channel, a, b, mean, rstd);
    ab += (i64)sample * 2 * norm.c + channel;
    ab[0] = a[0], ab[norm.c] = b[0];
}

#if BACKWARD
// Rows in flight per thread, as registers allow.
constexpr int ROWS = RD == OF_UPSAMPLE ? 1 : VX == 8 ? 2 : 4;

// du of one row: d holds dact, x the stored input.
__device__ __forceinline__ void pre_activation(float (&d)[VX], const float (&x)[VX], const float (&a)[VX],
                                               const float (&b)[VX]) {
#pragma unroll
    for (int v = 0; v < VX; ++v)
        if constexpr (SILU) d[v] *= silu_slope(NORM ? fmaf(a[v], x[v], b[v]) : x[v]);
}

extern "C" __global__ void __launch_bounds__(256, 2) prologue_backward_sums(View<const TD> dact, View<const TX> x, Norm norm, float *part,
                                                  int rows, int w, int lanes, int blocks, int span) {
    extern __shared__ float shared[];
    Columns at(rows, norm.c, lanes, blocks, span);
    float p[VX] = {}, q[VX] = {};
    if (at.inside) {
        float a[VX], b[VX], mean[VX], rstd[VX];
        norm.coefficients<VX>(at.n, at.channel, a, b, mean, rstd);
        for (int r = at.first + at.y; r < at.end; r += ROWS * at.height) {
            float d[ROWS][VX], values[ROWS][VX];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (r + i * at.height >= at.end) break;
                gather<VX, RD>(dact, at.n, r + i * at.height, w, at.channel, d[i]);
                load<VX>(x.row(at.n, r + i * at.height) + at.channel, values[i]);
            }
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (r + i * at.height >= at.end) break;
                pre_activation(d[i], values[i], a, b);
#pragma unroll
                for (int v = 0; v < VX; ++v) {
                    p[v] += d[i][v];
                    q[v] = fmaf(d[i][v], (values[i][v] - mean[v]) * rstd[v], q[v]);
                }
            }
        }
#pragma unroll
        for (int v = 0; v < VX; ++v) {
            shared[at.at(v, at.y, at.x)] = p[v];
            shared[at.shared_floats() + at.at(v, at.y, at.x)] = q[v];
        }
    }
    __syncthreads();
    part += (i64)blockIdx.x * 2 * norm.c;
    int first = blockIdx.y * lanes * VX, channels = min(lanes * VX, norm.c - first);
    for (int t = threadIdx.x; t < 2 * lanes * VX; t += blockDim.x) {
        int which = t / (lanes * VX), v = t / lanes - which * VX, lane = t % lanes;
        if (lane * VX + v >= channels) continue;
        float sum = 0.f;
        for (int y = 0; y < at.height; ++y) sum += shared[which * at.shared_floats() + at.at(v, y, lane)];
        part[which * norm.c + first + lane * VX + v] = sum;
    }
}

extern "C" __global__ void prologue_backward_finalize(const float *part, Norm norm, float *sums, float *apply,
                                                      View<TS> dscale_shift, int rows, int blocks, int chunk) {
    int n = blockIdx.x, c = norm.c, width = c / norm.groups;
    int first = blockIdx.y * chunk * width, count = min(chunk * width, c - first);
    part += (i64)n * blocks * 2 * c, sums += (i64)n * 2 * c, apply += (i64)n * 2 * c;
    for (int t = threadIdx.x; t < 2 * count; t += blockDim.x) {
        int column = t < count ? first + t : c + first + t - count;
        float sum = 0.f;
#pragma unroll 4
        for (int block = 0; block < blocks; ++block) sum += part[(i64)block * 2 * c + column];
        sums[column] = sum;
    }
    __syncthreads();
    const float *stats = norm.stats.row(n, 0);
    int lane = threadIdx.x % 32;
    float share = 1.f / ((float)rows * (float)width);
    for (int g = threadIdx.x / 32; g * width < count; g += blockDim.x / 32) {
        int start = first + g * width, group = start / width;
        float m1 = 0.f, m2 = 0.f;
        for (int i = start + lane; i < start + width; i += 32) {
            float e = to_f32(norm.gamma[i]) * norm.scale(n, i);
            m1 = fmaf(e, sums[i], m1), m2 = fmaf(e, sums[c + i], m2);
        }
        float rstd = stats[norm.groups + group];
        m1 = -rstd * (warp_sum(m1) * share), m2 = -rstd * rstd * (warp_sum(m2) * share);
        for (int i = start + lane; i < start + width; i += 32) apply[i] = m1, apply[c + i] = m2;
    }
    if constexpr (SCALE_SHIFT)
        for (int i = first + threadIdx.x; i < first + count; i += blockDim.x) {
            TS *row = dscale_shift.row(n, 0);
            from_f32(row + i, fmaf(to_f32(norm.gamma[i]), sums[c + i], to_f32(norm.beta[i]) * sums[i]));
            from_f32(row + c + i, sums[i]);
        }
}

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

extern "C" __global__ void prologue_backward(View<const TD> dact, View<const TX> x, Norm norm, const float *apply,
                                             const float *sums, View<const T0> r0, View<const T1> r1,
                                             View<const T2> r2, View<const T3> r3, View<TO> dx, float *dgamma,
                                             float *dbeta, int n, int rows, int w, int lanes, int blocks, int span) {
    if (NORM && blockIdx.x >= n * blocks) {
        if (blockIdx.y == 0) sum_samples(sums, norm, dgamma, dbeta, n, (blockIdx.x - n * blocks) * 32);
        return;
    }
    Columns at(rows, norm.c, lanes, blocks, span);
    if (!at.inside) return;
    float a[VX], b[VX], mean[VX], rstd[VX], m1[VX], m2[VX];
    if constexpr (NORM) {
        norm.coefficients<VX>(at.n, at.channel, a, b, mean, rstd);
        apply += (i64)at.n * 2 * norm.c + at.channel;
        load<VX>(apply, m1), load<VX>(apply + norm.c, m2);
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
#endif
