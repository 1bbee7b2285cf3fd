// Matrix products on tensor cores, operands in bf16 or tf32 (f32 storage), sums in f32: tiles of BM x BN results by
// blocks of (BM / WM)(BN / WN) warps, fed by a pipeline of STAGES asynchronous copies.
//
// A chunk is 64 bytes deep (32 bf16, 16 f32), two steps of an mma. An operand lies in shared memory as it lies in
// global memory, in vectors of 16 bytes whose places are permuted so that neither copies nor fragment loads meet a bank
// conflict:
//   "rows":    its reduction runs along its rows; [rows][64 bytes], vector v of row r at v ^ (r / 2 % 4);
//   "columns": its reduction runs down its rows; [chunk][columns], vector v of row k at v ^ key(k), key = k % 8 for
//              bf16 (ldmatrix.trans), 2 (k % 4) for f32 (plain loads).
// What is done to an operand on its way (the prologue) happens in place: after a thread's own copies have landed and
// before the barrier that shows them to the others, each thread changes the vectors that it copied.
//
// Method: CUTLASS' multistage pipeline (sm_80), whose prologues work on registers instead. Two forms are used: 64x64 by
// warps of 32x32 in four stages (32 KiB, three blocks a multiprocessor; 8 mma to 4 ldmatrix a step), and 128x128 by
// warps of 64x64 in three (48 KiB, two blocks; 32 to 8). Registers on sm_80, 86, 89, 90 and 120: 79 to 140 of 170, and
// 197 to 255 of 255; nothing spills, and the main loops meet no bank conflict.
#pragma once
#include "linear.cuh"
#include "mma.cuh"

namespace tensor {

constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * 32;
constexpr u32 STAGE = (BM + BN) * 64, B_TILE = BM * 64;

template <class T>
constexpr int VEC = 16 / sizeof(T);
template <class T>
constexpr int CHUNK = 64 / sizeof(T);

// A warp's results.
using Sums = float[WM / 16][WN / 8][4];

extern __shared__ __align__(128) u8 shared[];

__device__ __forceinline__ u32 row_place(int r, int v) { return r * 64 + (v ^ (r >> 1 & 3)) * 16; }
template <class T, int COLS>
__device__ __forceinline__ u32 column_place(int k, int v) {
    return k * COLS * sizeof(T) + (v ^ (sizeof(T) == 2 ? k & 7 : (k & 3) * 2)) * 16;
}

// Copies an operand in "rows": vector thread % 4 of rows thread / 4, + THREADS / 4, ...
template <class T, int ROWS>
struct RowLoader {
    static constexpr int COUNT = ROWS * 4 / THREADS, STEP = THREADS / 4;
    const T *row[COUNT];
    int cols;

    __device__ __forceinline__ static int first() { return threadIdx.x / 4; }
    __device__ __forceinline__ static int vector() { return threadIdx.x % 4 * VEC<T>; }
    __device__ __forceinline__ static u32 place() { return row_place(first(), threadIdx.x % 4); }
    __device__ __forceinline__ void fetch(u32 tile, int k0) const {
        const bool inside = k0 + vector() < cols;
        const int at = inside ? k0 + vector() : 0;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) copy_async_16(tile + place() + i * STEP * 64, row[i] + at, inside);
    }
};

// Copies an operand in "columns": one vector of rows thread / Q, + STEP, ... of a chunk.
template <class T, int COLS>
struct ColumnLoader {
    static constexpr int Q = COLS / VEC<T>, STEP = THREADS / Q, COUNT = CHUNK<T> / STEP;
    int col;

    __device__ __forceinline__ ColumnLoader(int c0, int cols)
        : col(min(c0 + threadIdx.x % Q * VEC<T>, cols - VEC<T>)) {}
    __device__ __forceinline__ static int first() { return threadIdx.x / Q; }
    __device__ __forceinline__ static u32 place() { return column_place<T, COLS>(first(), threadIdx.x % Q); }
    __device__ __forceinline__ void fetch(u32 tile, int i, const T *row, bool inside) const {
        copy_async_16(tile + place() + i * STEP * COLS * (int)sizeof(T), row + col, inside);
    }
};

__device__ __forceinline__ u32 load_word(u32 address) {
    u32 x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
}

// Rounds what is not yet a tensor core's format; `rest` is what that cuts off, itself rounded.
template <class T>
__device__ __forceinline__ void round_fragment(u32 (&x)[4], u32 (&rest)[4]) {
    if constexpr (sizeof(T) == 4)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float full = __uint_as_float(x[i]);
            x[i] = to_tf32(full);
            rest[i] = to_tf32(full - __uint_as_float(x[i]));
        }
}

// 16 rows (of the result) from row m on, step 0 or 1 of the chunk.
template <class T, bool ROWS>
__device__ __forceinline__ void load_a(u32 (&a)[4], u32 (&rest)[4], u32 tile, int m, int step) {
    const int lane = threadIdx.x & 31;
    if constexpr (ROWS) {
        ldmatrix_x4(a, tile + row_place(m + (lane & 15), step * 2 + (lane >> 4)));
    } else if constexpr (sizeof(T) == 2) {
        const int k = step * 16 + (lane >> 4) * 8 + (lane & 7);
        ldmatrix_x4_trans(a, tile + column_place<T, BM>(k, m / 8 + (lane >> 3 & 1)));
    } else {
        const int k = step * 8 + (lane & 3);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = m + (lane >> 2) + (i & 1) * 8;
            a[i] = load_word(tile + column_place<T, BM>(k + (i >> 1) * 4, row / 4) + row % 4 * 4);
        }
    }
    round_fragment<T>(a, rest);
}

// 16 columns from n on: b0, b1 of the first eight, then of the others.
template <class T, bool ROWS>
__device__ __forceinline__ void load_b(u32 (&b)[4], u32 tile, int n, int step) {
    const int lane = threadIdx.x & 31;
    if constexpr (ROWS) {
        ldmatrix_x4(b, tile + row_place(n + (lane >> 4) * 8 + (lane & 7), step * 2 + (lane >> 3 & 1)));
    } else if constexpr (sizeof(T) == 2) {
        const int k = step * 16 + (lane >> 3 & 1) * 8 + (lane & 7);
        ldmatrix_x4_trans(b, tile + column_place<T, BN>(k, n / 8 + (lane >> 4)));
    } else {
        const int k = step * 8 + (lane & 3);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int col = n + (lane >> 2) + (i >> 1) * 8;
            b[i] = load_word(tile + column_place<T, BN>(k + (i & 1) * 4, col / 4) + col % 4 * 4);
        }
    }
    u32 rest[4];
    round_fragment<T>(b, rest);
}

template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (sizeof(T) == 2)
        mma_bf16(d, a, b0, b1);
    else
        mma_tf32(d, a, b0, b1);
}

__device__ __forceinline__ int warp_row() { return threadIdx.x / 32 / WARPS_N * WM; }
__device__ __forceinline__ int warp_col() { return threadIdx.x / 32 % WARPS_N * WN; }

// sums += A B over `chunks` chunks. A Source says how operands lie (Source::A_ROWS, Source::B_ROWS), copies the next
// chunk (fetch), changes the oldest one in place (prepare before its copies have landed, activate after) and may look
// at fragments of A (see).
template <class T, class Source>
__device__ __forceinline__ void multiply(Source &source, int chunks, Sums &sums) {
    const u32 base = shared_address(shared);
#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) {
        if (i < chunks) source.fetch(base + i * STAGE);
        copy_async_commit();
    }
    u32 now = 0, next = (STAGES - 1) * STAGE;
#pragma unroll 1
    for (int i = 0; i < chunks; ++i) {
        source.prepare();
        copy_async_wait<STAGES - 2>();
        source.activate(now);
        __syncthreads();
        if (i + STAGES - 1 < chunks) source.fetch(base + next);
        copy_async_commit();
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            u32 b[WN / 16][4];
#pragma unroll
            for (int n = 0; n < WN / 16; ++n)
                load_b<T, Source::B_ROWS>(b[n], base + now + B_TILE, warp_col() + n * 16, step);
#pragma unroll
            for (int m = 0; m < WM / 16; ++m) {
                u32 a[4], rest[4];
                load_a<T, Source::A_ROWS>(a, rest, base + now, warp_row() + m * 16, step);
#pragma unroll
                for (int n = 0; n < WN / 8; ++n) mma<T>(sums[m][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
                source.see(m, a, rest);
            }
        }
        next = now;
        now = now + STAGE == STAGES * STAGE ? 0 : now + STAGE;
    }
    __syncthreads();
}

// Hands a warp's results to `emit(row, col, x)`, E neighbours of one row at a time, so that lanes side by side have
// vectors side by side. By way of 16 x WN floats per warp in shared memory (no other warp's, and no stage's any more).
template <int E, class Emit>
__device__ __forceinline__ void finish(const Sums &sums, Emit emit) {
    constexpr int PITCH = WN + 8, ACROSS = WN / E, DOWN = 32 / ACROSS;
    const int lane = threadIdx.x & 31;
    float *slice = reinterpret_cast<float *>(shared) + threadIdx.x / 32 * (16 * PITCH);
#pragma unroll
    for (int m = 0; m < WM / 16; ++m) {
        __syncwarp();
#pragma unroll
        for (int n = 0; n < WN / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                *reinterpret_cast<float2 *>(slice + (lane / 4 + 8 * i) * PITCH + n * 8 + lane % 4 * 2) =
                    make_float2(sums[m][n][2 * i], sums[m][n][2 * i + 1]);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16; i += DOWN) {
            const int row = i + lane / ACROSS, col = lane % ACROSS * E;
            float x[E];
            if constexpr (E == 8) {
                // Every other four lanes begin with their second half: eight lanes then read all banks.
                const int odd = lane >> 2 & 1;
                float half[2][4];
                load<4>(slice + row * PITCH + col + 4 * odd, half[0]);
                load<4>(slice + row * PITCH + col + 4 - 4 * odd, half[1]);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    x[j] = odd ? half[1][j] : half[0][j];
                    x[j + 4] = odd ? half[0][j] : half[1][j];
                }
            } else {
                load<E>(slice + row * PITCH + col, x);
            }
            emit(warp_row() + m * 16 + row, warp_col() + col, x);
        }
    }
}

// E neighbours from column c on of a row with `cols` columns, V at a time.
template <int V, int E, class T>
__device__ __forceinline__ void load_some(const T *row, int c, int cols, float (&x)[E]) {
#pragma unroll
    for (int i = 0; i < E; i += V) {
        float part[V] = {};
        if (c + i < cols) load<V>(row + c + i, part);
#pragma unroll
        for (int j = 0; j < V; ++j) x[i + j] = part[j];
    }
}
template <int V, int E, class T>
__device__ __forceinline__ void store_some(T *row, int c, int cols, const float (&x)[E]) {
#pragma unroll
    for (int i = 0; i < E; i += V) {
        float part[V];
#pragma unroll
        for (int j = 0; j < V; ++j) part[j] = x[i + j];
        if (c + i < cols) store<V>(row + c + i, part);
    }
}

}  // namespace tensor
