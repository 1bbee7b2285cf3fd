// Attention of pixels to tokens and pixels: per head, o = softmax(q K^T / sqrt(d)) V, and the log-sum-exp of each row of
// scores, which is all that the way back needs of them.
//
// q, o [n, p, heads d]; k, v [n, s, heads d]; lse [n, p, heads] f32. The softmax is exact: keys come in blocks, a row's
// running maximum is subtracted, and what was summed under an older maximum is scaled when it grows
// (Milakov and Gimelshein 2018; Dao et al. 2022). Nothing quadratic is stored. 4 n p s heads d FLOP.
//
// Macros: TX storage of q, k, v, o; VX neighbours that may be accessed at once.
#include "attention.cuh"

namespace simt {

// Blocks of 64 queries and 64 channels of o; of a head wider than that, each repeats the scores.
__device__ __forceinline__ void attention(
    const Rows<const TX> &q, const Rows<const TX> &k, const Rows<const TX> &v, const Rows<TX> &o, float *lse, int lse_ld,
    int q0, int c0, int width) {
    __shared__ __align__(16) Tile a, b;
    __shared__ __align__(16) Block weights, values;
    const float scale = LOG2E * rsqrtf((float)width);
    float top[4], sum[4] = {};
    Sums scores, out = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) top[i] = -infinite();
    for (int k0 = 0; k0 < k.count; k0 += EDGE) {
        products<simt::width(VX)>(scores, q, q0, k, k0, width, a, b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float most = top[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                scores[i][j] = k0 + first_col() + j < k.count ? scores[i][j] * scale : -infinite();
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
        __syncthreads();  // the last block's weights and values have been read
        put_transposed(weights, scores);
        put_rows<simt::width(VX)>(values, v, k0, c0, width);
        __syncthreads();
        multiply(weights, values, out);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = q0 + first_row() + i;
        if (row >= q.count) return;
        const float inverse = 1.f / sum[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) out[i][j] *= inverse;
        store4<simt::width(VX)>(o.row(row), c0 + first_col(), width, out[i]);
        if (c0 == 0 && first_col() == 0) lse[(i64)row * lse_ld] = LN2 * (top[i] + log2f(sum[i]));
    }
}

}  // namespace simt

// `blocks` blocks of queries, `parts` blocks of channels of a head.
extern "C" __global__ void __launch_bounds__(256) attention(
    View<const TX> q, View<const TX> k, View<const TX> v, View<TX> o, View<float> lse, int heads, int blocks, int parts, int p,
    int s, int width) {
    int i = blockIdx.x;
    const int part = i % parts, block = i / parts % blocks;
    i /= parts * blocks;
    const int head = i % heads, n = i / heads;
    const simt::Rows<const TX> qs(q, n, head, width, p), ks(k, n, head, width, s), vs(v, n, head, width, s);
    const simt::Rows<TX> os(o, n, head, width, p);
    simt::attention(qs, ks, vs, os, lse.row(n, 0) + head, lse.ld, block * simt::EDGE, part * simt::EDGE, width);
}
