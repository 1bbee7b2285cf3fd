// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011) and Box-Muller normals, the words
// of `src/rng.rs`: key = seed, counter = (block, stream, index low, index high).
#pragma once
#include "common.cuh"

enum Stream : u32 { LATENT_FIXED, LATENT_FRESH, NOISE, TIMESTEP, FEATURE_CODE, FLIP };

struct Philox {
    u32 key0, key1, stream, index0, index1;

    // Words of `stream` number `index` under `seed`, each given as low and high word.
    __device__ Philox(const u32 *seed, u32 stream, const u32 *index)
        : key0(seed[0]), key1(seed[1]), stream(stream), index0(index[0]), index1(index[1]) {}
    __device__ Philox(u32 seed, u32 stream, u32 index)
        : key0(seed), key1(0), stream(stream), index0(index), index1(0) {}

    __device__ uint4 block(u32 block) const {
        u32 c0 = block, c1 = stream, c2 = index0, c3 = index1, k0 = key0, k1 = key1;
#pragma unroll
        for (int i = 0; i < 10; ++i) {
            u32 high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
            u32 high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
            c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        return make_uint4(c0, c1, c2, c3);
    }
};

// sin and cos of 2 pi u for u in [0, 1] of 24 bits: quarter turns are taken off exactly, then polynomials of
// N. Juffa's sincospi. Within 0.97 ulp of f64 at each of the 2^24 arguments; zeros are exact.
__device__ __forceinline__ void sincos_turns(float u, float &sin, float &cos) {
    float quarters = rintf(4.f * u);
    float t = 2.f * fmaf(-0.25f, quarters, u), s = t * t;
    float c = fmaf(0x1.d9e000p-3f, s, -0x1.55c400p+0f);
    c = fmaf(c, s, 0x1.03c1cep+2f);
    c = fmaf(c, s, -0x1.3bd3ccp+2f);
    c = fmaf(c, s, 1.f);
    float p = fmaf(-0x1.310000p-1f, s, 0x1.46737ep+1f);
    p = fmaf(p, s, -0x1.4abbfep+2f);
    p = fmaf(t, 0x1.921fb6p+1f, t * s * p);
    int i = (int)quarters;
    float odd_sin = i & 1 ? c : p, odd_cos = i & 1 ? -p : c;
    sin = i & 2 ? -odd_sin : odd_sin;
    cos = i & 2 ? -odd_cos : odd_cos;
}

// Two standard normals from two words.
__device__ __forceinline__ float2 box_muller(u32 a, u32 b) {
    const float ulp = 1.f / 16777216.f;
    float r = sqrtf(-2.f * logf((float)((a >> 8) + 1) * ulp)), sin, cos;
    sincos_turns((float)(b >> 8) * ulp, sin, cos);
    return make_float2(r * cos, r * sin);
}

// Normals 4m..4m+3 of block m.
__device__ __forceinline__ void normals4(uint4 words, float (&out)[4]) {
    float2 low = box_muller(words.x, words.y), high = box_muller(words.z, words.w);
    out[0] = low.x, out[1] = low.y, out[2] = high.x, out[3] = high.y;
}
