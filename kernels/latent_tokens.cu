// Conditioning tokens: tok_k = A_k (gamma c_k + Z_k), Z_k drawn from a Gaussian mixture (paper Eq. 8-9).
//
// attributes: View<TA> [n, 1, k] of levels: 0, 1, or (TA = float, bf16) anything, tokens: View<TX> [n, k, width], means [components] (equal weights), seed
// [2], index [n][2]. Elements 2m and 2m + 1 of a sample, counted over k width, come of block m: a thread makes
// VX of them (VX = 1: one pair, one by one). VX = 2, 4, 8 divides width and the tokens' alignment.
// Grid: (ceil(k width / max(VX, 2) / threads), min(n, 65535)). Writes the tokens once, reads one byte of each.
//
// Macros: TA = u8, float, bf16, TX, VX = 1, 2, 4, 8, STREAM = LATENT_FIXED | LATENT_FRESH.
#include "philox.cuh"

// Element j (0 or 1) of a block's pair.
__device__ __forceinline__ float latent(uint4 words, int j, const float *means, int components, float sigma) {
    float2 normal = box_muller(words.z, words.w);
    float mean = means[__umulhi(j ? words.y : words.x, (u32)components)];
    return mean + sigma * (j ? normal.y : normal.x);
}

__device__ __forceinline__ float level(u8 a) { return a; }
__device__ __forceinline__ float level(float a) { return a; }
__device__ __forceinline__ float level(bf16 a) { return to_f32(a); }

// 32 signs of a feature's code, from element `e` / 32 * 32 on.
__device__ __forceinline__ u32 code_bits(int feature, int e) {
    uint4 words = Philox(0x676d6d6bu, FEATURE_CODE, (u32)feature).block(e / 128);
    int word = e / 32 % 4;
    return word == 0 ? words.x : word == 1 ? words.y : word == 2 ? words.z : words.w;
}

extern "C" __global__ void latent_tokens(View<const TA> attributes, View<TX> tokens, const float *means,
                                         const u32 *seed, const u32 *index, int components, float sigma,
                                         float code, int n, int k, int width) {
    grid_begin();
    constexpr int COUNT = VX > 1 ? VX : 2;
    int first = (blockIdx.x * blockDim.x + threadIdx.x) * COUNT;
    if (first >= k * width) return;
    for (int i = blockIdx.y; i < n; i += gridDim.y) {
        Philox philox(seed, STREAM, index + 2 * (i64)i);
        int feature = first / width, e = first - feature * width;
        if constexpr (VX > 1) {
            float out[COUNT] = {};
            float a = level(attributes.row(i, 0)[feature]);
            if (a != 0.f) {
                u32 bits = code_bits(feature, e) >> e % 32;
#pragma unroll
                for (int j = 0; j < COUNT; j += 2) {
                    uint4 words = philox.block((first + j) / 2);
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        float sign = bits >> (j + h) & 1 ? code : -code;
                        out[j + h] = a * (sign + latent(words, h, means, components, sigma));
                    }
                }
            }
            store<COUNT>(tokens.row(i, feature) + e, out);
        } else {
            uint4 words = philox.block(first / 2);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                if (first + h >= k * width) break;
                float out = 0.f;
                float a = level(attributes.row(i, 0)[feature]);
                if (a != 0.f) {
                    float sign = code_bits(feature, e) >> e % 32 & 1 ? code : -code;
                    out = a * (sign + latent(words, h, means, components, sigma));
                }
                from_f32(tokens.row(i, feature) + e, out);
                if (++e == width) e = 0, ++feature;
            }
        }
    }
}
