// Pictures from bytes: x = u8 / 127.5 - 1, mirrored left to right if the top bit of the sample's flip stream
// is set.
//
// bytes: View<u8> [n, h, w, c], x: View<TX> of that shape, seed [2], index [n][2].
// A thread makes VXX neighbours of a sample's elements in the order (row, channel): VX divides c, or x is dense
// (ld = c) and VX divides h w c. Grid: (ceil(h w c / VX / threads), min(n, 65535)). Reads 1 byte and writes
// sizeof(TX) per element.
//
// Macros: TX, VX = 1, 2, 4, 8 (16 bytes a store), FLIP_ROWS = 0 | 1.
#include "philox.cuh"

extern "C" __global__ void unpack(View<u8> bytes, View<TX> x, const u32 *seed, const u32 *index, int n,
                                  int rows, int w, int c) {
    grid_begin();
    int e = (blockIdx.x * blockDim.x + threadIdx.x) * VX;
    if (e >= rows * c) return;
    for (int i = blockIdx.y; i < n; i += gridDim.y) {
        bool flip = FLIP_ROWS && Philox(seed, FLIP, index + 2 * (i64)i).block(0).x >> 31;
        int r = e / c, channel = e - r * c, column = r % w;
        TX *to = x.row(i, r) + channel;
        float out[VX];
#pragma unroll
        for (int j = 0; j < VX; ++j) {
            int from = flip ? r - column + (w - 1 - column) : r;
            out[j] = (float)bytes.row(i, from)[channel] / 127.5f - 1.f;
            if (++channel == c) channel = 0, ++r, column = column + 1 == w ? 0 : column + 1;
        }
        store<VX>(to, out);
    }
}
