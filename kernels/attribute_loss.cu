// Losses of K attributes' logits with their gradients (paper Eq. 16-18, repaired; the formulas stand in
// src/gmm/entropy.rs): p = sigmoid(z), q = 1 - p, e = y q - (1 - y) p, u = M max(e, 0), v = M max(-e, 0), or u = M |e|
// (gated). The factors made of u and v are constants: no gradient flows through them.
//
// logits: View<TZ> [n, 1, k], attributes: View<u8> [n, 1, k] (0 or 1), grad: View<TD> [n, 1, k]; M: taps [radius + 1]
// and scales (f64; one, or one for each row), window.cuh. A block makes 4 THREADS attributes of a sample.
//
//   attribute_loss          grad, and part [n][tiles] (f64): the loss's sum over a block. Grid: (tiles, min(n, 65535)).
//   attribute_softmax_rows  rows [n][3]: the largest logit, ln of the sum of e^(z - that), 1 / max(sum y, 1).
//                           Grid: min(n, 65535).
//   attribute_softmax       weight [n][k] = M (t - softmax)^+ or t, and totals, part [n][tiles] as in attribute_loss.
//   attribute_softmax_grad  grad = scale (softmax sum weight - weight). Grid as attribute_loss.
//   attribute_loss_finish   samples: View<float> [n, 1, 1] = weight / k part; loss [1], their mean. One block.
//
// The neighbours' e and the sums u, v are f32 (window.cuh has the error), all else is f64: 4 THREADS attributes cost
// some 100 f64 operations each. Per attribute 2 R + 1 FMA (4 R + 2 with u and v apart), and e once per WINDOW_SPAN of
// distances and 4 THREADS outputs.
//
// Macros: TZ, TD, THREADS, VARIANT = 0 gated, 1 bce, 2 split, 3 two_sided, 4 literal, 5 softmax, 6 softmax_ce;
// WINDOW = 0 | 1: M is there.
#include "sums.cuh"
#include "window.cuh"

enum Variant { GATED, BCE, SPLIT, TWO_SIDED, LITERAL, SOFTMAX, SOFTMAX_CE };

// M of the grid.
struct Matrix {
    const float *taps;
    const double *scales;
    int radius, per_row;
};

#if VARIANT < 5  // not of a softmax
// e of a logit and its label, for the neighbours.
__device__ __forceinline__ float residual(float z, float y) {
    float e = expf(-fabsf(z)), large = 1.f / (1.f + e), small = e * large;
    return y * (z >= 0.f ? small : large) - (1.f - y) * (z >= 0.f ? large : small);
}

// Four neighbouring elements of M f(e).
template <class F>
__device__ __forceinline__ void product(const Matrix &m, const TZ *z, const u8 *y, int k, int first, const F &f,
                                        double (&out)[4], float *shared) {
    float sums[4] = {};
    auto value = [=](int i) { return f(residual(to_f32(z[i]), (float)y[i])); };
    window_sum(m.taps, m.radius, k, first, value, sums, shared);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (int j = first + 4 * threadIdx.x + i; j < k) out[i] = m.scales[m.per_row ? j : 0] * (double)sums[i];
}

// Loss and slope of one attribute, of its factors u and v.
__device__ __forceinline__ double2 term(double z, double y, double u, double v, double floor, double gain) {
    double e = exp(-fabs(z)), large = 1. / (1. + e), small = e * large, l = log1p(e);
    double p = z >= 0. ? large : small, q = z >= 0. ? small : large;
    double above = fmax(z, 0.) + l, below = fmax(-z, 0.) + l;
    if constexpr (VARIANT == SPLIT || VARIANT == TWO_SIDED) {
        double pull = VARIANT == SPLIT ? (floor + gain * u) * y : u;
        double push = VARIANT == SPLIT ? (floor + gain * v) * (1. - y) : v;
        return make_double2(pull * below + push * above, push * p - pull * q);
    } else if constexpr (VARIANT == LITERAL) {
        return make_double2(-u * below, u * q);
    } else {
        double w = VARIANT == GATED ? floor + gain * u : 1.;
        return make_double2(w * (l + y * fmax(-z, 0.) + (1. - y) * fmax(z, 0.)), -w * (y * q - (1. - y) * p));
    }
}

extern "C" __global__ void attribute_loss(View<const TZ> logits, View<const u8> attributes, const float *taps,
                                          const double *scales, int radius, int per_row, View<TD> grad, double *part,
                                          double floor, double gain, double scale, int n, int k) {
    grid_begin();
    const Matrix m = {taps, scales, radius, per_row};
    __shared__ __align__(16) float shared[window_floats(4 * THREADS)];
    __shared__ double sums[32];
    int first = blockIdx.x * 4 * THREADS;
    for (int sample = blockIdx.y; sample < n; sample += gridDim.y) {
        const TZ *z = logits.row(sample, 0);
        const u8 *labels = attributes.row(sample, 0);
        double u[4] = {}, v[4] = {}, sum = 0.;
        if constexpr (WINDOW) {
            product(m, z, labels, k, first, [](float e) {
                return VARIANT == GATED ? fabsf(e) : VARIANT == LITERAL ? fmaxf(-e, 0.f) : fmaxf(e, 0.f);
            }, u, shared);
            if constexpr (VARIANT == SPLIT || VARIANT == TWO_SIDED)
                product(m, z, labels, k, first, [](float e) { return fmaxf(-e, 0.f); }, v, shared);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int j = first + 4 * threadIdx.x + i;
            if (j >= k) break;
            double2 loss = term((double)to_f32(z[j]), (double)labels[j], u[i], v[i], floor, gain);
            sum += loss.x;
            from_f32(grad.row(sample, 0) + j, (float)(scale * loss.y));
        }
        sum = block_sum(sum, sums);
        if (threadIdx.x == 0) part[(i64)sample * gridDim.x + blockIdx.x] = sum;
    }
}
#endif

extern "C" __global__ void attribute_loss_finish(const double *part, View<float> samples, float *loss, double weight,
                                                 int n, int blocks, int k) {
    grid_begin();
    finish_loss(part, n, blocks, weight, (double)k, samples, loss);
}

#if VARIANT >= 5
extern "C" __global__ void attribute_softmax_rows(View<const TZ> logits, View<const u8> attributes, double *rows, int n,
                                                  int k) {
    grid_begin();
    __shared__ double sums[32];
    __shared__ float tops[32];
    int lane = threadIdx.x & 31;
    for (int sample = blockIdx.x; sample < n; sample += gridDim.x) {
        const TZ *z = logits.row(sample, 0);
        const u8 *labels = attributes.row(sample, 0);
        float top = -__int_as_float(0x7f800000);
        double sum = 0., count = 0.;
        for (int j = threadIdx.x; j < k; j += blockDim.x) top = fmaxf(top, to_f32(z[j]));
#pragma unroll
        for (int i = 16; i > 0; i >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, i));
        __syncthreads();
        if (lane == 0) tops[threadIdx.x >> 5] = top;
        __syncthreads();
        for (int i = 0; i < (int)(blockDim.x >> 5); ++i) top = fmaxf(top, tops[i]);
        for (int j = threadIdx.x; j < k; j += blockDim.x) sum += exp((double)(to_f32(z[j]) - top)), count += labels[j];
        sum = block_sum(sum, sums);
        count = block_sum(count, sums);
        if (threadIdx.x == 0) {
            double *row = rows + (i64)sample * 3;
            row[0] = (double)top, row[1] = log(sum), row[2] = 1. / fmax(count, 1.);
        }
    }
}

extern "C" __global__ void attribute_softmax(View<const TZ> logits, View<const u8> attributes, const double *rows,
                                             const float *taps, const double *scales, int radius, int per_row,
                                             float *weight, double *totals, double *part, int n, int k) {
    grid_begin();
    const Matrix m = {taps, scales, radius, per_row};
    __shared__ __align__(16) float shared[window_floats(4 * THREADS)];
    __shared__ double sums[32];
    int first = blockIdx.x * 4 * THREADS;
    for (int sample = blockIdx.y; sample < n; sample += gridDim.y) {
        const TZ *z = logits.row(sample, 0);
        const u8 *labels = attributes.row(sample, 0);
        const double *row = rows + (i64)sample * 3;
        float top = (float)row[0], log_sum = (float)row[1], share = (float)row[2], w[4] = {};
        if constexpr (WINDOW)
            window_sum(m.taps, m.radius, k, first, [=](int i) {
                return fmaxf(share * (float)labels[i] - expf(to_f32(z[i]) - top - log_sum), 0.f);
            }, w, shared);
        double total = 0., loss = 0.;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int j = first + 4 * threadIdx.x + i;
            if (j >= k) break;
            double own = WINDOW ? m.scales[m.per_row ? j : 0] * (double)w[i] : row[2] * (double)labels[j];
            weight[(i64)sample * k + j] = (float)own;
            total += own;
            loss -= own * ((double)to_f32(z[j]) - row[0] - row[1]);
        }
        total = block_sum(total, sums);
        loss = block_sum(loss, sums);
        i64 at = (i64)sample * gridDim.x + blockIdx.x;
        if (threadIdx.x == 0) totals[at] = total, part[at] = loss;
    }
}

extern "C" __global__ void attribute_softmax_grad(View<const TZ> logits, const double *rows, const float *weight,
                                                  const double *totals, View<TD> grad, double scale, int n, int k) {
    grid_begin();
    for (int sample = blockIdx.y; sample < n; sample += gridDim.y) {
        double total = 0.;
        for (int i = 0; i < gridDim.x; ++i) total += totals[(i64)sample * gridDim.x + i];
        const double *row = rows + (i64)sample * 3;
        for (int i = threadIdx.x; i < 4 * THREADS; i += THREADS) {
            int j = blockIdx.x * 4 * THREADS + i;
            if (j >= k) break;
            double softmax = exp((double)to_f32(logits.row(sample, 0)[j]) - row[0] - row[1]);
            double slope = softmax * total - (double)weight[(i64)sample * k + j];
            from_f32(grad.row(sample, 0) + j, (float)(scale * slope));
        }
    }
}
#endif
