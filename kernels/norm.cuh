// Group norm's coefficients: act = SiLU(a x + b) with a = rho gamma (1 + s), b = (beta - mu rho gamma)(1 + s) + t.
#pragma once
#include "common.cuh"

// stats [n][2 groups] (means, then 1 / deviations), gamma and beta [c], scale_shift [n][2 c] (if SCALE_SHIFT). Macros:
// TG storage of gamma and beta, TS of scale and shift, SCALE_SHIFT = 0 | 1, VN = 1, 2, 4, 8: neighbours of gamma,
// beta, scale and shift that may be read at once.
struct Norm {
    View<const float> stats;
    const TG *gamma, *beta;
    View<const TS> scale_shift;
    int c, groups;

    __device__ float scale(int n, int channel) const {
        return SCALE_SHIFT ? 1.f + to_f32(scale_shift.row(n, 0)[channel]) : 1.f;
    }

    template <int V, class T>
    static __device__ void read(const T *p, float (&out)[V]) {
        constexpr int W = V < VN ? V : VN;
#pragma unroll
        for (int i = 0; i < V; i += W) {
            float some[W];
            load<W>(p + i, some);
#pragma unroll
            for (int j = 0; j < W; ++j) out[i + j] = some[j];
        }
    }

    // Of channels channel .. channel + V of sample n; channel is a multiple of V.
    template <int V>
    __device__ void coefficients(int n, int channel, float (&a)[V], float (&b)[V], float (&mean)[V],
                                 float (&rstd)[V]) const {
        const float *row = stats.row(n, 0);
        int width = c / groups, group = channel / width, left = (group + 1) * width - channel;
        float center = row[group], inverse = row[groups + group];
        read<V>(gamma + channel, a), read<V>(beta + channel, b);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            if (left-- == 0) left = width - 1, ++group, center = row[group], inverse = row[groups + group];
            mean[v] = center, rstd[v] = inverse;
            a[v] *= inverse;
            b[v] -= center * a[v];
        }
        if constexpr (SCALE_SHIFT) {
            float s[V], t[V];
            const TS *p = scale_shift.row(n, 0) + channel;
            read<V>(p, s), read<V>(p + c, t);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                a[v] *= 1.f + s[v];
                b[v] = b[v] * (1.f + s[v]) + t[v];
            }
        }
    }
};
