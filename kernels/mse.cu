// Mean squared error with its gradient.
//
// y: View<TY>, target: View<TT> [n, rows, c]. A thread reads VX neighbours of a sample's elements in the order (row,
// channel): VX divides c, or both are dense (ld = c) and VX divides rows c.
//
//   mse           part [n][blocks] (f64): a block's sum of (y - target)^2; a thread adds up ITEMS VX in f32, the rest
//                 is f64. Grid: (blocks = ceil(rows c / VX / ITEMS / threads), min(n, 65535)).
//   mse_finish    samples: View<float> [n, 1, 1], the means; loss [1], the mean of these. One block.
//   mse_backward  dy = factor (y - target), View<TD>. Grid: (ceil(rows c / VX / threads), min(n, 65535)).
//
// Reads y and target once for the loss and once for the gradient, writes dy once.
//
// Macros: TY, TT, TD, VX = 1, 2, 4, 8.
#include "sums.cuh"

constexpr int ITEMS = 8;

extern "C" __global__ void mse(View<const TY> y, View<const TT> target, double *part, int n, int rows, int c) {
    grid_begin();
    __shared__ double shared[32];
    for (int i = blockIdx.y; i < n; i += gridDim.y) {
        float sum = 0.f;
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            i64 e = (((i64)blockIdx.x * ITEMS + k) * blockDim.x + threadIdx.x) * VX;
            if (e >= rows * c) break;
            int r = (int)e / c, channel = (int)e - r * c;
            float a[VX], b[VX];
            load<VX>(y.row(i, r) + channel, a), load<VX>(target.row(i, r) + channel, b);
#pragma unroll
            for (int v = 0; v < VX; ++v) sum = fmaf(a[v] - b[v], a[v] - b[v], sum);
        }
        double total = block_sum((double)sum, shared);
        if (threadIdx.x == 0) part[(i64)i * gridDim.x + blockIdx.x] = total;
    }
}

extern "C" __global__ void mse_finish(const double *part, View<float> samples, float *loss, int n, int blocks,
                                      int count) {
    grid_begin();
    finish_loss(part, n, blocks, 1., (double)count, samples, loss);
}

extern "C" __global__ void mse_backward(View<const TY> y, View<const TT> target, View<TD> dy, float factor, int n,
                                        int rows, int c) {
    grid_begin();
    i64 e = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * VX;
    if (e >= rows * c) return;
    int r = (int)e / c, channel = (int)e - r * c;
    for (int i = blockIdx.y; i < n; i += gridDim.y) {
        float a[VX], b[VX];
        load<VX>(y.row(i, r) + channel, a), load<VX>(target.row(i, r) + channel, b);
#pragma unroll
        for (int v = 0; v < VX; ++v) a[v] = factor * (a[v] - b[v]);
        store<VX>(dy.row(i, r) + channel, a);
    }
}
