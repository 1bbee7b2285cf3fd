// Gradients of q, k and v. With P = exp(q K^T / sqrt(d) - lse), rebuilt block by block, and D = rowsum(dO o):
// dV = P^T dO, dS = P (dO V^T - D) / sqrt(d), dQ = dS K, dK = dS^T Q.
//
// Shapes as in attention.cu. One launch of blocks with two roles, so that every sum has one owner and one order, without
// atomics: the first of a head own 64 queries and walk over the keys (dQ), the others own 64 keys and walk over the
// queries (dK, dV). 14 n p s heads d FLOP instead of 10.
//
// Macros: TX storage of everything but lse; VX neighbours that may be accessed at once.
#include "attention.cuh"

struct Operands {
    View<const TX> q, k, v, o;
    View<const float> lse;
    View<const TX> d_out;
};

namespace simt {

struct Head {
    Rows<const TX> q, k, v, o, d_out;
    const float *lse;
    int lse_ld, width;

    __device__ __forceinline__ Head(const Operands &x, int n, int head, int p, int s, int width)
        : q(x.q, n, head, width, p), k(x.k, n, head, width, s), v(x.v, n, head, width, s), o(x.o, n, head, width, p),
          d_out(x.d_out, n, head, width, p), lse(x.lse.row(n, 0) + head), lse_ld(x.lse.ld), width(width) {}
};

struct Shared {
    Tile a, b;
    Block weights, rows;
    float lse[EDGE], delta[EDGE];
};

// log2(e) lse and D of queries q0 .. q0 + 63; those past the end get weights of 0.
__device__ __forceinline__ void row_terms(Shared &shared, const Head &x, int q0) {
    const int row = q0 + threadIdx.x / 4;
    float sum = 0.f;
    for (int c = threadIdx.x % 4; c < x.width; c += 4) sum += to_f32(x.o.row(row)[c]) * to_f32(x.d_out.row(row)[c]);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (threadIdx.x % 4 == 0) {
        shared.lse[threadIdx.x / 4] = row < x.q.count ? LOG2E * x.lse[(i64)row * x.lse_ld] : infinite();
        shared.delta[threadIdx.x / 4] = sum;
    }
}

// dQ of queries q0 .. q0 + 63, channels c0 .. c0 + 63.
__device__ __forceinline__ void query_role(Shared &shared, const Head &x, const Rows<TX> &dq, int q0, int c0) {
    const float root = rsqrtf((float)x.width), scale = LOG2E * root;
    Sums scores, slopes, out = {};
    row_terms(shared, x, q0);
    for (int k0 = 0; k0 < x.k.count; k0 += EDGE) {
        products<simt::width(VX)>(scores, x.q, q0, x.k, k0, x.width, shared.a, shared.b);
        products<simt::width(VX)>(slopes, x.d_out, q0, x.v, k0, x.width, shared.a, shared.b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float lse = shared.lse[first_row() + i], delta = shared.delta[first_row() + i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                float p = k0 + first_col() + j < x.k.count ? exp2f(scores[i][j] * scale - lse) : 0.f;
                slopes[i][j] = p * (slopes[i][j] - delta) * root;
            }
        }
        put_transposed(shared.weights, slopes);
        put_rows<simt::width(VX)>(shared.rows, x.k, k0, c0, x.width);
        __syncthreads();
        multiply(shared.weights, shared.rows, out);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = q0 + first_row() + i;
        if (row < x.q.count) store4<simt::width(VX)>(dq.row(row), c0 + first_col(), x.width, out[i]);
    }
}

// dK and dV of keys k0 .. k0 + 63, channels c0 .. c0 + 63.
__device__ __forceinline__ void key_role(
    Shared &shared, const Head &x, const Rows<TX> &dk, const Rows<TX> &dv, int k0, int c0) {
    const float root = rsqrtf((float)x.width), scale = LOG2E * root;
    Sums scores, slopes, out_k = {}, out_v = {};
    for (int q0 = 0; q0 < x.q.count; q0 += EDGE) {
        __syncthreads();  // the last block's row terms have been read
        row_terms(shared, x, q0);
        products<simt::width(VX)>(scores, x.k, k0, x.q, q0, x.width, shared.a, shared.b);
        products<simt::width(VX)>(slopes, x.v, k0, x.d_out, q0, x.width, shared.a, shared.b);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float lse = shared.lse[first_col() + j], delta = shared.delta[first_col() + j];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scores[i][j] = exp2f(scores[i][j] * scale - lse);
                slopes[i][j] = scores[i][j] * (slopes[i][j] - delta) * root;
            }
        }
        put_transposed(shared.weights, scores);
        put_rows<simt::width(VX)>(shared.rows, x.d_out, q0, c0, x.width);
        __syncthreads();
        multiply(shared.weights, shared.rows, out_v);
        __syncthreads();
        put_transposed(shared.weights, slopes);
        put_rows<simt::width(VX)>(shared.rows, x.q, q0, c0, x.width);
        __syncthreads();
        multiply(shared.weights, shared.rows, out_k);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = k0 + first_row() + i;
        if (row >= x.k.count) return;
        store4<simt::width(VX)>(dk.row(row), c0 + first_col(), x.width, out_k[i]);
        store4<simt::width(VX)>(dv.row(row), c0 + first_col(), x.width, out_v[i]);
    }
}

}  // namespace simt

// `queries` and `keys` blocks of each, `parts` blocks of channels of a head.
extern "C" __global__ void __launch_bounds__(256) attention_backward(
    const Operands x, View<TX> dq, View<TX> dk, View<TX> dv, int heads, int queries, int keys, int parts, int p, int s,
    int width) {
    __shared__ __align__(16) simt::Shared shared;
    int i = blockIdx.x;
    const int c0 = i % parts * simt::EDGE, block = i / parts % (queries + keys);
    i /= parts * (queries + keys);
    const int head = i % heads, n = i / heads;
    const simt::Head rows(x, n, head, p, s, width);
    if (block < queries) {
        simt::query_role(shared, rows, simt::Rows<TX>(dq, n, head, width, p), block * simt::EDGE, c0);
    } else {
        const simt::Rows<TX> dks(dk, n, head, width, s), dvs(dv, n, head, width, s);
        simt::key_role(shared, rows, dks, dvs, (block - queries) * simt::EDGE, c0);
    }
}
