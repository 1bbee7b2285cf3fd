// Weight gradient of a 3x3 convolution on tensor cores (sm_80 and later), in parts:
//
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] act(x)[n,p+r-1,q+s-1,c],   db[k] = sum_{n,p,q} dy[n,p,q,k]
//
// x [N,H,W,C] (UPSAMPLE: [N,H/2,W/2,C], doubled after the activation), dy [N,H,W,K],
// part f32 [splits][9 K C + K, rounded up to 4]: [K][3][3][C] of dw, then [K] of db; conv2d_wgrad_reduce adds the
// parts up.
//
// A block of 8 warps makes 64 K x 64 C x all nine taps over a contiguous range of pixel steps; blockIdx.x = K tile *
// C tiles + C tile, blockIdx.y = split. A step is IMAGES x ROWS x COLUMNS pixels (64 of bf16, 32 of tf32): dy
// [pixel][64] and act(x) with a border of one pixel (the halo). Both are pixel-major, so both fragments are read
// transposed, and a tap is an offset in the halo. A warp makes 32 K x 16 C: per 16 pixels 2 fragments of dy serve
// 9 taps, 11 ldmatrix for 36 mma.
// Three stages: one is computed, one (arrived) is activated in place by the threads that copied it, one is copied.
//
// Bank conflicts: the 16-byte chunks of a pixel are permuted by its halo column (COLUMNS 4: row and column), so any
// 8 pixels of a fragment cover all banks at every tap; tf32: any 4 neighbours and 8 channels.
//
// FLOPs 18 N H W K C. Bytes into a block and step: 64 (pixels + halo pixels) elements, for 73728 x pixels FLOPs.
// Splits: as many as fill the multiprocessors once.
//
// Registers on sm_80, 86, 89, 90, 120 by ptxas (with norm and SiLU), never a spill; shared memory:
//
//   bf16 1x4x16    64.5 KiB   255 255 255 254 254
//   bf16 1x8x8     61.5 KiB   254 254 254 252 254
//   bf16 4x4x4     78 KiB     244 244 244 242 254
//   tf32 1x4x8     69 KiB     255 255 255 255 255
//   tf32 2x4x4     78 KiB     255 255 255 255 255
//
// Main loop of bf16 on sm_86: 3.3 mma per ldmatrix, about 2 other instructions per mma, 4 with norm and SiLU; no bank
// conflicts.
#include "conv2d_vector.cuh"

// Elements per global access of x and dy.
#ifndef VX
#define VX 1
#endif
#ifndef VY
#define VY 1
#endif

constexpr int THREADS = 256, TILE = 64, STAGES = 3;
constexpr int PIXELS = IMAGES * ROWS * COLUMNS, HW = COLUMNS + 2, IMAGE = (ROWS + 2) * HW, HALO = IMAGES * IMAGE;
constexpr int PER = TILE / V, PITCH = PER * 16;  // vectors and bytes of a pixel
constexpr int X_BYTES = HALO * PITCH, STAGE_BYTES = X_BYTES + PIXELS * PITCH;
constexpr int X_COPIES = (HALO * PER + THREADS - 1) / THREADS, Y_COPIES = PIXELS * PER / THREADS;
constexpr bool WHOLE_X = VX == V && sizeof(TX) == sizeof(TP), WHOLE_Y = VY == V && sizeof(TY) == sizeof(TP);

static_assert(PIXELS * PER % THREADS == 0 && THREADS % PER == 0, "every thread copies as many vectors of dy");
static_assert(IMAGES == 1 || ROWS * COLUMNS == 16, "a fragment stays in one image");

struct Size {
    int n, h, w, c, k;
};

// First image, row, column of a step.
struct Place {
    int n, y, x;

    __device__ __forceinline__ void advance(const Size &size) {
        x += COLUMNS;
        if (x < size.w) return;
        x = 0, y += ROWS;
        if (y < size.h) return;
        y = 0, n += IMAGES;
    }
};

// Byte of chunk `chunk` of halo pixel (y, x) of an image, and of pixel `pixel` of dy.
__device__ __forceinline__ int swizzle_x(int y, int x, int chunk) {
    int key = TF32 ? (x & 3) * 2 : COLUMNS == 4 ? (y & 1) << 2 | x & 3 : x & 7;
    return (y * HW + x) * PITCH + ((chunk ^ key) << 4);
}
__device__ __forceinline__ int swizzle_y(int pixel, int chunk) {
    return pixel * PITCH + ((chunk ^ (TF32 ? (pixel & 3) * 2 : pixel & 7)) << 4);
}

// The vectors of a thread: number threadIdx.x + i THREADS in (pixel, chunk) order, so always of the same channels.
__device__ __forceinline__ int chunk() { return threadIdx.x % PER; }
__device__ __forceinline__ int pixel(int i) { return (threadIdx.x + i * THREADS) / PER; }
__device__ __forceinline__ bool exists(int i) {
    return (i + 1) * THREADS <= HALO * PER || threadIdx.x + i * THREADS < HALO * PER;
}

__device__ __forceinline__ int place_x(int i) {
    int p = pixel(i);
    return p / IMAGE * IMAGE * PITCH + swizzle_x(p % IMAGE / HW, p % HW, chunk());
}

// Starts to copy the halo of a step to `to`; bit i of the result: vector i lies in the image. Copies that are not
// WHOLE are activated at once.
__device__ __forceinline__ u32 copy_x(char *to, const View<const TX> &x, const float *ab, Place at, const Size &size,
                                      int c0) {
    int c = c0 + chunk() * V, left = size.c - c;
    const TX *first = x.row(at.n, 0) + (left > 0 ? c : 0);
    u32 inside = 0;
#pragma unroll
    for (int i = 0; i < X_COPIES; ++i) {
        if (!exists(i)) continue;
        int image = pixel(i) / IMAGE, y = at.y + pixel(i) % IMAGE / HW - 1, q = at.x + pixel(i) % HW - 1;
        bool in = left > 0 && at.n + image < size.n;
        in = in && (unsigned)y < (unsigned)size.h && (unsigned)q < (unsigned)size.w;
        int row = UPSAMPLE ? (y >> 1) * (size.w >> 1) + (q >> 1) : y * size.w + q;
        const TX *from = first + (in ? row * x.ld + image * (int)x.sample : 0);
        char *p = to + place_x(i);
        if constexpr (WHOLE_X || !(NORM || SILU)) {
            copy_vector<WHOLE_X>(p, from, in ? left : 0);
        } else {
            float v[V] = {};
            if (in) {
#pragma unroll
                for (int e = 0; e < V; ++e)
                    if (e < left) v[e] = to_f32(from[e]);
                Coefficients(ab + (i64)(at.n + image) * 2 * size.c + c, size.c, left).apply(v);
#pragma unroll
                for (int e = 0; e < V; ++e)
                    if (e >= left) v[e] = 0.f;
            }
            *reinterpret_cast<uint4 *>(p) = pack(v);
        }
        inside |= (u32)in << i;
    }
    return inside;
}

__device__ __forceinline__ void copy_y(char *to, const View<const TY> &dy, Place at, const Size &size, int k0) {
    int k = k0 + chunk() * V, left = size.k - k;
    const TY *first = dy.row(at.n, 0) + (left > 0 ? k : 0);
#pragma unroll
    for (int i = 0; i < Y_COPIES; ++i) {
        int p = pixel(i), image = p / (ROWS * COLUMNS), y = at.y + p / COLUMNS % ROWS, q = at.x + p % COLUMNS;
        bool in = left > 0 && at.n + image < size.n && y < size.h && q < size.w;
        const TY *from = first + (in ? (y * size.w + q) * dy.ld + image * (int)dy.sample : 0);
        copy_vector<WHOLE_Y>(to + swizzle_y(p, chunk()), from, in ? left : 0);
    }
}

// Activates the vectors of x that a WHOLE copy brought and rounds all to tf32, in place; n is the first image.
__device__ __forceinline__ void transform(char *x, char *y, u32 inside, const float *ab, int n, const Size &size,
                                          int c0) {
    if constexpr (WHOLE_X && (NORM || SILU || TF32)) {
        ab += (i64)n * 2 * size.c + c0 + chunk() * V;
        Coefficients table(ab, size.c, inside ? size.c : 0);
#pragma unroll
        for (int i = 0; i < X_COPIES; ++i) {
            if (!(inside >> i & 1)) continue;
            TP *p = reinterpret_cast<TP *>(x + place_x(i));
            float v[V];
            load<V>(p, v);
            if constexpr (IMAGES > 1) table = Coefficients(ab + (i64)(pixel(i) / IMAGE) * 2 * size.c, size.c, size.c);
            table.apply(v);
            *reinterpret_cast<uint4 *>(p) = pack(v);
        }
    }
    if constexpr (WHOLE_Y && TF32) {
#pragma unroll
        for (int i = 0; i < Y_COPIES; ++i) {
            TP *p = reinterpret_cast<TP *>(y + swizzle_y(pixel(i), chunk()));
            float v[V];
            load<V>(p, v);
            *reinterpret_cast<uint4 *>(p) = pack(v);
        }
    }
}

// A warp's 32 K x 16 C x nine taps.
struct Warp {
    float sums[9][2][2][4] = {};
    int lane, k, c;  // first channels in the tile

    __device__ __forceinline__ Warp() {
        lane = threadIdx.x & 31;
        k = (threadIdx.x >> 5 & 1) * 32;
        c = (threadIdx.x >> 6) * 16;
    }

    // Fragments of dy^T, 16 pixels from 16 kk on.
    __device__ __forceinline__ void step_bf16(u32 x, u32 y) {
        int half = lane >> 3 & 1, i = lane & 7;
        u32 from_y = y + swizzle_y((lane >> 4) * 8 + i, k / 8 + half);
        u32 from_x[3];
#pragma unroll
        for (int s = 0; s < 3; ++s) {
            int hy = COLUMNS == 16 ? 0 : COLUMNS == 8 ? half : 2 * half + (i >> 2);
            int hx = s + (COLUMNS == 16 ? half * 8 + i : COLUMNS == 8 ? i : i & 3);
            from_x[s] = x + swizzle_x(hy, hx, c / 8 + (lane >> 4));
        }
        constexpr int NEXT = (COLUMNS == 16 ? HW : COLUMNS == 8 ? 2 * HW : IMAGE) * PITCH;
#pragma unroll 1
        for (int kk = 0; kk < PIXELS / 16; ++kk) {
            u32 a[2][4];
            ldmatrix_x4_trans(a[0], from_y);
            ldmatrix_x4_trans(a[1], from_y ^ 32);
#pragma unroll
            for (int tap = 0; tap < 9; ++tap) {
                u32 b[4], flip = COLUMNS == 4 && tap / 3 == 1 ? 64 : 0;
                ldmatrix_x4_trans(b, (from_x[tap % 3] ^ flip) + tap / 3 * HW * PITCH);
#pragma unroll
                for (int m = 0; m < 2; ++m)
#pragma unroll
                    for (int n = 0; n < 2; ++n) mma(sums[tap][m][n], a[m], b[2 * n], b[2 * n + 1]);
            }
            from_y += 16 * PITCH;
#pragma unroll
            for (int s = 0; s < 3; ++s) from_x[s] += NEXT;
        }
    }

    // The same of 8 pixels; ldmatrix transposes 16-bit elements only.
    __device__ __forceinline__ void step_tf32(u32 x, u32 y) {
        int g = lane >> 2, t = lane & 3;
        u32 from_y = y + swizzle_y(t, k / 4 + (g >> 2)) + (g & 3) * 4;
#pragma unroll 1
        for (int kk = 0; kk < PIXELS / 8; ++kk) {
            u32 a[2][4];
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    a[m][e] = load_word((from_y ^ (m * 64 + (e & 1) * 32)) + (e >> 1) * 4 * PITCH);
            from_y += 8 * PITCH;
            int first = kk * 8, row = first / COLUMNS % ROWS, column = first % COLUMNS + t;
            u32 image = x + first / (ROWS * COLUMNS) * IMAGE * PITCH + (g & 3) * 4;
#pragma unroll
            for (int tap = 0; tap < 9; ++tap) {
                // Pixels t and t + 4: four columns further on, or in the next row.
                constexpr int NEXT = (COLUMNS == 4 ? HW : 4) * PITCH;
                u32 from_x = image + swizzle_x(row + tap / 3, column + tap % 3, c / 4 + (g >> 2));
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    u32 b0 = load_word(from_x ^ n * 32), b1 = load_word((from_x ^ n * 32) + NEXT);
#pragma unroll
                    for (int m = 0; m < 2; ++m) mma(sums[tap][m][n], a[m], b0, b1);
                }
            }
        }
    }

    __device__ __forceinline__ void step(u32 x, u32 y) {
        if constexpr (TF32)
            step_tf32(x, y);
        else
            step_bf16(x, y);
    }

    __device__ __forceinline__ void write(float *part, const Size &size, int k0, int c0) const {
        int g = lane >> 2, t = lane & 3;
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int row = k0 + k + m * 16 + half * 8 + g;
                if (row >= size.k) continue;
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    int column = c0 + c + n * 8 + 2 * t;
                    float *p = part + (i64)row * 9 * size.c + column;
#pragma unroll
                    for (int tap = 0; tap < 9; ++tap, p += size.c) {
                        const float *v = &sums[tap][m][n][2 * half];
                        if (size.c % 2 == 0) {
                            if (column < size.c) *reinterpret_cast<float2 *>(p) = make_float2(v[0], v[1]);
                        } else {
                            if (column < size.c) p[0] = v[0];
                            if (column + 1 < size.c) p[1] = v[1];
                        }
                    }
                }
            }
    }
};

// Sum of a quarter of a step's pixels of channel threadIdx.x % 64 of dy.
__device__ __forceinline__ float column_sum(const char *y) {
    constexpr int COUNT = PIXELS / 4;
    int k = threadIdx.x % TILE, first = threadIdx.x / TILE * COUNT;
    float sum = 0.f;
#pragma unroll 4
    for (int p = 0; p < COUNT; ++p)
        sum += to_f32(*reinterpret_cast<const TP *>(y + swizzle_y(first + p, k / V) + k % V * sizeof(TP)));
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    conv2d_wgrad(View<const TX> x, const float *ab, View<const TY> dy, int n, int h, int w, int c, int k,
                 float *part) {
    grid_begin();
    extern __shared__ __align__(128) char shared[];
    const Size size = {n, h, w, c, k};
    int tiles_c = (c + TILE - 1) / TILE, c0 = blockIdx.x % tiles_c * TILE, k0 = blockIdx.x / tiles_c * TILE;
    int tiles_x = (w + COLUMNS - 1) / COLUMNS, tiles_y = (h + ROWS - 1) / ROWS;
    int steps = (n + IMAGES - 1) / IMAGES * tiles_y * tiles_x;
    int from = (int)((i64)steps * blockIdx.y / gridDim.y), to = (int)((i64)steps * (blockIdx.y + 1) / gridDim.y);
    Warp warp;
    int late = threadIdx.x >> 7 & 1;
    bool columns = c0 == 0;
    float column = 0.f;

    // The step that is copied next, and the stage it goes to.
    Place ahead = {from / (tiles_x * tiles_y) * IMAGES, from / tiles_x % tiles_y * ROWS, from % tiles_x * COLUMNS};
    int to_stage = 0;
    auto copy = [&](bool more) {
        u32 inside = 0;
        if (more) {
            char *stage = shared + to_stage * STAGE_BYTES;
            inside = copy_x(stage, x, ab, ahead, size, c0);
            copy_y(stage + X_BYTES, dy, ahead, size, k0);
            ahead.advance(size);
        }
        copy_async_commit();
        to_stage = to_stage == STAGES - 1 ? 0 : to_stage + 1;
        return inside;
    };
    int image = ahead.n;
    u32 inside = copy(true);
    copy_async_wait<0>();
    transform(shared, shared + X_BYTES, inside, ab, image, size, c0);
    image = ahead.n;
    inside = copy(from + 1 < to);
    char *here = shared;
#pragma unroll 1
    for (int step = from; step < to; ++step) {
        copy_async_wait<0>();
        // Publishes this step; and all warps are done with the stage that is filled next.
        __syncthreads();
        int image_after = ahead.n;
        u32 inside_after = copy(step + 2 < to);
        char *next = here == shared + (STAGES - 1) * STAGE_BYTES ? shared : here + STAGE_BYTES;
        // Half of the warps of a scheduler activate before their products and half after them, so that tensor cores
        // have work.
#pragma unroll 1
        for (int turn = 0; turn < 2; ++turn) {
            if (turn != late)
                warp.step(shared_address(here), shared_address(here + X_BYTES));
            else if (step + 1 < to)
                transform(next, next + X_BYTES, inside, ab, image, size, c0);
        }
        if (columns) column += column_sum(here + X_BYTES);
        here = next, inside = inside_after, image = image_after;
    }

    part += (i64)blockIdx.y * (((i64)(9 * c + 1) * k + 3) & ~3ll);
    warp.write(part, size, k0, c0);
    if (!columns) return;
    __syncthreads();
    float *quarter = reinterpret_cast<float *>(shared);
    quarter[threadIdx.x] = column;
    __syncthreads();
    int out = k0 + threadIdx.x;
    if (threadIdx.x < TILE && out < k) {
        const float *p = quarter + threadIdx.x;
        part[(i64)9 * c * k + out] = (p[0] + p[TILE]) + (p[2 * TILE] + p[3 * TILE]);
    }
}
