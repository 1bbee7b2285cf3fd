// Sinusoidal embedding of the time step: cos and sin of t freq_j.
//
// t [n] (u32), frequencies [half] (computed by the host as the CPU op does), out: View<TX> [n, 1, dim]:
// `half` cosines then sines (or sines then cosines), an odd dim ends in a zero. The argument is the f32
// product, as diffusers rounds it; its sine is then taken in f64, which costs nothing at n dim values and is right
// for every u32 t. Grid: (ceil((half + 1) / threads), min(n, 65535)).
//
// Macros: TX, COS_FIRST = 0 | 1.
#include "common.cuh"

// sin and cos of x, |x| < 2^33: pi / 2 in two parts, then Taylor series on |r| <= pi / 4 (below 1e-16).
__device__ __forceinline__ void sincos_f64(double x, double &sin, double &cos) {
    double turns = rint(x * 0.63661977236758134308);
    double r = fma(-turns, 1.5707963267948965580, x);
    r = fma(-turns, 6.1232339957367658e-17, r);
    double s = r * r;
    double p = -1. / 1307674368000., q = 1. / 20922789888000.;
    p = fma(p, s, 1. / 6227020800.), q = fma(q, s, -1. / 87178291200.);
    p = fma(p, s, -1. / 39916800.), q = fma(q, s, 1. / 479001600.);
    p = fma(p, s, 1. / 362880.), q = fma(q, s, -1. / 3628800.);
    p = fma(p, s, -1. / 5040.), q = fma(q, s, 1. / 40320.);
    p = fma(p, s, 1. / 120.), q = fma(q, s, -1. / 720.);
    p = fma(p, s, -1. / 6.), q = fma(q, s, 1. / 24.);
    p = fma(p * s, r, r), q = fma(fma(q, s, -0.5), s, 1.);
    i64 i = (i64)turns;
    double odd_sin = i & 1 ? q : p, odd_cos = i & 1 ? -p : q;
    sin = i & 2 ? -odd_sin : odd_sin;
    cos = i & 2 ? -odd_cos : odd_cos;
}

extern "C" __global__ void time_embedding(const u32 *t, const float *frequencies, View<TX> out, int n, int dim) {
    grid_begin();
    int j = blockIdx.x * blockDim.x + threadIdx.x, half = dim / 2;
    for (int i = blockIdx.y; i < n; i += gridDim.y) {
        TX *row = out.row(i, 0);
        if (j < half) {
            double sin, cos;
            sincos_f64((double)((float)t[i] * frequencies[j]), sin, cos);
            from_f32(row + j, (float)(COS_FIRST ? cos : sin));
            from_f32(row + half + j, (float)(COS_FIRST ? sin : cos));
        } else if (j == half && dim % 2 == 1) {
            from_f32(row + dim - 1, 0.f);
        }
    }
}
