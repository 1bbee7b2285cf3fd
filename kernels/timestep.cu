// Time steps of training: t - 1 = (x0 T) >> 32, x0 the first word of the sample's time-step stream.
//
// seed [2], index [n][2], t [n], all u32. Grid: ceil(n / threads).
#include "philox.cuh"

extern "C" __global__ void timestep(const u32 *seed, const u32 *index, u32 *t, u32 t_max, int n) {
    grid_begin();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) t[i] = __umulhi(Philox(seed, TIMESTEP, index + 2 * (i64)i).block(0).x, t_max);
}
