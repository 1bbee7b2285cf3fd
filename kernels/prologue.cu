// What a convolution or linear layer does to its input while reading it: act = SiLU(a x + b), a and b per sample and
// channel (norm.cuh). Here: the table of a and b for those ops, and the middle step of the gradient, whose sums and
// application are prologue_backward_sums.cu and prologue_backward.cu.
//
// With u = a x + b, du = dact SiLU'(u), xhat = (x - mu) rho, P = sum du, Q = sum du xhat over a sample's pixels,
// e = gamma (1 + s) and M1, M2 the means of e P, e Q over the group:
//
//   dx = a du - rho^2 M2 (x - mu) - rho M1 + residual gradients
//   ds = gamma Q + beta P,  dt = P,  dgamma = sum_n (1 + s) Q,  dbeta = sum_n (1 + s) P
//
//   prologue_table             ab [n][2][c]: a, then b. Grid: ceil(n c / threads).
//   prologue_backward_finalize part [n][blocks][2][c] (P and Q of blocks of pixels) -> sums [n][2][c] (P, Q),
//                              apply [n][2][c] (-rho M1, -rho^2 M2), ds and dt. A block does `chunk` groups of a
//                              sample. Grid: (n, ceil(groups / chunk)).
//
// Macros: TG storage of gamma and beta, TS of scale, shift and their gradient, SCALE_SHIFT 0 | 1, VN = 1.
#include "norm.cuh"

extern "C" __global__ void prologue_table(View<const float> stats, const TG *gamma, const TG *beta,
                                          View<const TS> scale_shift, int c, int groups, float *ab, int n) {
    grid_begin();
    const Norm norm = {stats, gamma, beta, scale_shift, c, groups};
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    int sample = (int)(i / c), channel = (int)(i - (i64)sample * c);
    if (sample >= n) return;
    float a[1], b[1], mean[1], rstd[1];
    norm.coefficients<1>(sample, channel, a, b, mean, rstd);
    ab += (i64)sample * 2 * c + channel;
    ab[0] = a[0], ab[c] = b[0];
}

extern "C" __global__ void prologue_backward_finalize(View<const float> stats, const TG *gamma, const TG *beta,
                                                      View<const TS> scale_shift, int c, int groups,
                                                      const float *part, float *sums, float *apply,
                                                      View<TS> dscale_shift, int rows, int blocks, int chunk) {
    grid_begin();
    const Norm norm = {stats, gamma, beta, scale_shift, c, groups};
    int n = blockIdx.x, width = c / groups;
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
    int lane = threadIdx.x % 32;
    float share = 1.f / ((float)rows * (float)width);
    for (int g = threadIdx.x / 32; g * width < count; g += blockDim.x / 32) {
        int start = first + g * width, group = start / width;
        float m1 = 0.f, m2 = 0.f;
        for (int i = start + lane; i < start + width; i += 32) {
            float e = to_f32(gamma[i]) * norm.scale(n, i);
            m1 = fmaf(e, sums[i], m1), m2 = fmaf(e, sums[c + i], m2);
        }
        float rstd = stats.row(n, 0)[groups + group];
        m1 = -rstd * (warp_sum(m1) * share), m2 = -rstd * rstd * (warp_sum(m2) * share);
        for (int i = start + lane; i < start + width; i += 32) apply[i] = m1, apply[c + i] = m2;
    }
    if constexpr (SCALE_SHIFT)
        for (int i = first + threadIdx.x; i < first + count; i += blockDim.x) {
            TS *row = dscale_shift.row(n, 0);
            from_f32(row + i, fmaf(to_f32(gamma[i]), sums[c + i], to_f32(beta[i]) * sums[i]));
            from_f32(row + c + i, sums[i]);
        }
}
