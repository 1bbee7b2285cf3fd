// 3x3 convolution (stride 1, zero padding 1) and its input gradient on tensor cores (sm_80 and later).
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
// TW is the type of the filter and of the products: bf16 (m16n8k16), or float for tf32 (m16n8k8, both operands
// rounded to nearest in shared memory). Rows in shared memory are 64 bytes of channels (32 bf16, 16 tf32), so that
// both have the same geometry.
//
// A block makes IMAGES x ROWS x COLUMNS pixels by BN channels; blockIdx.x = pixel tile * K tiles + K tile, so that
// the blocks of one pixel tile run together and share its input in L2. A warp makes WM pixels x WN channels.
// Implicit GEMM with the reduction ordered (chunk of channels, filter column, filter row): the tile with a border
// of one pixel (the halo) is copied once per chunk and serves all nine taps. A stage is the three taps of one filter
// column; a warp reads WM / COLUMNS + 2 halo rows for them and slides them over the three filter rows in registers.
// Halo and filter stages are double-buffered by cp.async. Each thread activates the vectors that it copied itself,
// in place, one stage before they are needed: once per element, and the zero padding stays zero.
//
// Bank conflicts: the 16-byte chunks of a 64-byte row are permuted by a key of the halo column (COLUMNS 4: of row
// and column), not of the linear row; so fragments of all filter rows share one address and a constant offset, and
// any 8 pixels of a fragment row cover all banks at every tap.
// The epilogue goes through shared memory as f32: bias, residual, rounding, 16-byte stores of whole pixel rows.
//
// FLOPs 2 N H W K (9 C + S). Bytes into a block and 64-byte chunk: 64 (IMAGES (ROWS + 2) (COLUMNS + 2) + 9 BN).
//
// Registers on sm_80, 86, 89, 90, 120 by ptxas (bf16 with norm, SiLU and shortcut), never a spill; shared memory:
//
//   tile, K        warp    KiB
//   1x8x8, 64      32x32   36.5   110 110 110 118 140
//   1x8x16, 128    64x32   70.5   150 150 150 156 172
//   1x16x16, 128   64x64   88.5   238 238 238 239 250
//   2x8x8, 128     64x32   73     168 168 168 177 198
//   1x8x16, 64     64x32   46.5   163 163 163 170 188
//   4x4x4, 64      32x32   42     135 135 135 146 172
//   1x8x16, 32     32x32   34.5   120 120 120 126 148
//
// Main loop of 1x8x16, 128 on sm_86: 4 mma per ldmatrix, 1.3 other instructions per mma, 2.0 with norm and SiLU; no
// bank conflicts.
#define TP TW
#include "conv2d_vector.cuh"

// Elements per global access: of x, the filter, w2.
#ifndef VX
#define VX 1
#endif
#ifndef VW
#define VW 1
#endif
#ifndef VS
#define VS 1
#endif
// Blocks per multiprocessor that registers must allow.
#ifndef BLOCKS
#define BLOCKS 1
#endif

constexpr int BC = 4 * V;  // channels of a chunk
constexpr int PIXELS = ROWS * COLUMNS, BM = IMAGES * PIXELS;
constexpr int WARPS_M = BM / WM, WARPS_N = BN / WN, THREADS = 32 * WARPS_M * WARPS_N;
constexpr int HW = COLUMNS + 2, IMAGE = (ROWS + 2) * HW, HALO = IMAGES * IMAGE;
constexpr int HALO_BYTES = HALO * 64, FILTER_BYTES = 3 * BN * 64;
constexpr int HALO_COPIES = (HALO * 4 + THREADS - 1) / THREADS, FILTER_COPIES = 3 * BN * 4 / THREADS;
constexpr int M = WM / 16, N = WN / 8;

static_assert(COLUMNS == 4 || COLUMNS == 8 || COLUMNS == 16, "a fragment is 1, 2 or 4 rows");
static_assert(PIXELS % WM == 0 || IMAGES == 1 || COLUMNS == 4, "a warp stays in one image");
static_assert(3 * BN * 4 % THREADS == 0 && THREADS % (BN / V) == 0, "every thread copies as many filter vectors");

#include "conv2d_epilogue.cuh"

// Position of 16-byte chunk `chunk` of halo pixel (y, x) in its image.
__device__ __forceinline__ int swizzle(int y, int x, int chunk) {
    int key = COLUMNS == 4 ? (x >> 1 & 1) | (y & 1) << 1 : x >> 1 & 3;
    return (y * HW + x) * 64 + ((chunk ^ key) << 4);
}

// The halo vectors of a thread: vector i is number threadIdx.x + i THREADS in (pixel, chunk) order.
struct Halo {
    int from[HALO_COPIES];  // offset in the tensor, of channel 0; 0 outside
    int to[HALO_COPIES];    // byte in shared memory
    u32 inside;             // bit i: the pixel lies in the image

    static __device__ __forceinline__ bool exists(int i) {
        return (i + 1) * THREADS <= HALO * 4 || threadIdx.x + i * THREADS < HALO * 4;
    }
    static __device__ __forceinline__ int pixel(int i) { return (threadIdx.x + i * THREADS) / 4; }
    static __device__ __forceinline__ int image(int i) { return IMAGES == 1 ? 0 : pixel(i) / IMAGE; }
    static __device__ __forceinline__ int channel(int first) { return first + (threadIdx.x & 3) * V; }

    template <bool UP, class T>
    __device__ __forceinline__ void locate(const View<const T> &x, Place at, Size size) {
        inside = 0;
#pragma unroll
        for (int i = 0; i < HALO_COPIES; ++i) {
            int hy = pixel(i) % IMAGE / HW, hx = pixel(i) % HW, y = at.y + hy - 1, q = at.x + hx - 1;
            bool in = exists(i) && at.n + image(i) < size.n;
            in = in && (unsigned)y < (unsigned)size.h && (unsigned)q < (unsigned)size.w;
            int row = UP ? (y >> 1) * (size.w >> 1) + (q >> 1) : y * size.w + q;
            from[i] = in ? row * x.ld + image(i) * (int)x.sample : 0;
            to[i] = image(i) * IMAGE * 64 + swizzle(hy, hx, threadIdx.x & 3);
            inside |= (u32)in << i;
        }
    }

    // Starts to copy the chunk from channel `first` on. Copies that are not WHOLE are activated at once.
    template <bool WHOLE, bool ACT, class T>
    __device__ __forceinline__ void copy(char *halo, const T *x, const float *ab, int channels, int first,
                                         Place at) const {
        int c = channel(first), left = channels - c;
        u32 mask = left > 0 ? inside : 0;
        x += left > 0 ? c : 0;
#pragma unroll
        for (int i = 0; i < HALO_COPIES; ++i) {
            if (!exists(i)) continue;
            if constexpr (WHOLE || !ACT || !(NORM || SILU)) {
                copy_vector<WHOLE>(halo + to[i], x + from[i], mask >> i & 1 ? left : 0);
            } else {
                float v[V] = {};
                if (mask >> i & 1) {
#pragma unroll
                    for (int e = 0; e < V; ++e)
                        if (e < left) v[e] = to_f32(x[from[i] + e]);
                    Coefficients(ab + (i64)(at.n + image(i)) * 2 * channels + c, channels, left).apply(v);
#pragma unroll
                    for (int e = 0; e < V; ++e)
                        if (e >= left) v[e] = 0.f;
                }
                *reinterpret_cast<uint4 *>(halo + to[i]) = pack(v);
            }
        }
    }

    // Activates what a WHOLE copy brought (ACT) and rounds it to tf32, in place.
    template <bool WHOLE, bool ACT>
    __device__ __forceinline__ void transform(char *halo, const float *ab, int channels, int first, Place at) const {
        constexpr bool ACTIVE = ACT && (NORM || SILU);
        if constexpr (!WHOLE || !(ACTIVE || TF32)) return;
        int c = channel(first), left = channels - c;
        if (left <= 0) return;
        ab += (i64)at.n * 2 * channels + c;
        Coefficients table(ab, channels, ACTIVE ? left : 0);
#pragma unroll
        for (int i = 0; i < HALO_COPIES; ++i) {
            if (!(inside >> i & 1)) continue;
            TW *p = reinterpret_cast<TW *>(halo + to[i]);
            float x[V];
            load<V>(p, x);
            const float *p_ab = ab + (i64)image(i) * 2 * channels;
            if constexpr (ACTIVE && IMAGES > 1) table = Coefficients(p_ab, channels, left);
            if constexpr (ACTIVE) table.apply(x);
            *reinterpret_cast<uint4 *>(p) = pack(x);
        }
    }
};

// The filter vectors of a thread, of one stage. Rows of a stage: fprop [r][BN results][BC channels], DGRAD
// [r][BC channels][BN results], in either case as they lie in memory.
struct Filter {
    static constexpr int ROW = DGRAD ? BN / V : 4;        // vectors of a row
    static constexpr int STEP = THREADS / ROW;            // rows between a thread's vectors
    static constexpr int PER = (DGRAD ? BC : BN) / STEP;  // vectors of a tap

    static __device__ __forceinline__ int row() { return threadIdx.x / ROW; }
    static __device__ __forceinline__ int vector() { return threadIdx.x % ROW; }
    static __device__ __forceinline__ int to() {
        int key = ROW == 4 ? row() >> 1 & 3 : TF32 ? (row() & 3) * 2 : row() & 7;
        return row() * ROW * 16 + ((vector() ^ key) << 4);
    }

    // Column s of the chunk from channel `first` on, for results k0.. of `results`.
    static __device__ __forceinline__ void copy(char *filter, const TW *w, int channels, int results, int k0, int first,
                                                int s) {
        int pitch = DGRAD ? results : channels;  // between taps
        int inner = (DGRAD ? k0 : first) + vector() * V, outer = (DGRAD ? first : k0) + row();
        int line[PER], left[PER];
#pragma unroll
        for (int p = 0; p < PER; ++p) {
            left[p] = outer + p * STEP < (DGRAD ? channels : results) ? pitch - inner : 0;
            line[p] = left[p] > 0 ? (outer + p * STEP) * 9 * pitch + inner : 0;
        }
        w += DGRAD ? (2 - s) * pitch : s * pitch;
#pragma unroll
        for (int i = 0; i < FILTER_COPIES; ++i) {
            int r = DGRAD ? 2 - i / PER : i / PER;
            char *p = filter + to() + i * THREADS * 16;
            copy_vector<VW == V>(p, w + (line[i % PER] + 3 * r * pitch), left[i % PER]);
        }
    }

    // One tap, of w2 [results][channels]; rows as in fprop.
    static __device__ __forceinline__ void copy_shortcut(char *filter, const TW *w, int channels, int results, int k0,
                                                         int first) {
#pragma unroll
        for (int v = threadIdx.x; v < BN * 4; v += THREADS) {
            int k = k0 + (v >> 2), c = first + (v & 3) * V, left = k < results ? channels - c : 0;
            char *p = filter + (v >> 2) * 64 + (((v & 3) ^ (v >> 3 & 3)) << 4);
            copy_vector<VS == V>(p, left > 0 ? w + (k * channels + c) : w, left);
        }
    }

    // Rounds what the thread copied asynchronously to tf32.
    template <int COPIES>
    static __device__ __forceinline__ void transform(char *filter) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            float *p = reinterpret_cast<float *>(filter + to() + i * THREADS * 16);
            float x[V];
            load<V>(p, x);
            *reinterpret_cast<uint4 *>(p) = pack(x);
        }
    }
};

// A warp's part of the tile: addresses in shared memory and sums.
struct Warp {
    float sums[M][N][4] = {};
    int lane, m0, n0;  // first pixel and channel in the tile
    int late;          // 1 for every second warp of a scheduler

    __device__ __forceinline__ Warp() {
        int warp = threadIdx.x >> 5;
        lane = threadIdx.x & 31;
        m0 = warp / WARPS_N * WM;
        n0 = warp % WARPS_N * WN;
        late = warp >> 2 & 1;
    }

    // Address of the lane's row of the first fragment load at filter column s (COLUMNS 4: filter row 0).
    __device__ __forceinline__ u32 halo_address(u32 halo, int s) const {
        int y = m0 % PIXELS / COLUMNS, half = lane >> 3 & 1, i = lane & 7;
        int hy = COLUMNS == 16 ? y : COLUMNS == 8 ? y + half : y + 2 * half + (i >> 2);
        int hx = s + (COLUMNS == 16 ? half * 8 + i : COLUMNS == 8 ? i : i & 3);
        return halo + m0 / PIXELS * IMAGE * 64 + swizzle(hy, hx, lane >> 4);
    }

    // Fragment rows of the halo for filter rows FIRST .. 2 of one column: load j is image row j (COLUMNS 16), image
    // rows 2 j and 2 j + 1 (8), or image j at filter row r (4).
    static constexpr int LOADS = COLUMNS == 16 ? M + 2 : COLUMNS == 8 ? M + 1 : M;

    __device__ __forceinline__ void load_row(u32 (&a)[4], u32 address, int j, int r, int kk) const {
        constexpr int STRIDE = COLUMNS == 16 ? HW : COLUMNS == 8 ? 2 * HW : IMAGE;
        // An odd row of four columns has another key.
        u32 flip = COLUMNS == 4 ? (kk + r & 1) * 32 : kk * 32;
        ldmatrix_x4(a, (address ^ flip) + (j * STRIDE + (COLUMNS == 4 ? r * HW : 0)) * 64);
    }

    // Fragment m at filter row r.
    static __device__ __forceinline__ void fragment(u32 (&d)[4], const u32 (&a)[LOADS][4], int m, int r) {
        if constexpr (COLUMNS == 8) {
            const u32(&lo)[4] = a[m + r / 2];
            const u32(&hi)[4] = a[(m + r / 2 + 1) % LOADS];
            d[0] = r & 1 ? lo[1] : lo[0], d[1] = r & 1 ? hi[0] : lo[1];
            d[2] = r & 1 ? lo[3] : lo[2], d[3] = r & 1 ? hi[2] : lo[3];
        } else {
            const u32(&row)[4] = a[COLUMNS == 16 ? m + r : m];
#pragma unroll
            for (int i = 0; i < 4; ++i) d[i] = row[i];
        }
    }

    // Filter fragments (n, k): columns n0 + 8 n, k-step kk, of the rows that start at `filter`.
    template <bool TURNED>
    __device__ __forceinline__ void load_filter(u32 (&b)[N][2], u32 filter, int kk) const {
        if constexpr (!TURNED) {
            int row = n0 + (lane & 7) + (lane >> 4) * 8;
            u32 address = (filter + row * 64 + (((lane >> 3 & 1) ^ (row >> 1 & 3)) << 4)) ^ kk * 32;
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                u32 d[4];
                ldmatrix_x4(d, address + n * 8 * 64);
                b[n][0] = d[0], b[n][1] = d[1], b[n + 1][0] = d[2], b[n + 1][1] = d[3];
            }
        } else if constexpr (!TF32) {
            int key = BN == 32 ? lane >> 1 & 3 : lane & 7;
            u32 address = filter + (kk * 16 + (lane & 15)) * (BN * 2) + ((n0 / 8 + (lane >> 4) ^ key) << 4);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                u32 d[4];
                ldmatrix_x4_trans(d, address ^ n * 16);
                b[n][0] = d[0], b[n][1] = d[1], b[n + 1][0] = d[2], b[n + 1][1] = d[3];
            }
        } else {
            int t = lane & 3, g = lane >> 2;
            u32 address = filter + (kk * 8 + t) * (BN * 4) + ((n0 / 4 + (g >> 2) ^ 2 * t) << 4) + (g & 3) * 4;
#pragma unroll
            for (int n = 0; n < N; ++n) {
                b[n][0] = load_word(address ^ n * 32);
                b[n][1] = load_word((address ^ n * 32) + 4 * BN * 4);
            }
        }
    }

    // Products of filter column s: three taps.
    __device__ __forceinline__ void column(u32 halo, u32 filter, int s) {
        u32 address = halo_address(halo, s);
#pragma unroll
        for (int kk = 0; kk < 2; ++kk) {
            u32 a[LOADS][4], b[N][2], d[4];
            if constexpr (COLUMNS != 4)
#pragma unroll
                for (int j = 0; j < LOADS; ++j) load_row(a[j], address, j, 0, kk);
#pragma unroll
            for (int r = 0; r < 3; ++r) {
                load_filter<DGRAD>(b, filter + r * BN * 64, kk);
                if constexpr (COLUMNS == 4)
#pragma unroll
                    for (int j = 0; j < LOADS; ++j) load_row(a[j], address, j, r, kk);
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    fragment(d, a, m, r);
#pragma unroll
                    for (int n = 0; n < N; ++n) mma(sums[m][n], d, b[n][0], b[n][1]);
                }
            }
        }
    }

    // Products of the shortcut: the centre tap.
    __device__ __forceinline__ void centre(u32 halo, u32 filter) {
        u32 address = halo_address(halo, 1);
#pragma unroll
        for (int kk = 0; kk < 2; ++kk) {
            u32 a[LOADS][4], b[N][2], d[4];
#pragma unroll
            for (int j = 0; j < LOADS; ++j) load_row(a[j], address, j, COLUMNS == 4 ? 1 : 0, kk);
            load_filter<false>(b, filter, kk);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                fragment(d, a, m, 1);
#pragma unroll
                for (int n = 0; n < N; ++n) mma(sums[m][n], d, b[n][0], b[n][1]);
            }
        }
    }

    // Sums as rows of f32.
    __device__ __forceinline__ void stage(float *to, int first) const {
        int t = lane & 3, g = lane >> 2;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int n = 0; n < N; ++n) {
                float *p = to + (m0 - first + m * 16 + g) * PITCH + n0 + n * 8 + 2 * t;
                *reinterpret_cast<float2 *>(p) = make_float2(sums[m][n][0], sums[m][n][1]);
                *reinterpret_cast<float2 *>(p + 8 * PITCH) = make_float2(sums[m][n][2], sums[m][n][3]);
            }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    conv2d(View<const TX> x, const float *ab, const TW *w, const TB *bias, View<const TR> residual, const TW *w2,
           const TB *bias2, View<TY> y, int n, int h, int wd, int c, int k, int s) {
    grid_begin();
    extern __shared__ __align__(128) char shared[];
    char *halos = shared, *filters = shared + 2 * HALO_BYTES;
    const Size size = {n, h, wd};
    int tiles_k = (k + BN - 1) / BN, tiles_x = (wd + COLUMNS - 1) / COLUMNS, tiles_y = (h + ROWS - 1) / ROWS;
    int tile = blockIdx.x / tiles_k, k0 = blockIdx.x % tiles_k * BN;
    const Place at = {tile / (tiles_x * tiles_y) * IMAGES, tile / tiles_x % tiles_y * ROWS, tile % tiles_x * COLUMNS};
    constexpr bool WHOLE = VX == V && sizeof(TX) == sizeof(TW), WHOLE_FROM = VR == V && sizeof(TR) == sizeof(TW);
    constexpr bool ACTIVE = NORM || SILU || TF32;
    const TX *source = x.row(at.n, 0);

    // Chunks of the convolution (three stages each), then of the shortcut (one stage).
    int chunks = (c + BC - 1) / BC, total = chunks + (RESIDUAL == 3 ? (s + BC - 1) / BC : 0);
    Halo halo;
    halo.locate<UPSAMPLE>(x, at, size);
    halo.copy<WHOLE, true>(halos, source, ab, c, 0, at);
    Filter::copy(filters, w, c, k, k0, 0, 0);
    copy_async_commit();
    copy_async_wait<0>();
    halo.transform<WHOLE, true>(halos, ab, c, 0, at);

    Warp warp;
    int column = 0, buffer = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < total;) {
        bool shortcut = RESIDUAL == 3 && chunk >= chunks, last = shortcut || column == 2;
        char *here = halos + (chunk & 1) * HALO_BYTES, *next = halos + (~chunk & 1) * HALO_BYTES;
        copy_async_wait<0>();
        if constexpr (TF32) {
            if (shortcut) {
                Filter::transform<(BN * 4 + THREADS - 1) / THREADS>(filters + buffer * FILTER_BYTES);
                if (chunk > chunks) halo.transform<WHOLE_FROM, false>(here, ab, s, (chunk - chunks) * BC, at);
            } else {
                Filter::transform<FILTER_COPIES>(filters + buffer * FILTER_BYTES);
            }
        }
        // Publishes this stage; and all warps are done with the buffers that are filled next.
        __syncthreads();
        int following = chunk + last;
        char *filter = filters + (buffer ^ 1) * FILTER_BYTES;
        if (following < chunks)
            Filter::copy(filter, w, c, k, k0, following * BC, last ? 0 : column + 1);
        else if (RESIDUAL == 3 && following < total)
            Filter::copy_shortcut(filter, w2, s, k, k0, (following - chunks) * BC);
        if (column == 0) {
            if (chunk + 1 < chunks) {
                halo.copy<WHOLE, true>(next, source, ab, c, (chunk + 1) * BC, at);
            } else if (RESIDUAL == 3 && chunk + 1 < total) {
                if (chunk + 1 == chunks) halo.locate<false>(residual, at, size);
                halo.copy<WHOLE_FROM, false>(next, residual.row(at.n, 0), ab, s, (chunk + 1 - chunks) * BC, at);
            }
        }
        copy_async_commit();
        // The next halo was copied two stages ago, and nobody else reads it before the next barrier. Half of the warps
        // of a scheduler activate it before their products and half after them, so that tensor cores have work.
        u32 a = shared_address(here), b = shared_address(filters + buffer * FILTER_BYTES);
#pragma unroll 1
        for (int turn = 0; turn < (ACTIVE ? 2 : 1); ++turn) {
            if (ACTIVE && turn == warp.late) {
                if (column == 2 && chunk + 1 < chunks)
                    halo.transform<WHOLE, true>(next, ab, c, (chunk + 1) * BC, at);
                else if (column == 2 && chunk + 1 < total)
                    halo.transform<WHOLE_FROM, false>(next, ab, s, 0, at);
            } else if (shortcut) {
                warp.centre(a, b);
            } else {
                warp.column(a, b, column);
            }
        }
        buffer ^= 1;
        column = last ? 0 : column + 1;
        chunk = following;
    }

    // As many pixels at a time as the copies' buffers hold.
    constexpr int ROOM = (2 * HALO_BYTES + 2 * FILTER_BYTES) / (PITCH * 4);
    constexpr int COUNT = ROOM >= BM ? BM : ROOM >= BM / 2 ? BM / 2 : BM / 4;
    static_assert(COUNT % WM == 0 && COUNT <= ROOM, "a warp's sums are staged together");
    float *rows = reinterpret_cast<float *>(shared);
    const Epilogue epilogue(bias, bias2, k0, k);
#pragma unroll 1
    for (int first = 0; first < BM; first += COUNT) {
        __syncthreads();
        if (warp.m0 / COUNT * COUNT == first) warp.stage(rows, first);
        __syncthreads();
        epilogue.run<COUNT>(rows, first, y, residual, at, size, k0);
    }
}
