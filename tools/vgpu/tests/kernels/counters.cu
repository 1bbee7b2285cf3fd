// Kernels whose counters can be told by hand.
typedef unsigned int u32;
#define I ((int)(blockIdx.x * blockDim.x + threadIdx.x))

extern "C" __global__ void copy(float *y, const float *x, int n) { if (I < n) y[I] = x[I]; }
extern "C" __global__ void copy4(float4 *y, const float4 *x, int n) { if (I < n) y[I] = x[I]; }
extern "C" __global__ void gather(float *y, const float *x, int stride) { y[I] = x[I * stride]; }
extern "C" __global__ void banks(float *y, const float *x, int stride) {
    __shared__ float s[32 * 33];
    for (int i = threadIdx.x; i < 32 * 33; i += 32) s[i] = x[i];
    __syncwarp();
    y[I] = s[threadIdx.x * stride];
}
extern "C" __global__ void votes(u32 *y, const float *x, int n) {
    for (int k = 0; k < (int)threadIdx.x % 4; k++) y[I] = k;
    atomicAdd(y + 64, 1u);
}
