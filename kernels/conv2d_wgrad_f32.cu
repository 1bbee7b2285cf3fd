// Weight gradient of a 3x3 convolution with f32 products on the ordinary cores (see conv2d_f32.cu), in parts:
//
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] act(x)[n,p+r-1,q+s-1,c],   db[k] = sum_{n,p,q} dy[n,p,q,k]
//
// x [N,H,W,C] (UPSAMPLE: [N,H/2,W/2,C], doubled after the activation), dy [N,H,W,K],
// part f32 [splits][9 K C + K, rounded up to 4]: [K][3][3][C] of dw, then [K] of db; conv2d_wgrad_reduce adds the
// parts up.
//
// A block of 256 threads makes 64 K x 64 C of one filter row r (its three taps) over a contiguous range of pixel
// steps; blockIdx.x = (K tile * C tiles + C tile) * 3 + r, blockIdx.y = split. A step is 4 x 8 pixels: dy
// [32 px][64] and the 4 x 10 pixels of act(x) that row r meets, in shared memory. A thread holds 4 K x 4 C x 3 taps
// and walks along a row of pixels: each new pixel costs two shared loads of 16 bytes for 48 FMAs.
// FLOPs 18 N H W K C; bytes from L2 per step 8 KiB of dy and 10 KiB of x in f32.
//
// ptxas, sm_75 to sm_120: 83 to 122 registers, no spills; 18 KiB of shared memory.
#include "conv2d.cuh"

// Elements per global access of x and dy.
#ifndef VX
#define VX 1
#endif
#ifndef VY
#define VY 1
#endif

constexpr int THREADS = 256, ROWS = 4, COLUMNS = 8, HALO = COLUMNS + 2, TILE = 64;

struct Place {
    int n, y, x;  // image, first row, first column of the step
};
struct Size {
    int n, h, w, c, k;
};

// [4][10][64] of act(x), from one row and one column before the step (plus r rows); zero outside.
__device__ __forceinline__ void load_x(float *to, View<const TX> x, const float *ab, Place at, Size size, int c0,
                                       int r) {
    constexpr int PER = TILE / VX;
    for (int v = threadIdx.x; v < ROWS * HALO * PER; v += THREADS) {
        int c = v % PER * VX, pixel = v / PER;
        int y = at.y + pixel / HALO + r - 1, q = at.x + pixel % HALO - 1;
        float value[VX];
#pragma unroll
        for (int i = 0; i < VX; ++i) value[i] = 0.f;
        if ((unsigned)y < (unsigned)size.h && (unsigned)q < (unsigned)size.w && c0 + c < size.c) {
            int row = UPSAMPLE ? (y >> 1) * (size.w >> 1) + (q >> 1) : y * size.w + q;
            load<VX>(x.row(at.n, row) + c0 + c, value);
            activate<VX>(value, ab + (i64)at.n * 2 * size.c + c0 + c, size.c);
        }
        store<VX>(to + pixel * TILE + c, value);
    }
}

// [4][8][64] of dy; zero outside.
__device__ __forceinline__ void load_dy(float *to, View<const TY> dy, Place at, Size size, int k0) {
    constexpr int PER = TILE / VY;
    for (int v = threadIdx.x; v < ROWS * COLUMNS * PER; v += THREADS) {
        int k = v % PER * VY, pixel = v / PER;
        int y = at.y + pixel / COLUMNS, q = at.x + pixel % COLUMNS;
        float value[VY];
#pragma unroll
        for (int i = 0; i < VY; ++i) value[i] = 0.f;
        if (y < size.h && q < size.w && k0 + k < size.k) load<VY>(dy.row(at.n, y * size.w + q) + k0 + k, value);
        store<VY>(to + pixel * TILE + k, value);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_wgrad_f32(View<const TX> x, const float *ab, View<const TY> dy, int n, int h, int w, int c, int k,
                     float *part) {
    grid_begin();
    __shared__ alignas(16) float sx[ROWS * HALO * TILE];
    __shared__ alignas(16) float sy[ROWS * COLUMNS * TILE];
    const Size size = {n, h, w, c, k};
    int tiles_c = (c + TILE - 1) / TILE;
    int r = blockIdx.x % 3, c0 = blockIdx.x / 3 % tiles_c * TILE, k0 = blockIdx.x / 3 / tiles_c * TILE;
    int tiles_x = (w + COLUMNS - 1) / COLUMNS, tiles_y = (h + ROWS - 1) / ROWS, steps = n * tiles_x * tiles_y;
    int from = (int)((i64)steps * blockIdx.y / gridDim.y), to = (int)((i64)steps * (blockIdx.y + 1) / gridDim.y);
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    float sums[3][4][4] = {};
    // The column sums belong to one block of each K tile; a thread sums a quarter of a step's pixels of one channel.
    bool columns = r == 0 && c0 == 0;
    float column = 0.f;

    for (int step = from; step < to; ++step) {
        const Place at = {step / (tiles_x * tiles_y), step / tiles_x % tiles_y * ROWS, step % tiles_x * COLUMNS};
        __syncthreads();
        load_x(sx, x, ab, at, size, c0, r);
        load_dy(sy, dy, at, size, k0);
        __syncthreads();
#pragma unroll 1
        for (int row = 0; row < ROWS; ++row) {
            const float *px = sx + row * HALO * TILE + 4 * tx, *py = sy + row * COLUMNS * TILE + 4 * ty;
            float a[3][4], d[4];
            load<4>(px, a[0]);
            load<4>(px + TILE, a[1]);
#pragma unroll
            for (int q = 0; q < COLUMNS; ++q) {
                load<4>(px + (q + 2) * TILE, a[(q + 2) % 3]);
                load<4>(py + q * TILE, d);
#pragma unroll
                for (int s = 0; s < 3; ++s)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
#pragma unroll
                        for (int j = 0; j < 4; ++j) sums[s][i][j] = fmaf(d[i], a[(q + s) % 3][j], sums[s][i][j]);
            }
        }
        if (columns) {
            const float *p = sy + (threadIdx.x >> 6) * 8 * TILE + (threadIdx.x & 63);
#pragma unroll
            for (int q = 0; q < 8; ++q) column += p[q * TILE];
        }
    }

    part += (i64)blockIdx.y * (((i64)(9 * c + 1) * k + 3) & ~3ll);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int out = k0 + 4 * ty + i;
        if (out >= k) continue;
#pragma unroll
        for (int s = 0; s < 3; ++s) {
            float *p = part + ((i64)out * 9 + 3 * r + s) * c + c0 + 4 * tx;
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (c0 + 4 * tx + j < c) p[j] = sums[s][i][j];
        }
    }
    if (!columns) return;
    __syncthreads();
    sy[threadIdx.x] = column;
    __syncthreads();
    int out = k0 + threadIdx.x;
    if (threadIdx.x < TILE && out < k) {
        const float *p = sy + threadIdx.x;
        part[(i64)9 * c * k + out] = (p[0] + p[TILE]) + (p[2 * TILE] + p[3 * TILE]);
    }
}
