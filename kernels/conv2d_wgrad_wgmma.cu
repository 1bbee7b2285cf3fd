// Weight gradient of a 3x3 convolution on Hopper's warpgroup products (sm_90a), bf16, in parts:
//
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] act[n,p+r-1,q+s-1,c],   db[k] = sum_{n,p,q} dy[n,p,q,k]
//
// act [N][H][W][C] is the activated (and doubled) input, from norm_act of norm_pool.cu; dy [N][H][W][K]; part as
// in conv2d_wgrad.cu. Channels in eights. Maps (bulk.cuh), boxes innermost first: act 64 C x HW x (ROWS + 2) x IMAGES,
// dy 64 K x 8 x 8 x 1.
//
// A block makes 64 K x 64 C x all nine taps over a contiguous range of pixel steps; blockIdx.x = K tile * C tiles + C
// tile, blockIdx.y = split. Three warpgroups multiply, one filter row each; one thread of a further warp starts the
// copies of what they need. A step is IMAGES x ROWS x COLUMNS pixels, cut in squares of 8x8: dy square by square, act
// with a border of one pixel (the halo), a row of 128 bytes a pixel. The sum runs over pixels, so both are read
// transposed, eight pixels of a row at a time, and a tap is a start address in the halo.
// Steps lie in a ring of STAGES. Products of a step are known to be done one step later; then it is handed back.
//
// FLOPs 18 N H W K C. Bytes into a block and step: 128 (pixels + halo pixels), for 73728 x pixels FLOPs.
#include "bulk.cuh"
#include "wgmma.cuh"

constexpr int THREADS = 384, ALL = THREADS + 32, TILE = 64, STAGES = 4;
constexpr int PIXELS = IMAGES * ROWS * COLUMNS, HW = COLUMNS + 2, IMAGE = (ROWS + 2) * HW, HALO = IMAGES * IMAGE;
constexpr int ACROSS = COLUMNS / 8, OF_IMAGE = ROWS * COLUMNS / 64;  // squares
constexpr int X_BYTES = (HALO + 7) / 8 * 1024, STAGE_BYTES = X_BYTES + PIXELS * 128;

static_assert(ROWS % 8 == 0 && COLUMNS % 8 == 0, "squares");

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

// A warpgroup's 64 K x 64 C x three taps.
struct Warpgroup {
    float sums[3][TILE / 2];
    u64 x, y;  // of the first stage: its filter row of the halo, dy

    __device__ __forceinline__ Warpgroup(u32 stages) {
        int row = threadIdx.x >> 7;
        x = matrix(stages + row * HW * 128, 16, HW * 128);
        y = matrix(stages + X_BYTES, 16, 1024);
    }

    // Products of the stage at a byte offset; the first start the sums.
    __device__ __forceinline__ void step(int stage, bool first) {
        products_begin();
#pragma unroll
        for (int kk = 0; kk < PIXELS / 16; ++kk) {
            int square = kk / 4, image = square / OF_IMAGE, row = square % OF_IMAGE / ACROSS * 8 + kk % 4 * 2;
            int at = image * IMAGE + row * HW + square % ACROSS * 8;
#pragma unroll
            for (int s = 0; s < 3; ++s)
                multiply_async<1, 1>(sums[s], advance(y, stage + kk * 2048), advance(x, stage + (at + s) * 128),
                                     kk ? 1 : !first);
        }
        products_commit();
    }

    __device__ __forceinline__ void write(float *part, const Size &size, int k0, int c0) const {
        int lane = threadIdx.x & 31, row = k0 + (threadIdx.x >> 5 & 3) * 16 + (lane >> 2), column = c0 + 2 * (lane & 3);
        part += (i64)row * 9 * size.c + (threadIdx.x >> 7) * 3 * size.c + column;
#pragma unroll
        for (int half = 0; half < 2; ++half, row += 8, part += 8 * 9 * size.c) {
            if (row >= size.k) return;
#pragma unroll
            for (int s = 0; s < 3; ++s)
#pragma unroll
                for (int j = 0; j < TILE / 8; ++j) {
                    const float *v = &sums[s][4 * j + 2 * half];
                    if (column + j * 8 < size.c)
                        *reinterpret_cast<float2 *>(part + s * size.c + j * 8) = make_float2(v[0], v[1]);
                }
        }
    }
};

// Sum of a sixth of a step's pixels of channel threadIdx.x % 64 of dy.
__device__ __forceinline__ float column_sum(const char *y) {
    constexpr int PARTS = THREADS / TILE, COUNT = (PIXELS + PARTS - 1) / PARTS;
    int k = threadIdx.x % TILE, first = threadIdx.x / TILE * COUNT;
    float sum = 0.f;
#pragma unroll 2
    for (int p = first; p < min(first + COUNT, PIXELS); ++p)
        sum += to_f32(*reinterpret_cast<const bf16 *>(y + swizzled(p, k / 8) + k % 8 * 2));
    return sum;
}

// Steps from .. to of all.
struct Range {
    int from, to;
    Place first;

    __device__ __forceinline__ Range(const Size &size) {
        int tiles_x = (size.w + COLUMNS - 1) / COLUMNS, tiles_y = (size.h + ROWS - 1) / ROWS;
        int steps = (size.n + IMAGES - 1) / IMAGES * tiles_y * tiles_x;
        from = (int)((i64)steps * blockIdx.y / gridDim.y), to = (int)((i64)steps * (blockIdx.y + 1) / gridDim.y);
        first = {from / (tiles_x * tiles_y) * IMAGES, from / tiles_x % tiles_y * ROWS, from % tiles_x * COLUMNS};
    }
};

// The thread that copies: all steps. Barriers "full" at `barriers`, "empty" behind them.
__device__ __forceinline__ void copy(u32 stages, u32 barriers, const TensorMap &x, const TensorMap &dy,
                                     const Size &size, int c0, int k0) {
    const Range range(size);
    Place at = range.first;
#pragma unroll 1
    for (int step = 0; step < range.to - range.from; ++step, at.advance(size)) {
        int slot = step % STAGES, round = step / STAGES;
        u32 full = barriers + slot * 8, to = stages + slot * STAGE_BYTES;
        if (round > 0) barrier_wait(full + STAGES * 8, round - 1 & 1);
        barrier_expect(full, (HALO + PIXELS) * 128);
        copy_box(to, x, full, c0, at.x - 1, at.y - 1, at.n);
#pragma unroll
        for (int i = 0; i < PIXELS / 64; ++i)
            copy_box(to + X_BYTES + i * 8192, dy, full, k0, at.x + i % ACROSS * 8, at.y + i % OF_IMAGE / ACROSS * 8,
                     at.n + i / OF_IMAGE);
    }
}

extern "C" __global__ void __launch_bounds__(ALL, 1)
    conv2d_wgrad_wgmma(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy, int n, int h, int w,
                       int c, int k, float *part) {
    extern __shared__ __align__(1024) char shared[];
    const Size size = {n, h, w, c, k};
    int tiles_c = (c + TILE - 1) / TILE, c0 = blockIdx.x % tiles_c * TILE, k0 = blockIdx.x / tiles_c * TILE;
    u32 stages = shared_address(shared), barriers = stages + STAGES * STAGE_BYTES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_begin(barriers + i * 8, 1);
            barrier_begin(barriers + (STAGES + i) * 8, THREADS / 32);
        }
        barriers_publish();
    }
    grid_begin();
    __syncthreads();
    // Nobody waits for this warp again.
    if (threadIdx.x >= THREADS) {
        if (threadIdx.x == THREADS) copy(stages, barriers, x, dy, size, c0, k0);
        return;
    }
    const Range range(size);
    Warpgroup group(stages);
    bool columns = c0 == 0;
    float column = 0.f;
    int steps = range.to - range.from;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        int slot = step % STAGES;
        barrier_wait(barriers + slot * 8, step / STAGES & 1);
        group.step(slot * STAGE_BYTES, step == 0);
        if (columns) column += column_sum(shared + slot * STAGE_BYTES + X_BYTES);
        products_wait<1>();
        // The column sums of the step before are done as well: its warp has passed them.
        if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(barriers + (STAGES + (step - 1) % STAGES) * 8);
    }
    products_wait<0>();

    part += (i64)blockIdx.y * (((i64)(9 * c + 1) * k + 3) & ~3ll);
    group.write(part, size, k0, c0);
    if (!columns) return;
    float *sixth = reinterpret_cast<float *>(shared);
    warpgroups_wait<THREADS>();
    sixth[threadIdx.x] = column;
    warpgroups_wait<THREADS>();
    if (threadIdx.x >= TILE || k0 + (int)threadIdx.x >= k) return;
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < THREADS / TILE; ++i) sum += sixth[threadIdx.x + i * TILE];
    part[(i64)9 * c * k + k0 + threadIdx.x] = sum;
}
