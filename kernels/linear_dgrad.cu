// Input gradient of linear layers that share their input: dx = sum_i dy_i W_i.
//
// dy_i [n, rows, K_i], W_i [K_i, C], dx [n, rows, C]; rows of all samples are one list of M. The sets are one long
// reduction, in index order. Grid: one block per tile of dx, column tiles of a row tile side by side.
// 2 M C sum(K) FLOP; dy_i is read C / BN times from L2.
//
// Macros: TX, TY, TW storage of dx, dy, W; VX, VY, VW neighbours that may be accessed at once; SETS most sets of a
// launch; ADD 1 adds to what is in dx. MMA 0: f32 products, tiles of 64x64, 256 threads. MMA 1: tensor cores
// (gemm.cuh), TY = TW with 16-byte rows; BM, BN, WM, WN, STAGES, BLOCKS (blocks per multiprocessor).
#include "linear.cuh"

struct Set {
    const TW *w;
    View<const TY> dy;
    int k;
    int unused;
};
struct Sets {
    Set set[SETS];
};

struct Shape {
    int count, m, per_sample, c;
};

#if MMA
#include "gemm.cuh"

namespace tensor {

// Walks the chunks of one set after the other.
struct Source {
    static constexpr bool A_ROWS = true, B_ROWS = false;
    const Sets &sets;
    const int m0, c;
    const Place place;
    const int last;
    RowLoader<TY, BM> dy;
    ColumnLoader<TW, BN> w;
    const TW *rows;
    int set, k0;

    __device__ __forceinline__ Source(const Sets &sets, const Shape &shape, int m0, int c0)
        : sets(sets), m0(m0), c(shape.c), place(m0, shape.per_sample), last(shape.m - 1 - m0), w(c0, shape.c) {
        start(0);
    }
    __device__ __forceinline__ void start(int next) {
        set = next, k0 = 0;
        const Set &from = sets.set[next];
#pragma unroll
        for (int i = 0; i < dy.COUNT; ++i) dy.row[i] = (place + min(dy.first() + i * dy.STEP, last)).in(from.dy);
        dy.cols = from.k;
        rows = from.w;
    }
    __device__ __forceinline__ void fetch(u32 stage) {
        if (k0 >= dy.cols) start(set + 1);
        dy.fetch(stage, k0);
#pragma unroll
        for (int i = 0; i < w.COUNT; ++i) {
            const int k = k0 + w.first() + i * w.STEP;
            w.fetch(stage + B_TILE, i, rows + (i64)min(k, dy.cols - 1) * c, k < dy.cols);
        }
        k0 += CHUNK<TY>;
    }
    __device__ __forceinline__ void prepare() {}
    __device__ __forceinline__ void activate(u32) {}
    __device__ __forceinline__ void see(int, const u32 (&)[4], const u32 (&)[4]) {}
};

__device__ __forceinline__ void linear_dgrad(const Sets &sets, const View<TX> &dx, const Shape &shape, int m0, int c0) {
    int chunks = 0;
    for (int i = 0; i < shape.count; ++i) chunks += (sets.set[i].k + CHUNK<TY> - 1) / CHUNK<TY>;
    Sums sums = {};
    Source source(sets, shape, m0, c0);
    multiply<TY>(source, chunks, sums);
    const Place first(m0, shape.per_sample);
    constexpr int E = VEC<TX>;
    finish<E>(sums, [&](int row, int col, float (&x)[E]) {
        col += c0;
        if (m0 + row >= shape.m || col >= shape.c) return;
        TX *to = (first + row).in(dx);
        float old[E] = {};
        if constexpr (ADD) load_some<VX>(to, col, shape.c, old);
#pragma unroll
        for (int j = 0; j < E; ++j) x[j] += old[j];
        store_some<VX>(to, col, shape.c, x);
    });
}

}  // namespace tensor

using namespace tensor;
#else
#include "simt.cuh"

namespace simt {

constexpr int BM = EDGE, BN = EDGE, BLOCKS = 1;

// Walks the chunks of one set after the other.
struct Loader {
    const Sets &sets;
    const int c, c0;
    const Place place;
    int set, k0;
    float a[4], b[4];

    static __device__ __forceinline__ int chunks(const Set &set) { return (set.k + DEPTH - 1) / DEPTH; }

    // From chunk `chunk` of the list on.
    __device__ __forceinline__ Loader(const Sets &sets, int chunk, const Place &place, int c, int c0)
        : sets(sets), c(c), c0(c0), place(place), set(0) {
        for (int n; chunk >= (n = chunks(sets.set[set])); ++set) chunk -= n;
        k0 = chunk * DEPTH;
    }
    __device__ __forceinline__ void fetch() {
        const Set &from = sets.set[set];
        const int k = k0 + threadIdx.x / 16;
        load4<width(VY)>(place.in(from.dy), k0 + threadIdx.x % 4 * 4, from.k, a);
        load4<width(VW)>(from.w + (i64)min(k, from.k - 1) * c, c0 + first_col(), k < from.k ? c : 0, b);
        k0 += DEPTH;
        if (k0 >= from.k) ++set, k0 = 0;
    }
};

__device__ __forceinline__ void linear_dgrad(const Sets &sets, const View<TX> &dx, const Shape &shape, int m0, int c0,
                                             const Parts &parts) {
    __shared__ __align__(16) Tile as[2], bs[2];
    const int row = threadIdx.x / 4;
    const Place first(m0, shape.per_sample), place = first + min(row, shape.m - 1 - m0);
    int chunks = 0;
    for (int i = 0; i < shape.count; ++i) chunks += Loader::chunks(sets.set[i]);
    const Share share(chunks);
    Loader loader(sets, share.from, place, shape.c, c0);
    Sums sums = {};
    loader.fetch();
#pragma unroll 1
    for (int i = share.from; i < share.to; ++i) {
        put_k(as[i & 1], threadIdx.x % 4 * 4, row, loader.a);
        put_m(bs[i & 1], threadIdx.x / 16, first_col(), loader.b);
        __syncthreads();
        if (i + 1 < share.to) loader.fetch();
        multiply(as[i & 1], bs[i & 1], sums);
    }
    if (!merge(parts, shape.m - m0, sums)) return;
    const int col = c0 + first_col();
    if (col >= shape.c) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (m0 + first_row() + i >= shape.m) return;
        TX *to = (first + (first_row() + i)).in(dx);
        float old[4] = {};
        if constexpr (ADD) load4<width(VX)>(to, col, shape.c, old);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += old[j];
        store4<width(VX)>(to, col, shape.c, sums[i]);
    }
}

}  // namespace simt

using namespace simt;
#endif

// `tiles` column tiles of dx; parts: simt.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) linear_dgrad(
    const __grid_constant__ Sets sets, int count, View<TX> dx, float *parts, int *tickets, int tiles, int m,
    int per_sample, int c) {
    grid_begin();
    const Shape shape = {count, m, per_sample, c};
    const int c0 = blockIdx.x % tiles * BN, m0 = blockIdx.x / tiles * BM;
#if MMA
    tensor::linear_dgrad(sets, dx, shape, m0, c0);
#else
    simt::linear_dgrad(sets, dx, shape, m0, c0, {parts, tickets});
#endif
}
