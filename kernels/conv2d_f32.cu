// 3x3 convolution (stride 1, zero padding 1) and its input gradient with f32 products on the ordinary cores:
// for precision f32, and for devices without bf16 tensor cores.
//
//   fprop  y[n,p,q,k]    = bias[k] + sum_{r,s,c} act(x)[n,p+r-1,q+s-1,c] w[k,r,s,c] + residual
//   DGRAD  dact[n,h,w,c] = sum_{r,s,k} dy[n,h+1-r,w+1-s,k] w[k,r,s,c]
//
// Both are one kernel: the gradient reads dy as its input and the filter turned by 180 degrees, with the roles of
// K and C exchanged. Below, C is the channel that is summed over and K the channel of the result.
//
// x [N,H,W,C] (UPSAMPLE: [N,H/2,W/2,C], doubled by nearest neighbour after the activation), w [K][3][3][C]
// (DGRAD: [C][3][3][K]), y [N,H,W,K] (DOWN: [N,H/2,W/2,K], each the sum of a 2x2 block).
// RESIDUAL 1: a tensor like y. 2: of half the height and width, doubled. 3: `from` [N,H,W,S] behind a 1x1
// convolution w2 [K][S] with a bias of its own; its products join the same sums.
//
// A block of 256 threads makes IMAGES x ROWS x COLUMNS = 64 pixels by 64 channels; blockIdx.x = pixel tile * K tiles +
// K tile, so that the blocks of one pixel tile run together. For 16 channels at a time, the tile with a border of one
// pixel (the halo) is activated once on its way to shared memory and serves all nine taps; the filter comes in three
// rows. A thread holds a 2x2 block of pixels by 4 channels: 8 shared loads of 16 bytes for 64 FMAs.
// FLOPs 2 N H W K (9 C + S); bytes from L2 per block and 16 channels: 6.4 KiB of x and 36 KiB of w in f32.
//
// ptxas, sm_75 to sm_120: 64 to 110 registers, no spills; 21.2 KiB of shared memory (4 x 4 x 4 tiles: 24 KiB).
#include "conv2d.cuh"

#ifndef DGRAD
#define DGRAD 0
#endif
#ifndef DOWN
#define DOWN 0
#endif
#ifndef RESIDUAL
#define RESIDUAL 0
#endif
// Types of residual and biases.
#ifndef TR
#define TR TX
#endif
#ifndef TB
#define TB TW
#endif
#ifndef BIAS
#define BIAS (!DGRAD)
#endif
// Shape of a tile: 1 x 8 x 8, or 4 x 4 x 4.
#ifndef IMAGES
#define IMAGES 1
#define ROWS 8
#define COLUMNS 8
#endif
// Elements per global access: of x, of w (fprop), of `from`, of w2.
#ifndef VX
#define VX 1
#endif
#ifndef VW
#define VW 1
#endif
#ifndef VR
#define VR 1
#endif
#ifndef VS
#define VS 1
#endif

// Channels of a step, and the pitch that spreads 8 filter rows over all banks.
constexpr int BC = 16, PITCH = 20, THREADS = 256;
constexpr int HW = COLUMNS + 2, IMAGE = (ROWS + 2) * HW;

struct Place {
    int n, y, x;  // first image, row, column of the tile
};
struct Size {
    int n, h, w, c, k, s;
};

// 16 channels of the tile and its border, [pixel][16], zero outside.
template <int V, bool ACT, bool UP, class T>
__device__ __forceinline__ void load_halo(float *halo, View<const T> x, const float *ab, Place at, Size size,
                                          int channels, int first) {
    constexpr int PER = BC / V;
    for (int v = threadIdx.x; v < IMAGES * IMAGE * PER; v += THREADS) {
        int c = first + v % PER * V, pixel = v / PER;
        int n = at.n + pixel / IMAGE, y = at.y - 1 + pixel % IMAGE / HW, q = at.x - 1 + pixel % HW;
        float value[V];
#pragma unroll
        for (int i = 0; i < V; ++i) value[i] = 0.f;
        if (n < size.n && (unsigned)y < (unsigned)size.h && (unsigned)q < (unsigned)size.w && c < channels) {
            int row = UP ? (y >> 1) * (size.w >> 1) + (q >> 1) : y * size.w + q;
            load<V>(x.row(n, row) + c, value);
            if constexpr (ACT) activate<V>(value, ab + (i64)n * 2 * channels + c, channels);
        }
        store<V>(halo + pixel * BC + v % PER * V, value);
    }
}

// Filter rows [tap][64 results][16 channels] of `taps` taps from a tensor whose results lie `pitch` apart.
template <int V, int TAPS>
__device__ __forceinline__ void load_filter(float *filter, const TW *w, int pitch, int channels, int k0, int results,
                                            int first) {
    constexpr int PER = BC / V;
    for (int v = threadIdx.x; v < TAPS * 64 * PER; v += THREADS) {
        int c = v % PER * V, k = v / PER % 64, tap = v / (PER * 64);
        float value[V];
#pragma unroll
        for (int i = 0; i < V; ++i) value[i] = 0.f;
        const TW *p = w + (i64)(k0 + k) * pitch + tap * channels + first + c;
        if (k0 + k < results && first + c < channels) load<V>(p, value);
        store<V>(filter + (tap * 64 + k) * PITCH + c, value);
    }
}

// The same of row r of the turned filter: four channels of one result per store, neighbours in memory per load.
__device__ __forceinline__ void load_turned(float *filter, const TW *w, int r, int channels, int k0, int results,
                                            int first) {
    for (int v = threadIdx.x; v < 3 * 64 * 4; v += THREADS) {
        int k = v % 64, c = v / 64 % 4 * 4, tap = v / 256;
        float value[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            bool inside = k0 + k < results && first + c + i < channels;
            i64 at = ((i64)(first + c + i) * 9 + (8 - 3 * r - tap)) * results + k0 + k;
            value[i] = inside ? to_f32(w[at]) : 0.f;
        }
        store<4>(filter + (tap * 64 + k) * PITCH + c, value);
    }
}

// sums[pixel][j] += 16 channels of one tap; `a` is the thread's first pixel at the tap, `b` its first filter row.
__device__ __forceinline__ void multiply(float (&sums)[4][4], const float *a, const float *b) {
#pragma unroll 1
    for (int c = 0; c < BC; c += 4) {
        float x[4][4], w[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            load<4>(a + ((i >> 1) * HW + (i & 1)) * BC + c, x[i]);
            load<4>(b + i * 16 * PITCH + c, w[i]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(x[i][e], w[j][e], sums[i][j]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_f32(View<const TX> x, const float *ab, const TW *w, const TB *bias, View<const TR> residual,
               const TW *w2, const TB *bias2, View<TY> y, int n, int h, int wd, int c, int k, int s) {
    grid_begin();
    __shared__ alignas(16) float halo[IMAGES * IMAGE * BC];
    __shared__ alignas(16) float filter[3 * 64 * PITCH];
    const Size size = {n, h, wd, c, k, s};
    int tiles_k = (k + 63) / 64, tiles_x = (wd + COLUMNS - 1) / COLUMNS, tiles_y = (h + ROWS - 1) / ROWS;
    int tile = blockIdx.x / tiles_k, k0 = blockIdx.x % tiles_k * 64;
    const Place at = {tile / (tiles_x * tiles_y) * IMAGES, tile / tiles_x % tiles_y * ROWS, tile % tiles_x * COLUMNS};
    // The thread's 2x2 block and its channels k0 + tx + 16 j.
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    constexpr int BLOCKS_X = COLUMNS / 2, BLOCKS = BLOCKS_X * (ROWS / 2);
    int image = ty / BLOCKS, by = ty % BLOCKS / BLOCKS_X * 2, bx = ty % BLOCKS_X * 2;
    const float *a = halo + (image * IMAGE + by * HW + bx) * BC, *b = filter + tx * PITCH;
    float sums[4][4] = {};

    for (int first = 0; first < c; first += BC) {
        for (int r = 0; r < 3; ++r) {
            __syncthreads();
            if (r == 0) load_halo<VX, true, UPSAMPLE>(halo, x, ab, at, size, c, first);
#if DGRAD
            load_turned(filter, w, r, c, k0, k, first);
#else
            load_filter<VW, 3>(filter, w + 3 * r * c, 9 * c, c, k0, k, first);
#endif
            __syncthreads();
            for (int t = 0; t < 3; ++t) multiply(sums, a + (r * HW + t) * BC, b + t * 64 * PITCH);
        }
    }
#if RESIDUAL == 3
    for (int first = 0; first < s; first += BC) {
        __syncthreads();
        load_halo<VR, false, false>(halo, residual, nullptr, at, size, s, first);
        load_filter<VS, 1>(filter, w2, s, s, k0, k, first);
        __syncthreads();
        multiply(sums, a + (HW + 1) * BC, b);
    }
#endif

    int sample = at.n + image;
    if (sample >= n) return;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        int channel = k0 + tx + 16 * j;
        if (channel >= k) continue;
        float add = 0.f;
#if BIAS
        add = to_f32(bias[channel]);
#endif
#if RESIDUAL == 3
        add += to_f32(bias2[channel]);
#endif
#if DOWN
        // Heights and widths are even, so a block lies inside or outside as a whole.
        int py = at.y + by, px = at.x + bx;
        if (py < h && px < wd)
            from_f32(y.row(sample, (py >> 1) * (wd >> 1) + (px >> 1)) + channel,
                     (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]) + add);
#else
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int py = at.y + by + (i >> 1), px = at.x + bx + (i & 1);
            if (py >= h || px >= wd) continue;
            float value = sums[i][j] + add;
#if RESIDUAL == 1
            value += to_f32(residual.row(sample, py * wd + px)[channel]);
#elif RESIDUAL == 2
            value += to_f32(residual.row(sample, (py >> 1) * (wd >> 1) + (px >> 1))[channel]);
#endif
            from_f32(y.row(sample, py * wd + px) + channel, value);
        }
#endif
    }
}
