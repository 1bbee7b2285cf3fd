// Attention of pixels to tokens and pixels: per head, o = softmax(q K^T / sqrt(d)) V, and the log-sum-exp of each row
// of scores, which is all that the way back needs of them.
//
// q, o [n, p, heads d]; k, v [n, s, heads d]; lse [n, p, heads] f32. The softmax is exact: keys come in blocks, a row's
// running maximum is subtracted, and what was summed under an older maximum is scaled when it grows
// (Milakov and Gimelshein 2018; Dao et al. 2022). Nothing quadratic is stored. 4 n p s heads d FLOP.
//
// Grid: one block per 64 queries of a head of a sample; of a head wider than 64 channels, in f32, one per 64 channels
// of o, each of which repeats the scores.
//
// Macros: TX storage of q, k, v, o; VX neighbours that may be accessed at once. MMA 0: f32 products, 256 threads.
// MMA 1: tensor cores, bf16 rows of 16-byte vectors (VX 8), 128 threads; DP d rounded up to a multiple of 16, up to
// 64; KB keys at a time (a multiple of 16; all of them, where that is few, make it one pass); shared memory for 64
// rows and twice 2 KB rows (once, for one pass), DP + 8 bf16 each. Registers on sm_80 to sm_120, d = 64: 128 to 133
// with KB 64, 168 to 184 with KB 112 or 128; nothing spills. No bank conflicts.
#include "attention.cuh"

struct Head {
    Rows<const TX> q, k, v;
    Rows<TX> o;
    float *lse;
    int lse_ld, width;
};

#if MMA
namespace tensor {

// Turns scores into weights of the `left` keys; `top` and `sum` are those of the rows lane / 4 and + 8, `out` is scaled
// to the new maximum.
__device__ __forceinline__ void soften(
    Scores &scores, float (&top)[2], float (&sum)[2], Sums &out, int left, float scale) {
    if (left < KB) {
#pragma unroll
        for (int n = 0; n < KB / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (n * 8 + (int)threadIdx.x % 4 * 2 + (i & 1) >= left) scores[n][i] = -infinite();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float most = top[r];
#pragma unroll
        for (int n = 0; n < KB / 8; ++n) most = fmaxf(most, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        const float shrink = exp2_fast((top[r] - most) * scale), offset = most * scale;
        top[r] = most;
        float part = 0.f;
#pragma unroll
        for (int n = 0; n < KB / 8; ++n)
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; ++i) {
                scores[n][i] = exp2_fast(fmaf(scores[n][i], scale, -offset));
                part += scores[n][i];
            }
        sum[r] = sum[r] * shrink + part;
#pragma unroll
        for (int n = 0; n < DP / 8; ++n) out[n][2 * r] *= shrink, out[n][2 * r + 1] *= shrink;
    }
}

__device__ __forceinline__ void attention(const Head &x, int q0) {
    constexpr u32 BLOCK = KB * PITCH;
    const u32 queries = shared_address(shared), keys = queries + ROWS * PITCH;
    const int blocks = (x.k.count + KB - 1) / KB;
    const float scale = LOG2E * rsqrtf((float)x.width);
    const auto fetch = [&](int i) {
        copy<KB>(keys + (i & 1) * 2 * BLOCK, x.k, i * KB, x.width);
        copy<KB>(keys + (i & 1) * 2 * BLOCK + BLOCK, x.v, i * KB, x.width);
        copy_async_commit();
    };
    copy<ROWS>(queries, x.q, q0, x.width);
    fetch(0);
    Operand q;
    Sums out = {};
    float top[2] = {-infinite(), -infinite()}, sum[2] = {};
#pragma unroll 1
    for (int i = 0; i < blocks; ++i) {
        copy_async_wait<0>();
        __syncthreads();
        if (i + 1 < blocks) fetch(i + 1);
        if (i == 0) load_operand(q, queries);
        const u32 now = keys + (i & 1) * 2 * BLOCK;
        Scores scores;
        products(scores, q, now);
        soften(scores, top, sum, out, x.k.count - i * KB, scale);
        accumulate(out, scores, now + BLOCK);
    }
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        const float inverse = 1.f / sum[r];
#pragma unroll
        for (int n = 0; n < DP / 8; ++n) out[n][2 * r] *= inverse, out[n][2 * r + 1] *= inverse;
        const int row = q0 + threadIdx.x / 32 * 16 + lane / 4 + r * 8;
        if (row < x.q.count && lane % 4 == 0) x.lse[(i64)row * x.lse_ld] = LN2 * (top[r] * scale + log2f(sum[r]));
    }
    put(out, shared, x.o, q0, x.width);
}

}  // namespace tensor

using namespace tensor;
#else
namespace simt {

__device__ __forceinline__ void attention(const Head &x, int q0, int c0) {
    __shared__ __align__(16) Tile a, b;
    __shared__ __align__(16) Block weights, values;
    const float scale = LOG2E * rsqrtf((float)x.width);
    float top[4], sum[4] = {};
    Sums scores, out = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) top[i] = -infinite();
    for (int k0 = 0; k0 < x.k.count; k0 += EDGE) {
        products<width(VX)>(scores, x.q, q0, x.k, k0, x.width, a, b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float most = top[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                scores[i][j] = k0 + first_col() + j < x.k.count ? scores[i][j] * scale : -infinite();
                most = fmaxf(most, scores[i][j]);
            }
            most = row_max(most);
            const float shrink = exp2f(top[i] - most);
            top[i] = most;
            float part = 0.f;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                scores[i][j] = exp2f(scores[i][j] - most);
                part += scores[i][j];
                out[i][j] *= shrink;
            }
            sum[i] = sum[i] * shrink + row_sum(part);
        }
        put_transposed(weights, scores);
        put_rows<width(VX)>(values, x.v, k0, c0, x.width);
        __syncthreads();
        multiply(weights, values, out);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = q0 + first_row() + i;
        if (row >= x.q.count) return;
        const float inverse = 1.f / sum[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) out[i][j] *= inverse;
        store4<width(VX)>(x.o.row(row), c0 + first_col(), x.width, out[i]);
        if (c0 == 0 && first_col() == 0) x.lse[(i64)row * x.lse_ld] = LN2 * (top[i] + log2f(sum[i]));
    }
}

}  // namespace simt

using namespace simt;
#endif

// `blocks` blocks of 64 queries, `parts` blocks of 64 channels of a head (1 on tensor cores).
// On sm_100a ptxas takes 128 registers unless it is told how many blocks are wanted, and spills.
#if __CUDA_ARCH__ == 1000
#define BOUNDS THREADS, 2
#else
#define BOUNDS THREADS
#endif

extern "C" __global__ void __launch_bounds__(BOUNDS) attention(
    View<const TX> q, View<const TX> k, View<const TX> v, View<TX> o, View<float> lse, int heads, int blocks, int parts,
    int p, int s, int width) {
    grid_begin();
    int i = blockIdx.x;
    [[maybe_unused]] const int c0 = i % parts * 64;
    const int q0 = i / parts % blocks * 64;
    i /= parts * blocks;
    const int head = i % heads, n = i / heads;
    const Head x = {{q, n, head, width, p}, {k, n, head, width, s}, {v, n, head, width, s}, {o, n, head, width, p},
                    lse.row(n, 0) + head,   lse.ld,                 width};
#if MMA
    tensor::attention(x, q0);
#else
    simt::attention(x, q0, c0);
#endif
}
