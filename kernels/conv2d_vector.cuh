// What the tensor-core convolutions do to vectors of 16 bytes on their way to shared memory.
//
// TP is the type of the products: bf16 (m16n8k16), or float for tf32 (m16n8k8, operands rounded to nearest on their
// way into shared memory).
#pragma once
#include "conv2d.cuh"
#include "mma.cuh"

constexpr bool TF32 = sizeof(TP) == 4;
constexpr int V = 16 / sizeof(TP);  // elements of a vector

// V numbers as a vector of TP.
__device__ __forceinline__ uint4 pack(const float (&x)[V]) {
    if constexpr (TF32)
        return make_uint4(to_tf32(x[0]), to_tf32(x[1]), to_tf32(x[2]), to_tf32(x[3]));
    else
        return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4 % V], x[5 % V]),
                          pack_bf16(x[6 % V], x[7 % V]));
}

// `left` elements (at most V) from `from` to shared memory, then zeros; if there are none, `from` is any address.
// WHOLE: asynchronously, all or nothing.
template <bool WHOLE, class T>
__device__ __forceinline__ void copy_vector(char *to, const T *from, int left) {
    if constexpr (WHOLE) {
        static_assert(sizeof(T) == sizeof(TP), "asynchronous copies do not convert");
        copy_async_16(shared_address(to), from, left > 0);
    } else {
        float x[V];
#pragma unroll
        for (int e = 0; e < V; ++e) x[e] = e < left ? to_f32(from[e]) : 0.f;
        *reinterpret_cast<uint4 *>(to) = pack(x);
    }
}

// a and b of V channels, the first `left` of them.
struct Coefficients {
    float a[V], b[V];

    __device__ __forceinline__ Coefficients(const float *p, int channels, int left) {
#pragma unroll
        for (int e = 0; e < V; ++e) a[e] = 1.f, b[e] = 0.f;
        if constexpr (!NORM) return;
        if (channels % V == 0) {
            if (left > 0) load<V>(p, a), load<V>(p + channels, b);
        } else {
#pragma unroll
            for (int e = 0; e < V; ++e)
                if (e < left) a[e] = p[e], b[e] = p[channels + e];
        }
    }

    __device__ __forceinline__ void apply(float (&x)[V]) const {
#pragma unroll
        for (int e = 0; e < V; ++e) {
            if (NORM) x[e] = fmaf(a[e], x[e], b[e]);
            if (SILU) x[e] = silu(x[e]);
        }
    }
};

// A word of shared memory. Not through a pointer: its address is 32 bits, part of it a key.
__device__ __forceinline__ u32 load_word(u32 address) {
    u32 r;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(r) : "r"(address) : "memory");
    return r;
}

__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (TF32)
        mma_tf32(d, a, b0, b1);
    else
        mma_bf16(d, a, b0, b1);
}
