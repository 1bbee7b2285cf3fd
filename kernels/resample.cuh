// Gradients that come in another size (`Resample` of src/tape/backward.rs): the reader undoes it.
#pragma once
#include "common.cuh"

constexpr int OF_POOL = 1, OF_UPSAMPLE = 2;

// V channels from `c` on of row r of a [.., w] map whose gradient `from` has: its size; half the size (2x2 mean:
// a quarter of the value above); double the size (nearest neighbour: the sum of four).
template <int V, int RESAMPLE, class T>
__device__ __forceinline__ void gather(const View<T> &from, int n, int r, int w, int c, float (&out)[V]) {
    if constexpr (RESAMPLE == OF_POOL) {
        int y = r / w, x = r - y * w;
        load<V>(from.row(n, y / 2 * (w / 2) + x / 2) + c, out);
#pragma unroll
        for (int v = 0; v < V; ++v) out[v] *= 0.25f;
    } else if constexpr (RESAMPLE == OF_UPSAMPLE) {
        int y = r / w, x = r - y * w;
        T *top = from.row(n, 4 * y * w + 2 * x) + c;
        const i64 down = 2 * (i64)w * from.ld;
        float a[V], b[V], d[V];
        load<V>(top, out), load<V>(top + from.ld, a), load<V>(top + down, b), load<V>(top + down + from.ld, d);
#pragma unroll
        for (int v = 0; v < V; ++v) out[v] = out[v] + a[v] + b[v] + d[v];
    } else {
        load<V>(from.row(n, r) + c, out);
    }
}
