// Gradients of q, k and v. With P = exp(q K^T / sqrt(d) - lse), rebuilt block by block, and D = rowsum(dO o):
// dV = P^T dO, dS = P (dO V^T - D) / sqrt(d), dQ = dS K, dK = dS^T Q.
//
// Shapes as in attention.cu. One launch of blocks with two roles, so that every sum has one owner and one order,
// without atomics: the first of a head own 64 queries and walk over the keys (dQ), the others own 64 keys and walk over
// the queries (dK, dV). 14 n p s heads d FLOP instead of 10.
//
// Macros: TX storage of everything but lse; VX neighbours that may be accessed at once. MMA 0: f32 products, 256
// threads. MMA 1: tensor cores, bf16 rows of 16-byte vectors (VX 8), 128 threads; DP d rounded up to a multiple of 16,
// up to 64; KB rows at a time (a multiple of 16); shared memory for 128 + 6 KB rows of DP + 8 bf16 each, and 2 KB
// floats. Registers on sm_80 to sm_120, d = 64, KB 32: 167 to 177; nothing spills. No bank conflicts.
#include "attention.cuh"

struct Operands {
    View<const TX> q, k, v, o;
    View<const float> lse;
    View<const TX> d_out;
};

struct Head {
    Rows<const TX> q, k, v, o, d_out;
    const float *lse;
    int lse_ld, width;

    __device__ __forceinline__ Head(const Operands &x, int n, int head, int p, int s, int width)
        : q(x.q, n, head, width, p), k(x.k, n, head, width, s), v(x.v, n, head, width, s), o(x.o, n, head, width, p),
          d_out(x.d_out, n, head, width, p), lse(x.lse.row(n, 0) + head), lse_ld(x.lse.ld), width(width) {}
};

#if MMA
namespace tensor {

// In shared memory: two tiles of 64 rows that a block owns, then two stages of up to three blocks of KB rows that it
// walks over, then a float of two kinds for each of KB queries.
constexpr u32 OWN = ROWS * PITCH, BLOCK = KB * PITCH;

__device__ __forceinline__ u32 stage(int i) { return 2 * OWN + (i & 1) * 3 * BLOCK; }

// sum + products of eight channels.
__device__ __forceinline__ float add_products(float sum, const bf16 *a, const bf16 *b) {
    float x[8], y[8];
    load<8>(a, x);
    load<8>(b, y);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum = fmaf(x[j], y[j], sum);
    return sum;
}

__device__ __forceinline__ void scale_by(Sums &sums, float factor) {
#pragma unroll
    for (int n = 0; n < DP / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] *= factor;
}

// dQ of queries q0 .. q0 + 63.
__device__ __forceinline__ void query_role(const Head &x, const Rows<bf16> &dq, int q0) {
    const u32 base = shared_address(shared);
    const float root = rsqrtf((float)x.width), scale = LOG2E * root;
    const int lane = threadIdx.x & 31, blocks = (x.k.count + KB - 1) / KB;
    const auto fetch = [&](int i) {
        copy<KB>(base + stage(i), x.k, i * KB, x.width);
        copy<KB>(base + stage(i) + BLOCK, x.v, i * KB, x.width);
        copy_async_commit();
    };
    copy<ROWS>(base, x.q, q0, x.width);
    copy<ROWS>(base + OWN, x.d_out, q0, x.width);
    fetch(0);
    // Log-sum-exp and D of the rows lane / 4 and + 8; four lanes share a row.
    float lse[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = q0 + threadIdx.x / 32 * 16 + lane / 4 + r * 8;
        lse[r] = row < x.q.count ? LOG2E * x.lse[(i64)row * x.lse_ld] : infinite();
        delta[r] = 0.f;
        for (int c = lane % 4 * 8; c < x.width; c += 32)
            delta[r] = add_products(delta[r], x.o.row(row) + c, x.d_out.row(row) + c);
        delta[r] += __shfl_xor_sync(0xffffffffu, delta[r], 1);
        delta[r] += __shfl_xor_sync(0xffffffffu, delta[r], 2);
    }
    Operand q, d_out;
    Sums out = {};
#pragma unroll 1
    for (int i = 0; i < blocks; ++i) {
        copy_async_wait<0>();
        __syncthreads();
        if (i + 1 < blocks) fetch(i + 1);
        if (i == 0) {
            load_operand(q, base);
            load_operand(d_out, base + OWN);
        }
        Scores scores, slopes;
        products(scores, q, base + stage(i));
        products(slopes, d_out, base + stage(i) + BLOCK);
        const int left = x.k.count - i * KB;
#pragma unroll
        for (int n = 0; n < KB / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const bool inside = n * 8 + lane % 4 * 2 + (j & 1) < left;
                const float p = exp2_fast(fmaf(scores[n][j], scale, -lse[j >> 1]));
                slopes[n][j] = inside ? p * (slopes[n][j] - delta[j >> 1]) : 0.f;
            }
        accumulate(out, slopes, base + stage(i));
    }
    scale_by(out, root);
    put(out, shared, dq, q0, x.width);
}

// dK and dV of keys k0 .. k0 + 63. Scores are transposed: keys down, queries across.
__device__ __forceinline__ void key_role(const Head &x, const Rows<bf16> &dk, const Rows<bf16> &dv, int k0) {
    const u32 base = shared_address(shared);
    float *lses = reinterpret_cast<float *>(shared + 2 * OWN + 6 * BLOCK), *deltas = lses + KB;
    const float root = rsqrtf((float)x.width), scale = LOG2E * root;
    const int lane = threadIdx.x & 31, blocks = (x.q.count + KB - 1) / KB;
    const auto fetch = [&](int i) {
        copy<KB>(base + stage(i), x.q, i * KB, x.width);
        copy<KB>(base + stage(i) + BLOCK, x.d_out, i * KB, x.width);
        copy<KB>(base + stage(i) + 2 * BLOCK, x.o, i * KB, x.width);
        copy_async_commit();
    };
    copy<ROWS>(base, x.k, k0, x.width);
    copy<ROWS>(base + OWN, x.v, k0, x.width);
    fetch(0);
    Operand k, v;
    Sums out_k = {}, out_v = {};
#pragma unroll 1
    for (int i = 0; i < blocks; ++i) {
        copy_async_wait<0>();
        __syncthreads();
        if (i + 1 < blocks) fetch(i + 1);
        if (i == 0) {
            load_operand(k, base);
            load_operand(v, base + OWN);
        }
        // Eight lanes read eight rows: no bank conflict.
        for (int row = threadIdx.x / 32 * 8 + lane % 8; row < KB; row += THREADS / 4) {
            const bf16 *from = reinterpret_cast<const bf16 *>(shared + stage(i) + BLOCK + row * PITCH);
            float delta = 0.f;
            for (int c = lane / 8 * 8; c < DP; c += 32) delta = add_products(delta, from + c, from + c + BLOCK / 2);
            delta += __shfl_xor_sync(0xffffffffu, delta, 8);
            delta += __shfl_xor_sync(0xffffffffu, delta, 16);
            if (lane < 8) {
                const int query = i * KB + row;
                lses[row] = query < x.q.count ? LOG2E * x.lse[(i64)query * x.lse_ld] : infinite();
                deltas[row] = delta;
            }
        }
        __syncthreads();
        Scores scores, slopes;
        products(scores, k, base + stage(i));
        products(slopes, v, base + stage(i) + BLOCK);
#pragma unroll
        for (int n = 0; n < KB / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int query = n * 8 + lane % 4 * 2 + (j & 1);
                scores[n][j] = exp2_fast(fmaf(scores[n][j], scale, -lses[query]));
                slopes[n][j] = scores[n][j] * (slopes[n][j] - deltas[query]);
            }
        accumulate(out_v, scores, base + stage(i) + BLOCK);
        accumulate(out_k, slopes, base + stage(i));
    }
    scale_by(out_k, root);
    put(out_k, shared, dk, k0, x.width);
    put(out_v, shared + OWN, dv, k0, x.width);
}

}  // namespace tensor

using namespace tensor;
#else
namespace simt {

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

using namespace simt;
#endif

// `queries` and `keys` blocks of 64 of each, `parts` blocks of 64 channels of a head (1 on tensor cores).
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward(
    View<const TX> q, View<const TX> k, View<const TX> v, View<const TX> o, View<const float> lse, View<const TX> d_out,
    View<TX> dq, View<TX> dk, View<TX> dv, int heads, int queries, int keys, int parts, int p, int s, int width) {
    grid_begin();
    const Operands x = {q, k, v, o, lse, d_out};
    int i = blockIdx.x;
    [[maybe_unused]] const int c0 = i % parts * 64;
    const int block = i / parts % (queries + keys);
    i /= parts * (queries + keys);
    const int head = i % heads, n = i / heads;
    const Head rows(x, n, head, p, s, width);
    const Rows<TX> dqs(dq, n, head, width, p), dks(dk, n, head, width, s), dvs(dv, n, head, width, s);
#if MMA
    if (block < queries)
        tensor::query_role(rows, dqs, block * 64);
    else
        tensor::key_role(rows, dks, dvs, (block - queries) * 64);
#else
    __shared__ __align__(16) simt::Shared shared;
    if (block < queries)
        simt::query_role(shared, rows, dqs, block * 64, c0);
    else
        simt::key_role(shared, rows, dks, dvs, (block - queries) * 64, c0);
#endif
}
