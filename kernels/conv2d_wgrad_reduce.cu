// Adds up the parts of a split weight gradient in their order: out (+)= sum_s part[s].
//
// part f32 [splits][weights + biases, rounded up to 4]; dw f32 [weights], db f32 [biases].
// add_w, add_b: add to what is there.
// One thread per element, 256 a block. Bytes 4 (splits + 1 .. 2) (weights + biases): bandwidth (L2, mostly).
// ptxas: 20 registers, no spills.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
    conv2d_wgrad_reduce(const float *part, int splits, i64 weights, int biases, float *dw, int add_w, float *db,
                        int add_b) {
    grid_begin();
    i64 i = (i64)blockIdx.x * 256 + threadIdx.x, stride = (weights + biases + 3) & ~3ll;
    if (i >= weights + biases) return;
    bool weight = i < weights;
    float *out = weight ? dw + i : db + (i - weights);
    part += i;
    float sum = 0.f;
#pragma unroll 4
    for (int s = 0; s < splits; ++s) sum += part[s * stride];
    if (weight ? add_w : add_b) sum += *out;
    *out = sum;
}
