// What every kernel shares: storage types, strided views, vector loads and stores, warp and block sums.
//
// No CUDA header is included: NVRTC's wheel carries none.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// The beginning of every kernel. From sm_90 on a kernel is launched before the one ahead of it in the stream has
// ended altogether (PTX ISA: "griddepcontrol"), and waits here until what that one wrote is seen. Measured on an H100,
// it pays to come when the blocks ahead have left, not when they have begun: early blocks fill up the first
// multiprocessors that have room, while others stay idle.
__device__ __forceinline__ void grid_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Storage of half the size: the upper half of an f32. Arithmetic is always f32.
struct bf16 {
    u16 bits;
};

// A tensor, or a slice of a wider one: element (n, row, c) is p[n * sample + row * ld + c].
// Mirrors `device::cuda::View`.
template <class T>
struct View {
    T *p;
    i64 sample;
    int ld;
    int unused;

    __device__ T *row(int n, int r) const { return p + n * sample + (i64)r * ld; }
};

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// Two f32 rounded to nearest even; `low` goes to the lower half (the lower address).
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
#if __CUDA_ARCH__ >= 800
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#else
    u32 a = __float_as_uint(low), b = __float_as_uint(high);
    a = (a & 0x7fffffff) > 0x7f800000 ? 0x7fff0000 : a + 0x7fff + (a >> 16 & 1);
    b = (b & 0x7fffffff) > 0x7f800000 ? 0x7fff0000 : b + 0x7fff + (b >> 16 & 1);
    return a >> 16 | (b & 0xffff0000);
#endif
}

__device__ __forceinline__ void from_f32(float *p, float x) { *p = x; }
__device__ __forceinline__ void from_f32(bf16 *p, float x) { p->bits = (u16)pack_bf16(x, 0.f); }

// The value that storing x as T and loading it again gives.
template <class T>
__device__ __forceinline__ float rounded(float x) {
    T t;
    from_f32(&t, x);
    return to_f32(t);
}

// V neighbours as f32; the address is a multiple of V elements (16 bytes at most per access).
template <int V, class T>
__device__ __forceinline__ void load(const T *p, float (&x)[V]) {
    if constexpr (sizeof(T) == 2 && V % 8 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 8) {
            uint4 r = *reinterpret_cast<const uint4 *>(p + i);
            const u32 w[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                x[i + 2 * j] = __uint_as_float(w[j] << 16);
                x[i + 2 * j + 1] = __uint_as_float(w[j] & 0xffff0000);
            }
        }
    } else if constexpr (sizeof(T) == 2 && V % 2 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 2) {
            u32 w = *reinterpret_cast<const u32 *>(p + i);
            x[i] = __uint_as_float(w << 16);
            x[i + 1] = __uint_as_float(w & 0xffff0000);
        }
    } else if constexpr (sizeof(T) == 4 && V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            float4 r = *reinterpret_cast<const float4 *>(p + i);
            x[i] = r.x, x[i + 1] = r.y, x[i + 2] = r.z, x[i + 3] = r.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) x[i] = to_f32(p[i]);
    }
}

template <int V, class T>
__device__ __forceinline__ void store(T *p, const float (&x)[V]) {
    if constexpr (sizeof(T) == 2 && V % 8 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 8)
            *reinterpret_cast<uint4 *>(p + i) = make_uint4(
                pack_bf16(x[i], x[i + 1]), pack_bf16(x[i + 2], x[i + 3]),
                pack_bf16(x[i + 4], x[i + 5]), pack_bf16(x[i + 6], x[i + 7]));
    } else if constexpr (sizeof(T) == 2 && V % 2 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 2) *reinterpret_cast<u32 *>(p + i) = pack_bf16(x[i], x[i + 1]);
    } else if constexpr (sizeof(T) == 4 && V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4)
            *reinterpret_cast<float4 *>(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) from_f32(p + i, x[i]);
    }
}

// 2^x and 1 / x, hardware approximations (2 ulp and 1 ulp).
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float rcp_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / (1 + e^-x): e^-x beyond f32 is infinite, and its reciprocal 0.
__device__ __forceinline__ float sigmoid(float x) { return rcp_fast(1.f + exp2_fast(-1.4426950409f * x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
// d SiLU(x) / dx.
__device__ __forceinline__ float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.f + x * (1.f - s));
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

// Sum over a block of up to 1024 threads (a multiple of 32), in every thread; `shared` has 32 floats and
// is free again after the next barrier.
__device__ __forceinline__ float block_sum(float x, float *shared) {
    x = warp_sum(x);
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    x = lane < (int)(blockDim.x >> 5) ? shared[lane] : 0.f;
    return warp_sum(x);
}
