// First step of a prologue's gradient (prologue.cu has the formulas): part [n][blocks][2][c], P and Q of a block's
// pixels.
//
// x [n, rows, c], dact of that shape, half or double the size (resample.cuh). A thread's rows are added first, then
// threads in order. Grid: columns.cuh, 256 threads. Shared: 2 VX (threads / lanes + 1) lanes floats. Reads dact and x
// once; SiLU' costs two special-function operations.
//
// Macros: TX, TD storage of x, dact; RD resampling of dact (0, 1 of a pool, 2 of an upsampling); SILU, SCALE_SHIFT 0 |
// 1; TG, TS, VN as in norm.cuh; VX = 1, 2, 4, 8: neighbours that x and dact allow.
#define NORM 1
#include "prologue.cuh"

// Rows in flight per thread, as registers allow.
constexpr int ROWS = RD == OF_UPSAMPLE ? 1 : VX == 8 ? 2 : 4;

extern "C" __global__ void __launch_bounds__(256, 2) prologue_backward_sums(
    View<const TD> dact, View<const TX> x, View<const float> stats, const TG *gamma, const TG *beta,
    View<const TS> scale_shift, int c, int groups, float *part, int rows, int w, int lanes, int blocks, int span) {
    grid_begin();
    extern __shared__ float shared[];
    const Norm norm = {stats, gamma, beta, scale_shift, c, groups};
    Columns at(rows, c, lanes, blocks, span);
    float p[VX] = {}, q[VX] = {};
    if (at.inside) {
        float a[VX], b[VX], mean[VX], rstd[VX];
        norm.coefficients<VX>(at.n, at.channel, a, b, mean, rstd);
        for (int r = at.first + at.y; r < at.end; r += ROWS * at.height) {
            float d[ROWS][VX], values[ROWS][VX];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (r + i * at.height >= at.end) break;
                gather<VX, RD>(dact, at.n, r + i * at.height, w, at.channel, d[i]);
                load<VX>(x.row(at.n, r + i * at.height) + at.channel, values[i]);
            }
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (r + i * at.height >= at.end) break;
                pre_activation(d[i], values[i], a, b);
#pragma unroll
                for (int v = 0; v < VX; ++v) {
                    p[v] += d[i][v];
                    q[v] = fmaf(d[i][v], (values[i][v] - mean[v]) * rstd[v], q[v]);
                }
            }
        }
#pragma unroll
        for (int v = 0; v < VX; ++v) {
            shared[at.at(v, at.y, at.x)] = p[v];
            shared[at.shared_floats() + at.at(v, at.y, at.x)] = q[v];
        }
    }
    __syncthreads();
    part += (i64)blockIdx.x * 2 * c;
    int first = blockIdx.y * lanes * VX, channels = min(lanes * VX, c - first);
    for (int t = threadIdx.x; t < 2 * lanes * VX; t += blockDim.x) {
        int which = t / (lanes * VX), v = t / lanes - which * VX, lane = t % lanes;
        if (lane * VX + v >= channels) continue;
        float sum = 0.f;
        for (int y = 0; y < at.height; ++y) sum += shared[which * at.shared_floats() + at.at(v, y, lane)];
        part[which * c + first + lane * VX + v] = sum;
    }
}
