// Weight gradient of a linear layer: dW = dy^T act(x), db = column sums of dy.
//
// x [n, rows, C], dy [n, rows, K], dW [K, C], db [K], both f32. Rows of all samples are one list of M. Grid: x one
// block per tile of dW, z one per stretch of rows ("split"). With one split the results go to dW and db, else to
// partial sums [splits][K C] and [splits][K], which linear_wgrad_reduce adds in order: splits depend on shape and
// device only.
// The blocks of the first column tile sum dy's columns beside, on tensor cores as the product with a column of ones.
// 2 M C K FLOP; x is read K / BM times, dy C / BN times.
//
// Macros: TX, TY storage of x, dy; VX, VY, VW neighbours that may be accessed at once (rows of x, dy, dW); NORM, SILU 0
// or 1. MMA 0: f32 products, tiles of 64x64, 256 threads. MMA 1: tensor cores (gemm.cuh), TX = TY with 16-byte rows;
// BM = BN, WM, WN, STAGES, BLOCKS (blocks per multiprocessor).
#include "linear.cuh"

struct Problem {
    View<const TX> x;
    View<const TY> dy;
    const float *ab;
    float *dw, *db;
    int add_w, add_b;  // add to what is there
    int begin, end, per_sample, c, k;
};

#if MMA
#include "gemm.cuh"

namespace tensor {

struct Source {
    static constexpr bool A_ROWS = false, B_ROWS = false;
    using Loader = ColumnLoader<TX, BN>;
    const Problem &in;
    Loader dy, x;
    Place fetching, activating;  // of this thread's first row of a chunk
    int fetched, activated;
    bool with_bias;
    float a[VEC<TX>], b[VEC<TX>];
    float bias[WM / 16][4];

    __device__ __forceinline__ Source(const Problem &in, int k0, int c0)
        : in(in), dy(k0, in.k), x(c0, in.c), fetching(in.begin + Loader::first(), in.per_sample), activating(fetching),
          fetched(in.begin + Loader::first()), activated(fetched), with_bias(c0 == 0 && warp_col() == 0) {
        static_assert(BM == BN, "the rows of both operands are the same threads'");
#pragma unroll
        for (int m = 0; m < WM / 16; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) bias[m][i] = 0.f;
    }
    __device__ __forceinline__ void fetch(u32 stage) {
#pragma unroll
        for (int i = 0; i < x.COUNT; ++i) {
            const bool inside = fetched + i * x.STEP < in.end;
            Place at = fetching + i * x.STEP;
            if (!inside) at.n = at.r = 0;
            dy.fetch(stage, i, at.in(in.dy), inside);
            x.fetch(stage + B_TILE, i, at.in(in.x), inside);
        }
        fetched += CHUNK<TX>;
        fetching = fetching + CHUNK<TX>;
    }
    __device__ __forceinline__ void table(int n) {
        const float *from = in.ab + (i64)n * 2 * in.c + x.col;
        load<VEC<TX>>(from, a);
        load<VEC<TX>>(from + in.c, b);
    }
    __device__ __forceinline__ void prepare() {
        if (NORM && activated < in.end) table(activating.n);
    }
    __device__ __forceinline__ void activate(u32 stage) {
        if constexpr (NORM || SILU) {
            TX *at = reinterpret_cast<TX *>(shared + stage + B_TILE + x.place());
            int known = activating.n;
#pragma unroll
            for (int i = 0; i < x.COUNT; ++i, at += x.STEP * BN) {
                if (activated + i * x.STEP >= in.end) break;
                if constexpr (NORM) {
                    const int n = (activating + i * x.STEP).n;
                    if (n != known) table(known = n);
                }
                float y[VEC<TX>];
                load<VEC<TX>>(at, y);
                apply<NORM, SILU>(y, a, b);
                store<VEC<TX>>(at, y);
            }
            activated += CHUNK<TX>;
            if constexpr (NORM) activating = activating + CHUNK<TX>;
        }
    }
    // Adds the rows of a fragment of dy^T: its product with ones. What tf32 cuts off is added as a second term.
    __device__ __forceinline__ void see(int m, const u32 (&fragment)[4], const u32 (&rest)[4]) {
        constexpr u32 ONE = sizeof(TX) == 2 ? 0x3f803f80 : 0x3f800000;
        if (!with_bias) return;
        mma<TX>(bias[m], fragment, ONE, ONE);
        if constexpr (sizeof(TX) == 4) mma<TX>(bias[m], rest, ONE, ONE);
    }
};

__device__ __forceinline__ void linear_wgrad(const Problem &in, int k0, int c0) {
    Sums sums = {};
    Source source(in, k0, c0);
    multiply<TX>(source, (in.end - in.begin + CHUNK<TX> - 1) / CHUNK<TX>, sums);
    const int lane = threadIdx.x & 31;
    if (source.with_bias && lane % 4 == 0) {
#pragma unroll
        for (int m = 0; m < WM / 16; ++m)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int k = k0 + warp_row() + m * 16 + lane / 4 + i * 8;
                if (k < in.k) in.db[k] = source.bias[m][2 * i] + (in.add_b ? in.db[k] : 0.f);
            }
    }
    finish<4>(sums, [&](int row, int col, float (&x)[4]) {
        row += k0, col += c0;
        if (row >= in.k || col >= in.c) return;
        float *to = in.dw + (i64)row * in.c, old[4] = {};
        if (in.add_w) load_some<VW>(to, col, in.c, old);
#pragma unroll
        for (int j = 0; j < 4; ++j) x[j] += old[j];
        store_some<VW>(to, col, in.c, x);
    });
}

}  // namespace tensor

using namespace tensor;
#else
#include "simt.cuh"

namespace simt {

constexpr int BM = EDGE, BN = EDGE, BLOCKS = 1;

struct Loader {
    const Problem &in;
    int k0, c0;
    float a[4], b[4];

    // Rows from m on, one for each 16 threads.
    __device__ __forceinline__ void fetch(int m) {
        m += threadIdx.x / 16;
        const int at = threadIdx.x % 16 * 4, row = min(m, in.end - 1);
        const int n = row / in.per_sample, r = row - n * in.per_sample;
        load4<width(VY)>(in.dy.row(n, r), k0 + at, m < in.end ? in.k : 0, a);
        load4<width(VX)>(in.x.row(n, r), c0 + at, m < in.end ? in.c : 0, b);
        if (c0 + at < in.c) activate<NORM, SILU>(b, in.ab, n, c0 + at, in.c);
    }
};

__device__ __forceinline__ void linear_wgrad(const Problem &in, int k0, int c0) {
    __shared__ __align__(16) Tile as[2], bs[2];
    const int at = threadIdx.x % 16 * 4;
    Loader loader = {in, k0, c0};
    Sums sums = {};
    float bias = 0.f;
    int buffer = 0;
    if (in.begin < in.end) loader.fetch(in.begin);
    for (int m = in.begin; m < in.end; m += DEPTH, buffer ^= 1) {
        put_m(as[buffer], threadIdx.x / 16, at, loader.a);
        put_m(bs[buffer], threadIdx.x / 16, at, loader.b);
        __syncthreads();
        if (m + DEPTH < in.end) loader.fetch(m + DEPTH);
        multiply(as[buffer], bs[buffer], sums);
        if (c0 == 0 && threadIdx.x < EDGE) {
            float part = 0.f;
#pragma unroll
            for (int k = 0; k < DEPTH; ++k) part += as[buffer][place(k, threadIdx.x)];
            bias += part;
        }
    }
    const int column = k0 + threadIdx.x;
    if (c0 == 0 && threadIdx.x < EDGE && column < in.k) in.db[column] = bias + (in.add_b ? in.db[column] : 0.f);
    const int col = c0 + first_col();
    if (col >= in.c) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = k0 + first_row() + i;
        if (row >= in.k) return;
        float *to = in.dw + (i64)row * in.c, old[4] = {};
        if (in.add_w) load4<width(VW)>(to, col, in.c, old);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += old[j];
        store4<width(VW)>(to, col, in.c, sums[i]);
    }
}

}  // namespace simt

using namespace simt;
#endif

// `stretch` rows a split; `tiles` tiles along C.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) linear_wgrad(
    View<const TX> x, View<const TY> dy, const float *ab, float *dw, float *db, int add_w, int add_b, int tiles,
    int stretch, int m, int per_sample, int c, int k) {
    grid_begin();
    const int begin = blockIdx.z * stretch;
    const Problem in = {x,     dy,    ab,    dw + (i64)blockIdx.z * k * c,  db + (i64)blockIdx.z * k,
                        add_w, add_b, begin, min(begin + stretch, m), per_sample, c, k};
    const int c0 = blockIdx.x % tiles * BN, k0 = blockIdx.x / tiles * BM;
#if MMA
    tensor::linear_wgrad(in, k0, c0);
#else
    simt::linear_wgrad(in, k0, c0);
#endif
}

// dW [K C] and db [K] from partial sums: 256 threads a block, one element each.
extern "C" __global__ void __launch_bounds__(256) linear_wgrad_reduce(
    const float *dw_parts, const float *db_parts, float *dw, float *db, int add_w, int add_b, int splits, i64 kc,
    int k) {
    grid_begin();
    i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
    if (i >= kc + k) return;
    const bool bias = i >= kc;
    if (bias) i -= kc;
    const float *parts = (bias ? db_parts : dw_parts) + i;
    const i64 step = bias ? k : kc;
    float sum = 0.f;
    for (int s = 0; s < splits; ++s) sum += parts[s * step];
    float *to = (bias ? db : dw) + i;
    *to = (bias ? add_b : add_w) ? *to + sum : sum;
}
