// What compilers make of calls, local arrays, constants, dynamic shared memory, locks and grid barriers.
typedef unsigned int u32;
#define I ((int)(blockIdx.x * blockDim.x + threadIdx.x))

struct Pair { float low, high; };
__constant__ float table[4] = {1.5f, 2.5f, -3.0f, 4.0f};
__device__ u32 counter = 7;

__device__ __noinline__ Pair split(float x, int n) {
    Pair p;
    p.low = x * n;
    p.high = n > 2 ? x + n : -x;
    return p;
}

extern "C" __global__ void calls(float *out, const float *x, int n) {
    if (I >= n) return;
    float sum = 0;
    for (int k = 0; k < I % 5; k++) {
        Pair p = split(x[I], k);
        sum += p.low - p.high;
    }
    out[I] = sum + table[I & 3];
}

extern "C" __global__ void local_array(u32 *out, const u32 *x, int n) {
    u32 a[16];
    for (int k = 0; k < 16; k++) a[k] = k * I;
    for (int k = 0; k < 16; k++) a[x[k] & 15] += a[(x[k] >> 4) & 15];
    out[I] = a[I & 15] ^ a[n & 15];
}

extern __shared__ float dynamic[];
extern "C" __global__ void dynamic_shared(float *out, const float *x, int n) {
    __shared__ float fixed[32];
    dynamic[threadIdx.x] = x[I];
    if (threadIdx.x < 32) fixed[threadIdx.x] = 1;
    __syncthreads();
    out[I] = dynamic[n - 1 - threadIdx.x] + fixed[threadIdx.x & 31];
}

extern "C" __global__ void switches(u32 *out, const u32 *x, int n) {
    u32 v = x[I];
    switch (v % 9) {
        case 0: v = v * 3 + 1; break;
        case 1: v = v ^ 0x55; break;
        case 2: v = v >> 3;
        case 3: v = v + 11; break;
        case 4: v = ~v; break;
        case 5: v = v / 7; break;
        case 6: v = v % 13; break;
        case 7: v = __popc(v); break;
        default: v = __clz(v); break;
    }
    out[I] = v;
}

extern "C" __global__ void lock(u32 *out, u32 *mutex, int n) {
    for (int k = 0; k < n; k++) {
        while (atomicCAS(mutex, 0u, 1u) != 0u) {}
        *(volatile u32 *)out = *(volatile u32 *)out + 1;
        __threadfence();
        atomicExch(mutex, 0u);
    }
}

extern "C" __global__ void grid_barrier(u32 *out, u32 *arrived, int n) {
    for (int round = 1; round <= n; round++) {
        out[I] = out[I] + 1;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            atomicAdd(arrived, 1u);
            while (*(volatile u32 *)arrived < round * gridDim.x) {}
        }
        __syncthreads();
    }
    out[I] += *(volatile u32 *)(out + (I + blockDim.x) % (gridDim.x * blockDim.x)) * 0u;
}

extern "C" __global__ void globals(u32 *out, u32 *x, int n) { out[I] = atomicAdd(&counter, 1u); }
