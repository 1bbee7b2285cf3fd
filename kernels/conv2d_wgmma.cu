// 3x3 convolution (stride 1, zero padding 1) and its input gradient on Hopper's warpgroup products (sm_90a), bf16.
//
// The sums and the macros are those of conv2d.cu, but for the input, which comes activated (and doubled) already, from
// norm_act of norm_pool.cu. Channels of all tensors in eights. Maps (bulk.cuh), boxes innermost first:
//
//   x       [N][H][W][C]     64 channels x HW x (ROWS + 2) x IMAGES
//   w       [K][9][C]        64 channels x 1 tap x BN;   DGRAD [C][9][K]: 64 results x 1 tap x 64 channels
//   source  [N][H][W][S]     as x, of the shortcut;      w2 [K][1][S]: as w
//
// A block makes IMAGES x ROWS x COLUMNS pixels by BN channels; blockIdx.x = pixel tile * K tiles + K tile. Pixels are
// cut in squares of 8x8, the 64 rows of one product. Two warpgroups multiply, each half of the squares; one thread of a
// further warp starts the copies of what they need.
// Implicit GEMM with the reduction ordered (chunk of 64 channels, filter tap). In shared memory a pixel of a chunk is a
// row of 128 bytes; the tile with a border of one pixel (the halo) is copied once per chunk, and the nine taps of a
// square are nine start addresses in it. A stage is a tap; its filter lies in a ring of STAGES. Products of a stage are
// known to be done one stage later; then its buffers are handed back.
// SPLITS > 1, for few tiles: blockIdx.y makes a part of the chunks' sum. A block leaves its part at `parts`,
// [tile][part] in an order of its own, and takes a ticket of the tile; who takes the last one adds the parts in order
// and goes on. The tickets are zeros, before and after.
//
// FLOPs 2 N H W K (9 C + S). Bytes into a block and chunk: 128 (IMAGES (ROWS + 2) (COLUMNS + 2) + 9 BN).
#define TP bf16
#include "bulk.cuh"
#include "wgmma.cuh"

#ifndef STAGES
#define STAGES 5
#endif
#ifndef BLOCKS
#define BLOCKS 1
#endif
#ifndef SPLITS
#define SPLITS 1
#endif

constexpr int THREADS = 256, ALL = THREADS + 32, BC = 64;
constexpr int PIXELS = ROWS * COLUMNS, BM = IMAGES * PIXELS;
constexpr int HW = COLUMNS + 2, IMAGE = (ROWS + 2) * HW, HALO = IMAGES * IMAGE;
constexpr int SQUARES = BM / 128;  // of a warpgroup

#include "conv2d_epilogue.cuh"

constexpr int HALO_BYTES = (HALO + 7) / 8 * 1024, TAP_BYTES = BN * 128;
// The shortcut's halos serve one stage each.
constexpr int HALOS = RESIDUAL == 3 ? 3 : 2;
// The next halo is copied at this tap: by then the products of the chunk before are done.
constexpr int COPY = 4;

static_assert(COLUMNS % 8 == 0 && ROWS % 8 == 0 && BM % 128 == 0 && BN % 64 == 0, "squares");

// Where in the reduction: chunk of channels (from `chunks` on: of the shortcut), filter tap; and which buffers, in
// which round.
struct Stage {
    int index = 0, chunk = 0, tap = 0, slot = 0, halo = 0;
    u32 round = 0, halo_round = 0;

    __device__ __forceinline__ explicit Stage(int first) : chunk(first) {}

    __device__ __forceinline__ void advance(int chunks) {
        ++index;
        if (++slot == STAGES) slot = 0, ++round;
        if (++tap < 9 && chunk < chunks) return;
        tap = 0, ++chunk;
        if (++halo == HALOS) halo = 0, ++halo_round;
    }
};

// The block's part of the chunks: its first one, where it ends, its stages. From `chunks` on they are the shortcut's.
struct Length {
    int chunks, first, end, stages;

    __device__ __forceinline__ Length(int c, int s) {
        chunks = (c + BC - 1) / BC;
        int all = 9 * chunks + (RESIDUAL == 3 ? (s + BC - 1) / BC : 0);
        first = chunk(all * (int)blockIdx.y / SPLITS), end = chunk(all * ((int)blockIdx.y + 1) / SPLITS);
        stages = end - first + 8 * (min(end, chunks) - min(first, chunks));
    }

    // That of a stage of the whole.
    __device__ __forceinline__ int chunk(int stage) const {
        return stage < 9 * chunks ? stage / 9 : chunks + stage - 9 * chunks;
    }
};

// Shared memory: halos, the ring, barriers.
struct Buffers {
    u32 halos;

    __device__ __forceinline__ u32 halo(int i) const { return halos + i * HALO_BYTES; }
    __device__ __forceinline__ u32 filter(int i) const { return halos + HALOS * HALO_BYTES + i * TAP_BYTES; }
    __device__ __forceinline__ u32 full(int i) const { return filter(STAGES) + i * 8; }
    __device__ __forceinline__ u32 empty(int i) const { return full(STAGES) + i * 8; }
    __device__ __forceinline__ u32 full_halo(int i) const { return empty(STAGES) + i * 8; }
    __device__ __forceinline__ u32 empty_halo(int i) const { return full_halo(HALOS) + i * 8; }

    __device__ __forceinline__ void begin() const {
        for (int i = 0; i < STAGES; ++i) barrier_begin(full(i), 1), barrier_begin(empty(i), THREADS / 32);
        for (int i = 0; i < HALOS; ++i) barrier_begin(full_halo(i), 1), barrier_begin(empty_halo(i), THREADS / 32);
        barriers_publish();
    }
};

struct Maps {
    const TensorMap &x, &w, &source, &w2;
};

// The thread that copies: all stages.
struct Copier {
    const Maps &maps;
    Buffers buffers;
    Length length;
    Place at;
    int k0;

    // The halo of chunk `chunk`; a buffer is free when its last round's products are done.
    __device__ __forceinline__ void copy_halo(int chunk) const {
        int number = (chunk - length.first) % HALOS, round = (chunk - length.first) / HALOS;
        bool shortcut = RESIDUAL == 3 && chunk >= length.chunks;
        if (round > 0) barrier_wait(buffers.empty_halo(number), round - 1 & 1);
        barrier_expect(buffers.full_halo(number), HALO * 128);
        copy_box(buffers.halo(number), shortcut ? maps.source : maps.x, buffers.full_halo(number),
                 (shortcut ? chunk - length.chunks : chunk) * BC, at.x - 1, at.y - 1, at.n);
    }

    __device__ __forceinline__ void copy_filter(const Stage &stage) const {
        u32 full = buffers.full(stage.slot), to = buffers.filter(stage.slot);
        if (stage.round > 0) barrier_wait(buffers.empty(stage.slot), stage.round - 1 & 1);
        barrier_expect(full, TAP_BYTES);
        int first = stage.chunk * BC;
        if (RESIDUAL == 3 && stage.chunk >= length.chunks) {
            copy_box(to, maps.w2, full, first - length.chunks * BC, 0, k0);
        } else if constexpr (DGRAD) {
#pragma unroll
            for (int i = 0; i < BN / 64; ++i)
                copy_box(to + i * 8192, maps.w, full, k0 + i * 64, 8 - stage.tap, first);
        } else {
            copy_box(to, maps.w, full, first, stage.tap, k0);
        }
    }

    __device__ __forceinline__ void run() const {
        copy_halo(length.first);
#pragma unroll 1
        for (Stage stage(length.first); stage.index < length.stages; stage.advance(length.chunks)) {
            copy_filter(stage);
            int tap = stage.chunk < length.chunks ? stage.tap : COPY;
            if (tap == COPY && stage.chunk + 1 < length.end) copy_halo(stage.chunk + 1);
        }
    }
};

// A warpgroup's part of the tile.
struct Warpgroup {
    float sums[SQUARES][BN / 2];
    u64 halo[SQUARES];  // top left tap of its squares, in the first buffer
    u64 filter;         // in the first stage of the ring

    // First pixel of square i in its image, and the image.
    static __device__ __forceinline__ Place square(int i) {
        int number = (int)(threadIdx.x >> 7) * SQUARES + i, within = number % (PIXELS / 64);
        return {number / (PIXELS / 64), within / (COLUMNS / 8) * 8, within % (COLUMNS / 8) * 8};
    }

    __device__ __forceinline__ Warpgroup(const Buffers &buffers) {
        filter = matrix(buffers.filter(0), DGRAD ? 8192 : 16, 1024);
#pragma unroll
        for (int i = 0; i < SQUARES; ++i) {
            Place at = square(i);
            halo[i] = matrix(buffers.halo(0) + (at.n * IMAGE + at.y * HW + at.x) * 128, 16, HW * 128);
        }
    }

    // Products of a stage: byte offsets of its tap in the halos and of its filter in the ring. The first start sums.
    __device__ __forceinline__ void stage(int tap, int ring, bool first) {
        products_begin();
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
            u64 b = advance(filter, ring + kk * (DGRAD ? 2048 : 32));
#pragma unroll
            for (int i = 0; i < SQUARES; ++i)
                multiply_async<0, DGRAD>(sums[i], advance(halo[i], tap + kk * 32), b, kk ? 1 : !first);
        }
        products_commit();
    }

    // All stages.
    __device__ __forceinline__ void run(const Buffers &buffers, const Length &length) {
        Stage here(length.first), done(length.first);
#pragma unroll 1
        for (; here.index < length.stages; here.advance(length.chunks)) {
            if (here.tap == 0) barrier_wait(buffers.full_halo(here.halo), here.halo_round & 1);
            barrier_wait(buffers.full(here.slot), here.round & 1);
            int tap = RESIDUAL == 3 && here.chunk >= length.chunks ? 4 : here.tap;
            stage(here.halo * HALO_BYTES + (tap / 3 * HW + tap % 3) * 128, here.slot * TAP_BYTES, here.index == 0);
            if (here.index == 0) continue;
            products_wait<1>();
            if (threadIdx.x % 32 == 0) {
                barrier_arrive(buffers.empty(done.slot));
                if (here.tap == 0) barrier_arrive(buffers.empty_halo(done.halo));
            }
            done.advance(length.chunks);
        }
        products_wait<0>();
    }

    // Leaves its part of the sums, and, with the tile's last ticket, takes the whole; whether it did. `shared` is free.
    __device__ __forceinline__ bool merge(float *parts, int *tickets, int *shared) {
        constexpr int COUNT = SQUARES * BN / 8;
        float4 *tile = reinterpret_cast<float4 *>(parts) + blockIdx.x * SPLITS * COUNT * THREADS + threadIdx.x;
        float4 *mine = tile + blockIdx.y * COUNT * THREADS;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const float *x = &sums[i / (BN / 8)][i % (BN / 8) * 4];
            mine[i * THREADS] = make_float4(x[0], x[1], x[2], x[3]);
        }
        __threadfence();
        warpgroups_wait<THREADS>();
        if (threadIdx.x == 0) *shared = atomicAdd(tickets + blockIdx.x, 1);
        warpgroups_wait<THREADS>();
        if (*shared != SPLITS - 1) return false;
        __threadfence();
        if (threadIdx.x == 0) tickets[blockIdx.x] = 0;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            float4 sum = tile[i * THREADS];
#pragma unroll
            for (int part = 1; part < SPLITS; ++part) {
                float4 x = tile[(part * COUNT + i) * THREADS];
                sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
            }
            float *x = &sums[i / (BN / 8)][i % (BN / 8) * 4];
            x[0] = sum.x, x[1] = sum.y, x[2] = sum.z, x[3] = sum.w;
        }
        warpgroups_wait<THREADS>();
        return true;
    }

    // Sums as rows of f32.
    __device__ __forceinline__ void store(float *to) const {
        int lane = threadIdx.x & 31, t = lane & 3, row = (threadIdx.x >> 5 & 3) * 16 + (lane >> 2);
#pragma unroll
        for (int i = 0; i < SQUARES; ++i) {
            Place at = square(i);
            float *p = to + (at.n * PIXELS + (at.y + row / 8) * COLUMNS + at.x + row % 8) * PITCH + 2 * t;
#pragma unroll
            for (int j = 0; j < BN / 8; ++j) {
                const float *x = &sums[i][4 * j];
                *reinterpret_cast<float2 *>(p + j * 8) = make_float2(x[0], x[1]);
                *reinterpret_cast<float2 *>(p + j * 8 + COLUMNS * PITCH) = make_float2(x[2], x[3]);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(ALL, BLOCKS)
    conv2d_wgmma(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const TB *bias,
                 View<const TR> residual, const __grid_constant__ TensorMap source,
                 const __grid_constant__ TensorMap w2, const TB *bias2, View<TY> y, float *parts, int *tickets, int n,
                 int h, int wd, int c, int k, int s) {
    extern __shared__ __align__(1024) char shared[];
    int tiles_k = (k + BN - 1) / BN, tiles_x = (wd + COLUMNS - 1) / COLUMNS, tiles_y = (h + ROWS - 1) / ROWS;
    int tile = blockIdx.x / tiles_k, k0 = blockIdx.x % tiles_k * BN;
    const Place at = {tile / (tiles_x * tiles_y) * IMAGES, tile / tiles_x % tiles_y * ROWS, tile % tiles_x * COLUMNS};
    const Size size = {n, h, wd};
    const Buffers buffers = {shared_address(shared)};
    const Length length(c, s);
    if (threadIdx.x == 0) buffers.begin();
    grid_begin();
    __syncthreads();
    // Nobody waits for this warp again.
    if (threadIdx.x >= THREADS) {
        if (threadIdx.x == THREADS) Copier{Maps{x, w, source, w2}, buffers, length, at, k0}.run();
        return;
    }
    Warpgroup group(buffers);
    group.run(buffers, length);
    // All products are done with the buffers, which take the sums.
    float *rows = reinterpret_cast<float *>(shared);
    warpgroups_wait<THREADS>();
    if (SPLITS > 1 && !group.merge(parts, tickets, reinterpret_cast<int *>(shared))) return;
    group.store(rows);
    warpgroups_wait<THREADS>();
    Epilogue(bias, bias2, k0, k).run<BM>(rows, 0, y, residual, at, size, k0);
}
