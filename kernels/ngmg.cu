// The negative Gaussian mixture gradient of a batch of weights: g_j = kappa_j sum_i m_ji min(c_i - t_i, 0)
// (paper Eq. 11, 13).
//
//   ngmg       on a uniform grid, where m_ji = m_|j-i|.
//   ngmg_rows  anywhere.
//
// ngmg. current: View<TC>, target: View<TT>, out: View<TO> [b, 1, n]; taps [radius + 1]: m_0..m_R; scales: one kappa, or one
// for each row (per_row), f64. A block makes 4 threads outputs of a sample (32 to 256 threads). Grid: (ceil(n / 4 /
// threads), min(b, 65535)). Shared: window.cuh. O(n nonzero) where few deficits are not zero, else (2 R + 1) n FMA per
// sample; error relative to kappa sum m |L|: see window_sum, and 2^-23 of taps and deficits.
//
// ngmg_rows. current, target, out as above; entries: all rows' m_ji, one row behind the other; rows [n + 1][2]: a row's
// first column, and where its entries start; scales: one for each row, f64. A warp makes row j of SAMPLES samples at once, so that an
// entry is read once for all of them. Grid: (ceil(n / (THREADS / 32)), min(ceil(b / SAMPLES), 65535)). A FMA, and
// 4 + 8 / SAMPLES bytes, per entry and sample; deficits come from L1 and L2. A lane adds 16 terms, then such sums, then
// the warp's lanes: the error is below (22 + n / 512) 2^-24 of kappa sum m |L|.
//
// Macros: TC, TT, TO, THREADS, SAMPLES.
#include "window.cuh"

extern "C" __global__ void ngmg(View<const TC> current, View<const TT> target, const float *taps, const double *scales,
                                View<TO> out, int per_row, int radius, int b, int n) {
    grid_begin();
    __shared__ __align__(16) float shared[window_floats(4 * THREADS)];
    int first = blockIdx.x * 4 * THREADS;
    for (int sample = blockIdx.y; sample < b; sample += gridDim.y) {
        const TC *c = current.row(sample, 0);
        const TT *t = target.row(sample, 0);
        float sums[4] = {};
        auto deficit = [=](int i) { return fminf(to_f32(c[i]) - to_f32(t[i]), 0.f); };
        window_sum(taps, radius, n, first, deficit, sums, shared);
        TO *row = out.row(sample, 0);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (int j = first + 4 * threadIdx.x + i; j < n)
                from_f32(row + j, (float)(scales[per_row ? j : 0] * (double)sums[i]));
    }
}

extern "C" __global__ void ngmg_rows(View<const TC> current, View<const TT> target, const float *entries,
                                     const u32 *rows, const double *scales, View<TO> out, int b, int n) {
    grid_begin();
    const int lane = threadIdx.x & 31, j = blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5);
    if (j >= n) return;
    const int first = rows[2 * j], length = rows[2 * j + 3] - rows[2 * j + 1];
    const float *row = entries + rows[2 * j + 1];
    for (int sample = blockIdx.y * SAMPLES; sample < b; sample += gridDim.y * SAMPLES) {
        float sums[SAMPLES] = {}, few[SAMPLES] = {};
        for (int i = lane, k = 1; i < length; i += 32, ++k) {
            const float m = row[i];
#pragma unroll
            for (int s = 0; s < SAMPLES; ++s) {
                // A sample that is not there counts as the last.
                int at = min(sample + s, b - 1);
                float c = to_f32(current.row(at, 0)[first + i]), t = to_f32(target.row(at, 0)[first + i]);
                few[s] = fmaf(m, fminf(c - t, 0.f), few[s]);
                if (k % 16 == 0) sums[s] += few[s], few[s] = 0.f;
            }
        }
        const double scale = scales[j];
#pragma unroll
        for (int s = 0; s < SAMPLES; ++s) {
            float sum = warp_sum(sums[s] + few[s]);
            if (lane == 0 && sample + s < b) from_f32(out.row(sample + s, 0) + j, (float)(scale * (double)sum));
        }
    }
}
