// The negative Gaussian mixture gradient of a batch of weights: g_j = kappa_j sum_i m_|j-i| min(c_i - t_i, 0)
// (paper Eq. 11, 13), on the grid mu_j = j.
//
// current: View<TC>, target: View<TT>, out: View<TO> [b, 1, n]; taps [radius + 1]: m_0..m_R; scales: one kappa, or one
// for each row (per_row), f64. A block makes 4 threads outputs of a sample (32 to 256 threads). Grid: (ceil(n / 4 /
// threads), min(b, 65535)). Shared: window.cuh. O(n nonzero) where few deficits are not zero, else (2 R + 1) n FMA per
// sample; error relative to kappa sum m |L|: see window_sum, and 2^-23 of taps and deficits.
//
// Macros: TC, TT, TO, THREADS.
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
