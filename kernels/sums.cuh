// Sums in f64, and the last step of a loss that is a mean over samples.
#pragma once
#include "common.cuh"

// Sum over a block of up to 1024 threads (a multiple of 32), in thread 0; `shared` has 32 numbers.
__device__ __forceinline__ double block_sum(double x, double *shared) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = lane < (int)(blockDim.x >> 5) ? shared[lane] : 0.;
#pragma unroll
        for (int i = 16; i > 0; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    }
    return x;
}

// samples[i] = weight / count sum of part[i][blocks]; loss = their mean. One block.
__device__ __forceinline__ void finish_loss(const double *part, int n, int blocks, double weight, double count,
                                            View<float> samples, float *loss) {
    __shared__ double shared[32];
    double total = 0.;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        double sum = 0.;
        for (int b = 0; b < blocks; ++b) sum += part[(i64)i * blocks + b];
        float mean = (float)(weight * sum / count);
        *samples.row(i, 0) = mean;
        total += (double)mean;
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) *loss = (float)(total / (double)n);
}
