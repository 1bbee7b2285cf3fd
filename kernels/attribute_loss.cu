// Losses of K attributes' logits with their gradients (paper Eq. 16-18, repaired; the formulas stand in
// src/gmm/entropy.rs): p = sigmoid(z), q = 1 - p, e = y q - (1 - y) p, u = M max(e, 0), v = M max(-e, 0), or u = M |e|
// (gated). The factors made of u and v are constants: no gradient flows through them.
//
// logits: View<TZ> [n, 1, k], attributes: View<u8> [n, 1, k] (0 or 1), grad: View<TD> [n, 1, k]; M: taps [radius + 1]
// and scales (one, or one for each row), window.cuh. A block makes 4 THREADS attributes of a sample.
//
//   attribute_loss          grad, and part [n][tiles] (f64): the loss's sum over a block. Grid: (tiles, min(n, 65535)).
//   attribute_softmax_rows  rows [n][3]: the largest logit, ln of the sum of e^(z - that), 1 / max(sum y, 1).
//                           Grid: min(n, 65535).
//   attribute_softmax       weight [n][k] = M (t - softmax)^+ or t, and totals, part [n][tiles] as in attribute_loss.
//   attribute_softmax_grad  grad = scale (softmax sum weight - weight). Grid as attribute_loss.
//   attribute_loss_finish   samples: View<float> [n, 1, 1] = weight / k part; loss [1], their mean. One block.
//
// f32 throughout: e, losses and softmax to some 4 2^-24 (softmax: |z - max| 2^-24 more); u, v: window.cuh; sums over
// attributes in f64. Per attribute 2 R + 1 FMA (4 R + 2 with u and v apart), and e once per WINDOW_SPAN of distances.
//
// Macros: TZ, TD, THREADS, VARIANT = 0 gated, 1 bce, 2 split, 3 two_sided, 4 literal, 5 softmax, 6 softmax_ce;
// WINDOW = 0 | 1: M is there.
#include "sums.cuh"
#include "window.cuh"

enum Variant { GATED, BCE, SPLIT, TWO_SIDED, LITERAL, SOFTMAX, SOFTMAX_CE };

// M of the grid.
struct Matrix {
    const float *taps, *scales;
    int radius, per_row;
};

#if VARIANT < 5  // not of a softmax
// sigmoid(z), sigmoid(-z), ln(1 + e^-|z|).
struct Logit {
    float z, p, q, l;

    __device__ Logit(float z) : z(z) {
        float e = expf(-fabsf(z)), large = 1.f / (1.f + e), small = e * large;
        p = z >= 0.f ? large : small, q = z >= 0.f ? small : large, l = log1pf(e);
    }
    __device__ float residual(float y) const { return y * q - (1.f - y) * p; }
    // softplus(z), softplus(-z).
    __device__ float above() const { return fmaxf(z, 0.f) + l; }
    __device__ float below() const { return fmaxf(-z, 0.f) + l; }
};

// Four neighbouring elements of M f(e).
template <class F>
__device__ __forceinline__ void product(const Matrix &m, const TZ *z, const u8 *y, int k, int first, const F &f,
                                        float (&out)[4], float *shared) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = 0.f;
    window_sum(m.taps, m.radius, k, first, [=](int i) { return f(Logit(to_f32(z[i])).residual((float)y[i])); }, out,
               shared);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (int j = first + 4 * threadIdx.x + i; j < k) out[i] *= m.scales[m.per_row ? j : 0];
}

extern "C" __global__ void attribute_loss(View<const TZ> logits, View<const u8> attributes, const float *taps,
                                          const float *scales, int radius, int per_row, View<TD> grad, double *part,
                                          float floor, float gain, float scale, int n, int k) {
    const Matrix m = {taps, scales, radius, per_row};
    __shared__ __align__(16) float shared[window_floats(4 * THREADS)];
    __shared__ double sums[32];
    int first = blockIdx.x * 4 * THREADS;
    for (int sample = blockIdx.y; sample < n; sample += gridDim.y) {
        const TZ *z = logits.row(sample, 0);
        const u8 *labels = attributes.row(sample, 0);
        float u[4] = {}, v[4] = {};
        if constexpr (WINDOW) {
            product(m, z, labels, k, first, [](float e) {
                return VARIANT == GATED ? fabsf(e) : VARIANT == LITERAL ? fmaxf(-e, 0.f) : fmaxf(e, 0.f);
            }, u, shared);
            if constexpr (VARIANT == SPLIT || VARIANT == TWO_SIDED)
                product(m, z, labels, k, first, [](float e) { return fmaxf(-e, 0.f); }, v, shared);
        }
        double sum = 0.;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int j = first + 4 * threadIdx.x + i;
            if (j >= k) break;
            Logit at(to_f32(z[j]));
            float y = (float)labels[j], term, slope;
            if constexpr (VARIANT == SPLIT || VARIANT == TWO_SIDED) {
                float pull = VARIANT == SPLIT ? (floor + gain * u[i]) * y : u[i];
                float push = VARIANT == SPLIT ? (floor + gain * v[i]) * (1.f - y) : v[i];
                term = pull * at.below() + push * at.above();
                slope = push * at.p - pull * at.q;
            } else if constexpr (VARIANT == LITERAL) {
                term = -u[i] * at.below();
                slope = u[i] * at.q;
            } else {
                float w = VARIANT == GATED ? floor + gain * u[i] : 1.f;
                term = w * (at.l + y * fmaxf(-at.z, 0.f) + (1.f - y) * fmaxf(at.z, 0.f));
                slope = -w * at.residual(y);
            }
            sum += (double)term;
            from_f32(grad.row(sample, 0) + j, scale * slope);
        }
        sum = block_sum(sum, sums);
        if (threadIdx.x == 0) part[(i64)sample * gridDim.x + blockIdx.x] = sum;
    }
}
#endif

extern "C" __global__ void attribute_loss_finish(const double *part, View<float> samples, float *loss, double weight,
                                                 int n, int blocks, int k) {
    finish_loss(part, n, blocks, weight, (double)k, samples, loss);
}

#if VARIANT >= 5
extern "C" __global__ void attribute_softmax_rows(View<const TZ> logits, View<const u8> attributes, float *rows, int n,
                                                  int k) {
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
        for (int j = threadIdx.x; j < k; j += blockDim.x) sum += (double)expf(to_f32(z[j]) - top), count += labels[j];
        sum = block_sum(sum, sums);
        count = block_sum(count, sums);
        if (threadIdx.x == 0) {
            float *row = rows + (i64)sample * 3;
            row[0] = top, row[1] = (float)log(sum), row[2] = (float)(1. / fmax(count, 1.));
        }
    }
}

extern "C" __global__ void attribute_softmax(View<const TZ> logits, View<const u8> attributes, const float *rows,
                                             const float *taps, const float *scales, int radius, int per_row,
                                             float *weight, double *totals, double *part, int n, int k) {
    const Matrix m = {taps, scales, radius, per_row};
    __shared__ __align__(16) float shared[window_floats(4 * THREADS)];
    __shared__ double sums[32];
    int first = blockIdx.x * 4 * THREADS;
    for (int sample = blockIdx.y; sample < n; sample += gridDim.y) {
        const TZ *z = logits.row(sample, 0);
        const u8 *labels = attributes.row(sample, 0);
        const float *row = rows + (i64)sample * 3;
        float top = row[0], log_sum = row[1], share = row[2], w[4] = {};
        if constexpr (WINDOW)
            window_sum(m.taps, m.radius, k, first, [=](int i) {
                return fmaxf(share * (float)labels[i] - expf(to_f32(z[i]) - top - log_sum), 0.f);
            }, w, shared);
        double total = 0., loss = 0.;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int j = first + 4 * threadIdx.x + i;
            if (j >= k) break;
            float own = WINDOW ? m.scales[m.per_row ? j : 0] * w[i] : share * (float)labels[j];
            weight[(i64)sample * k + j] = own;
            total += (double)own;
            loss -= (double)(own * (to_f32(z[j]) - top - log_sum));
        }
        total = block_sum(total, sums);
        loss = block_sum(loss, sums);
        i64 at = (i64)sample * gridDim.x + blockIdx.x;
        if (threadIdx.x == 0) totals[at] = total, part[at] = loss;
    }
}

extern "C" __global__ void attribute_softmax_grad(View<const TZ> logits, const float *rows, const float *weight,
                                                  const double *totals, View<TD> grad, float scale, int n, int k) {
    for (int sample = blockIdx.y; sample < n; sample += gridDim.y) {
        double sum = 0.;
        for (int i = 0; i < gridDim.x; ++i) sum += totals[(i64)sample * gridDim.x + i];
        const float *row = rows + (i64)sample * 3;
        float total = (float)sum, top = row[0], log_sum = row[1];
        for (int i = threadIdx.x; i < 4 * THREADS; i += THREADS) {
            int j = blockIdx.x * 4 * THREADS + i;
            if (j >= k) break;
            float softmax = expf(to_f32(logits.row(sample, 0)[j]) - top - log_sum);
            from_f32(grad.row(sample, 0) + j, scale * (softmax * total - weight[(i64)sample * k + j]));
        }
    }
}
#endif
