// The end of a convolution on tensor cores: sums in shared memory as rows of f32, [pixel][PITCH] with BN channels
// each; bias, residual, rounding, 16-byte stores of whole pixel rows.
//
// Before this header: BN, THREADS, ROWS, COLUMNS, PIXELS (of an image's tile). Residuals and DOWN as in conv2d.cu.
#pragma once

#ifndef DGRAD
#define DGRAD 0
#endif
#ifndef DOWN
#define DOWN 0
#endif
#ifndef RESIDUAL
#define RESIDUAL 0
#endif
#ifndef BIAS
#define BIAS (!DGRAD)
#endif
// Types of residual and biases.
#ifndef TR
#define TR TX
#endif
#ifndef TB
#define TB TW
#endif
// Elements per global access of y and the residual.
#ifndef VY
#define VY 1
#endif
#ifndef VR
#define VR 1
#endif

// A pitch that spreads the rows of a fragment over the banks.
constexpr int PITCH = BN + 8;

struct Place {
    int n, y, x;  // first image, row, column of the tile
};
struct Size {
    int n, h, w;
};

// What a thread of the epilogue does: OV channels of every STEP-th pixel.
struct Epilogue {
    static constexpr int OV = 16 / sizeof(TY), ROW = BN / OV, STEP = THREADS / ROW;
    int column, left;  // first channel in the tile; channels of the tensor from there on
    float bias[OV];

    __device__ __forceinline__ Epilogue(const TB *b, const TB *b2, int k0, int results) {
        column = threadIdx.x % ROW * OV;
        left = results - k0 - column;
#pragma unroll
        for (int e = 0; e < OV; ++e) {
            bias[e] = 0.f;
            if (BIAS && e < left) bias[e] = to_f32(b[k0 + column + e]);
            if (RESIDUAL == 3 && e < left) bias[e] += to_f32(b2[k0 + column + e]);
        }
    }

    // Staged sums of a pixel. The halves of 8 channels are read in an order in which no two lanes share a bank.
    __device__ __forceinline__ void read(float (&x)[OV], const float *row) const {
        if constexpr (OV == 8) {
            bool swap = column >> 5 & 1;
            float lo[4], hi[4];
            load<4>(row + column + (swap ? 4 : 0), lo);
            load<4>(row + column + (swap ? 0 : 4), hi);
#pragma unroll
            for (int e = 0; e < 4; ++e) x[e] = swap ? hi[e] : lo[e], x[(e + 4) % OV] = swap ? lo[e] : hi[e];
        } else {
            load<OV>(row + column, x);
        }
    }

    __device__ __forceinline__ void add_row(float (&x)[OV], const TR *p) const {
        float r[OV];
        if constexpr (VY == OV && (VR >= OV || VR * sizeof(TR) == 16)) {
            load<OV>(p, r);
        } else {
#pragma unroll
            for (int e = 0; e < OV; ++e) r[e] = e < left ? to_f32(p[e]) : 0.f;
        }
#pragma unroll
        for (int e = 0; e < OV; ++e) x[e] += r[e];
    }

    __device__ __forceinline__ void write(TY *p, const float (&x)[OV]) const {
        if constexpr (VY == OV) {
            store<OV>(p, x);
        } else {
#pragma unroll
            for (int e = 0; e < OV; ++e)
                if (e < left) from_f32(p + e, x[e]);
        }
    }

    // Pixels first .. first + COUNT of the tile, which lie staged at `rows`.
    template <int COUNT>
    __device__ __forceinline__ void run(const float *rows, int first, View<TY> y, View<const TR> residual, Place at,
                                        Size size, int k0) const {
        if (left <= 0) return;
#pragma unroll 2
        for (int i = threadIdx.x / ROW; i < (DOWN ? COUNT / 4 : COUNT); i += STEP) {
            // DOWN: i counts blocks of 2x2 pixels, row by row.
            constexpr int ACROSS = DOWN ? COLUMNS / 2 : COLUMNS, SCALE = DOWN ? 2 : 1, AREA = PIXELS / SCALE / SCALE;
            int pixel = first / (SCALE * SCALE) + i, n = at.n + pixel / AREA;
            int ty = pixel % AREA / ACROSS * SCALE, tx = pixel % ACROSS * SCALE, py = at.y + ty, px = at.x + tx;
            if (n >= size.n || py >= size.h || px >= size.w) continue;
            float x[OV];
            if constexpr (DOWN) {
                const float *row = rows + (pixel / AREA * PIXELS + ty * COLUMNS + tx - first) * PITCH;
                float z[3][OV];
                read(x, row);
                read(z[0], row + PITCH);
                read(z[1], row + COLUMNS * PITCH);
                read(z[2], row + (COLUMNS + 1) * PITCH);
#pragma unroll
                for (int e = 0; e < OV; ++e) x[e] = (x[e] + z[0][e]) + (z[1][e] + z[2][e]);
            } else {
                read(x, rows + i * PITCH);
            }
#pragma unroll
            for (int e = 0; e < OV; ++e) x[e] += bias[e];
            int row = DOWN ? (py >> 1) * (size.w >> 1) + (px >> 1) : py * size.w + px;
            int half = RESIDUAL == 2 ? (py >> 1) * (size.w >> 1) + (px >> 1) : row;
            if (RESIDUAL == 1 || RESIDUAL == 2) add_row(x, residual.row(n, half) + k0 + column);
            write(y.row(n, row) + k0 + column, x);
        }
    }
};
