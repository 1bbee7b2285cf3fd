// Linear layers and 1x1 convolutions that read the same input: y_i = act(x) W_i^T + b_i (+ residual).
//
// x [n, rows, C], W_i [K_i, C], b_i [K_i], y_i [n, rows, K_i]; act = SiLU(a x + b), each part optional. The rows of all
// samples are one list of M = n * rows; samples may be strided and rows wider than C.
//
// Grid: one block per tile, the column tiles of one row tile side by side (the rows of x then hit L2); columns of all
// sets are one list, cut so that no tile straddles two. 2 M C sum(K) FLOP; bytes: x once per column tile from L2.
//
// Macros: TX, TW, TY, TR storage of x, W, y, residual; VX, VW, VY neighbours that may be accessed at once (rows of x,
// rows of W, rows of y and residual); NORM, SILU, RESIDUAL 0 or 1; SETS most sets of a launch.
// MMA 0: f32 products, tiles of 64x64, 256 threads. MMA 1: tensor cores (gemm.cuh), TX = TW with 16-byte rows;
// BM, BN, WM, WN, STAGES, BLOCKS (blocks per multiprocessor).
#include "linear.cuh"

struct Set {
    const TW *w;
    const float *bias;
    View<TY> y;
    int k;
    int first;  // its first column tile
};
struct Sets {
    Set set[SETS];
};

// The set of a column tile; `tile` becomes the tile's place in it.
__device__ __forceinline__ Set set_of(const Sets &sets, int count, int &tile) {
    int i = 0;
    while (i + 1 < count && tile >= sets.set[i + 1].first) ++i;
    tile -= sets.set[i].first;
    return sets.set[i];
}

struct Input {
    View<const TX> x;
    const float *ab;
    View<const TR> residual;
    int m, per_sample, c;
};

#if MMA
#include "gemm.cuh"

namespace tensor {

struct Source {
    static constexpr bool A_ROWS = true, B_ROWS = true;
    RowLoader<TX, BM> x;
    RowLoader<TW, BN> w;
    const float *ab;
    int sample[RowLoader<TX, BM>::COUNT];
    int fetched, activated;
    float a[VEC<TX>], b[VEC<TX>];

    __device__ __forceinline__ Source(const Input &in, const Set &set, int m0, int k0)
        : ab(in.ab), fetched(0), activated(0) {
        const Place first(m0, in.per_sample);
#pragma unroll
        for (int i = 0; i < x.COUNT; ++i) {
            const Place place = first + min(x.first() + i * x.STEP, in.m - 1 - m0);
            x.row[i] = place.in(in.x);
            sample[i] = place.n;
        }
#pragma unroll
        for (int i = 0; i < w.COUNT; ++i) w.row[i] = set.w + (i64)min(k0 + w.first() + i * w.STEP, set.k - 1) * in.c;
        x.cols = w.cols = in.c;
    }
    __device__ __forceinline__ void fetch(u32 stage) {
        x.fetch(stage, fetched);
        w.fetch(stage + B_TILE, fetched);
        fetched += CHUNK<TX>;
    }
    __device__ __forceinline__ void table(int n) {
        const float *from = ab + (i64)n * 2 * x.cols + activated + x.vector();
        load<VEC<TX>>(from, a);
        load<VEC<TX>>(from + x.cols, b);
    }
    __device__ __forceinline__ void prepare() {
        if (NORM && activated + x.vector() < x.cols) table(sample[0]);
    }
    __device__ __forceinline__ void activate(u32 stage) {
        if constexpr (NORM || SILU) {
            if (activated + x.vector() < x.cols) {
                TX *at = reinterpret_cast<TX *>(shared + stage + x.place());
#pragma unroll
                for (int i = 0; i < x.COUNT; ++i, at += x.STEP * CHUNK<TX>) {
                    if (NORM && i > 0 && sample[i] != sample[i - 1]) table(sample[i]);
                    float y[VEC<TX>];
                    load<VEC<TX>>(at, y);
                    apply<NORM, SILU>(y, a, b);
                    store<VEC<TX>>(at, y);
                }
            }
            activated += CHUNK<TX>;
        }
    }
    __device__ __forceinline__ void see(int, const u32 (&)[4], const u32 (&)[4]) {}
};

__device__ __forceinline__ void linear(const Input &in, const Set &set, int m0, int k0) {
    Sums sums = {};
    Source source(in, set, m0, k0);
    multiply<TX>(source, (in.c + CHUNK<TX> - 1) / CHUNK<TX>, sums);
    const Place first(m0, in.per_sample);
    constexpr int E = VEC<TY>;
    finish<E>(sums, [&](int row, int col, float (&x)[E]) {
        col += k0;
        if (m0 + row >= in.m || col >= set.k) return;
        const Place place = first + row;
        float bias[E], old[E] = {};
        load_some<1>(set.bias, col, set.k, bias);
        if constexpr (RESIDUAL) load_some<VY>(place.in(in.residual), col, set.k, old);
#pragma unroll
        for (int j = 0; j < E; ++j) x[j] = x[j] + bias[j] + old[j];
        store_some<VY>(place.in(set.y), col, set.k, x);
    });
}

}  // namespace tensor

using namespace tensor;
#else
#include "simt.cuh"

namespace simt {

constexpr int BM = EDGE, BN = EDGE, BLOCKS = 1;

struct Loader {
    const TX *x;
    const TW *w;
    const float *ab;
    int sample, cols;
    float a[4], b[4];

    __device__ __forceinline__ void fetch(int chunk) {
        const int at = chunk * DEPTH + threadIdx.x % 4 * 4;
        load4<width(VX)>(x, at, cols, a);
        if (at < cols) activate<NORM, SILU>(a, ab, sample, at, cols);
        load4<width(VW)>(w, at, cols, b);
    }
};

__device__ __forceinline__ void linear(const Input &in, const Set &set, int m0, int k0, const Parts &parts) {
    __shared__ __align__(16) Tile as[2], bs[2];
    const int row = threadIdx.x / 4;
    const Place first(m0, in.per_sample), place = first + min(row, in.m - 1 - m0);
    Loader loader;
    loader.x = place.in(in.x), loader.ab = in.ab, loader.sample = place.n, loader.cols = in.c;
    loader.w = set.w + (i64)min(k0 + row, set.k - 1) * in.c;
    Sums sums = {};
    const Share share((in.c + DEPTH - 1) / DEPTH);
    loader.fetch(share.from);
    for (int i = share.from; i < share.to; ++i) {
        put_k(as[i & 1], threadIdx.x % 4 * 4, row, loader.a);
        put_k(bs[i & 1], threadIdx.x % 4 * 4, row, loader.b);
        __syncthreads();
        if (i + 1 < share.to) loader.fetch(i + 1);
        multiply(as[i & 1], bs[i & 1], sums);
    }
    if (!merge(parts, in.m - m0, sums)) return;
    const int col = k0 + first_col();
    if (col >= set.k) return;
    float bias[4];
    load4<1>(set.bias, col, set.k, bias);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (m0 + first_row() + i >= in.m) return;
        const Place at = first + (first_row() + i);
        float old[4] = {};
        if constexpr (RESIDUAL) load4<width(VY)>(at.in(in.residual), col, set.k, old);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = sums[i][j] + bias[j] + old[j];
        store4<width(VY)>(at.in(set.y), col, set.k, sums[i]);
    }
}

}  // namespace simt

using namespace simt;
#endif

// `tiles` column tiles of all `count` sets; parts: simt.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) linear(
    View<const TX> x, const float *ab, View<const TR> residual, const __grid_constant__ Sets sets, int count,
    float *parts, int *tickets, int tiles, int m, int per_sample, int c) {
    grid_begin();
    int tile = blockIdx.x % tiles;
    const int m0 = blockIdx.x / tiles * BM;
    const Set set = set_of(sets, count, tile);
    const Input in = {x, ab, residual, m, per_sample, c};
#if MMA
    tensor::linear(in, set, m0, tile * BN);
#else
    simt::linear(in, set, m0, tile * BN, {parts, tickets});
#endif
}
