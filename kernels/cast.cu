// bf16 copy of an f32 arena, rounded to nearest even.
//
// from, to [count], both aligned to 16 bytes. A thread makes four at a time. Grid: min(ceil(count / 4 / threads), a few
// waves). 6 bytes per element.
#include "common.cuh"

extern "C" __global__ void cast_bf16(const float *from, bf16 *to, i64 count) {
    grid_begin();
    i64 step = (i64)gridDim.x * blockDim.x * 4;
#pragma unroll 2
    for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < count; i += step) {
        if (i + 4 <= count) {
            float x[4];
            load<4>(from + i, x);
            *reinterpret_cast<uint2 *>(to + i) = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
        } else {
            for (i64 j = i; j < count; ++j) from_f32(to + j, from[j]);
        }
    }
}
