// Mean over the positions of each sample, and its gradient.
//
// x: View<TX> [n, rows, c] -> y: View<TY> [n, 1, c]. mean_rows: Columns with blocks = 1, span = rows (one block walks
// over all positions: they are few); a thread's rows are added first, then threads in order. Shared:
// VX (threads / lanes + 1) lanes floats. mean_rows_backward: dx: View<TX> = share dy; Columns.
//
// Macros: TX, TY, VX = 1, 2, 4, 8.
#include "columns.cuh"

extern "C" __global__ void mean_rows(View<const TX> x, View<TY> y, float share, int rows, int c, int lanes) {
    grid_begin();
    extern __shared__ float shared[];
    Columns at(rows, c, lanes, 1, rows);
    if (at.inside) {
        float sum[VX] = {};
#pragma unroll 4
        for (int r = at.y; r < rows; r += at.height) {
            float values[VX];
            load<VX>(x.row(at.n, r) + at.channel, values);
#pragma unroll
            for (int v = 0; v < VX; ++v) sum[v] += values[v];
        }
#pragma unroll
        for (int v = 0; v < VX; ++v) shared[at.at(v, at.y, at.x)] = sum[v];
    }
    __syncthreads();
    int first = blockIdx.y * lanes * VX;
    for (int t = threadIdx.x; t < min(lanes * VX, c - first); t += blockDim.x) {
        float sum = 0.f;
        for (int i = 0; i < at.height; ++i) sum += shared[at.at(t % VX, i, t / VX)];
        from_f32(y.row(at.n, 0) + first + t, share * sum);
    }
}

extern "C" __global__ void mean_rows_backward(View<const TY> dy, View<TX> dx, float share, int rows, int c, int lanes,
                                              int blocks, int span) {
    grid_begin();
    Columns at(rows, c, lanes, blocks, span);
    if (!at.inside) return;
    float d[VX];
    load<VX>(dy.row(at.n, 0) + at.channel, d);
#pragma unroll
    for (int v = 0; v < VX; ++v) d[v] *= share;
    for (int r = at.first + at.y; r < at.end; r += at.height) store<VX>(dx.row(at.n, r) + at.channel, d);
}
