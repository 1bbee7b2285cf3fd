// Products with the kernel matrix of a uniform grid, which has 2 R + 1 different entries and is never stored:
// out_j = sum over |d| <= R of taps[|d|] v_(j + d), v zero outside 0..n.
#pragma once
#include "common.cuh"

// Distances whose taps lie in shared memory at a time, and the zeros around them.
constexpr int WINDOW_SPAN = 256, WINDOW_PAD = 4;

// Numbers of shared memory for `outputs` = 4 threads outputs of a block.
constexpr int window_floats(int outputs) {
    return outputs + WINDOW_SPAN + WINDOW_SPAN + 2 * WINDOW_PAD + (outputs + WINDOW_SPAN) / 32;
}

// sums[i] += out_(first + 4 thread + i), for 32 to 256 threads, all of which call. `value(i)` makes v_i for 0 <= i < n.
//
// A warp whose 128 outputs see few numbers that are not zero (the deficits of a one-hot target) adds those alone; else
// each step of four distances costs two 16-byte loads without bank conflicts (one the same for the warp) and 16 FMA.
// 16 terms are added first, then 16 such sums, then those: the error is below (32 + 2 R / WINDOW_SPAN) 2^-24 of
// sum |taps v|, some 2^-23 of it as a rule.
template <class Value>
__device__ __forceinline__ void window_sum(const float *taps, int radius, int n, int first, const Value &value,
                                           float (&sums)[4], float *shared) {
    const int outputs = 4 * blockDim.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float *values = shared, *near = shared + outputs + WINDOW_SPAN;
    u32 *masks = reinterpret_cast<u32 *>(near + WINDOW_SPAN + 2 * WINDOW_PAD);
    for (int d0 = -radius; d0 <= radius; d0 += WINDOW_SPAN) {
        const int span = min(WINDOW_SPAN, (2 * radius + 1 - (d0 + radius) + 3) & ~3);
        // Nothing of 0..n is within these distances of the block.
        if (first + d0 >= n || first + outputs + d0 + span <= 0) continue;
        __syncthreads();
        for (int i = threadIdx.x; i < outputs + WINDOW_SPAN; i += blockDim.x) {
            int at = first + d0 + i;
            float v = i < outputs + span && at >= 0 && at < n ? value(at) : 0.f;
            values[i] = v;
            u32 mask = __ballot_sync(0xffffffffu, v != 0.f);
            if (lane == 0) masks[i / 32] = mask;
        }
        for (int i = threadIdx.x; i < WINDOW_SPAN + 2 * WINDOW_PAD; i += blockDim.x) {
            int d = d0 + i - WINDOW_PAD;
            bool inside = i >= WINDOW_PAD && i < WINDOW_PAD + span && d <= radius;
            near[i] = inside ? taps[d < 0 ? -d : d] : 0.f;
        }
        __syncthreads();
        int segments = min(4 + (span + 31) / 32, (outputs + WINDOW_SPAN) / 32 - 4 * warp), count = 0;
        for (int s = 0; s < segments; ++s) count += __popc(masks[4 * warp + s]);
        float part[4] = {};
        if (count == 0) continue;
        if (count * 16 < span) {
            for (int s = 0; s < segments; ++s)
                for (u32 mask = masks[4 * warp + s]; mask; mask &= mask - 1) {
                    int i = 128 * warp + 32 * s + __ffs((int)mask) - 1, from = i - 4 * (int)threadIdx.x;
                    if (from < 0 || from >= span + 3) continue;
#pragma unroll
                    for (int k = 0; k < 4; ++k) part[k] = fmaf(near[WINDOW_PAD + from - k], values[i], part[k]);
                }
        } else {
            const float4 *window = reinterpret_cast<const float4 *>(values) + threadIdx.x;
            const float4 *row = reinterpret_cast<const float4 *>(near + WINDOW_PAD);
            float4 now = window[0];
            float few[4] = {};
            for (int d = 0; d < span / 4; ++d) {
                float4 next = window[d + 1], t = row[d];
                const float v[8] = {now.x, now.y, now.z, now.w, next.x, next.y, next.z, next.w};
                const float tap[4] = {t.x, t.y, t.z, t.w};
#pragma unroll
                for (int k = 0; k < 4; ++k)
#pragma unroll
                    for (int i = 0; i < 4; ++i) few[i] = fmaf(tap[k], v[i + k], few[i]);
                now = next;
                if (d % 4 == 3 || d == span / 4 - 1) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) part[i] += few[i], few[i] = 0.f;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i] += part[i];
    }
}
