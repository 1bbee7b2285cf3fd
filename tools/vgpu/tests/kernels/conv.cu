// bf16 3x3 convolution (NHWC, padding 1) as an implicit GEMM: cp.async in two stages, ldmatrix, mma.sync.
// A block computes 64 pixels by 64 outputs with four warps; C is a multiple of 32, outputs of 64.
typedef unsigned int u32;
typedef unsigned short u16;
__device__ __forceinline__ u32 at(const void *p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(void *to, const void *from, bool there) {
    int n = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at(to)), "l"(from), "r"(n) : "memory");
}
__device__ __forceinline__ void load4(u32 (&r)[4], const void *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at(p)) : "memory");
}
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
extern "C" __global__ void __launch_bounds__(128)
conv(float *y, const u16 *x, const u16 *w, int batch, int height, int width, int channels, int outputs) {
    __shared__ __align__(16) u16 xs[2][64][40];
    __shared__ __align__(16) u16 ws[2][64][40];
    int t = threadIdx.x, warp = t / 32, lane = t % 32;
    int first = blockIdx.x * 64, out0 = blockIdx.y * 64;
    int pixels = batch * height * width, steps = 9 * channels / 32;
    float acc[8][4] = {};
    auto fill = [&](int step) {
        int tap = step / (channels / 32), c0 = step % (channels / 32) * 32, dy = tap / 3 - 1, dx = tap % 3 - 1;
        for (int i = t; i < 256; i += 128) {
            int row = i / 4, part = i % 4 * 8, p = first + row;
            int n = p / (height * width), r = p % (height * width) / width + dy, c = p % width + dx;
            bool there = p < pixels && r >= 0 && r < height && c >= 0 && c < width;
            const u16 *from = there ? x + ((size_t)(n * height + r) * width + c) * channels + c0 + part : x;
            copy16(&xs[step & 1][row][part], from, there);
            copy16(&ws[step & 1][row][part], w + ((size_t)(out0 + row) * 9 + tap) * channels + c0 + part, true);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    fill(0);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            fill(step + 1);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        for (int k = 0; k < 32; k += 16) {
            u32 a[4];
            load4(a, &xs[step & 1][warp * 16 + lane % 16][k + lane / 16 * 8]);
            for (int n = 0; n < 4; n++) {
                u32 b[4];
                load4(b, &ws[step & 1][n * 16 + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]);
                mma(acc[2 * n], a, b[0], b[1]);
                mma(acc[2 * n + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();
    }
    for (int n = 0; n < 8; n++)
        for (int h = 0; h < 2; h++) {
            int p = first + warp * 16 + lane / 4 + 8 * h, o = out0 + n * 8 + lane % 4 * 2;
            if (p < pixels) *(float2 *)(y + (size_t)p * outputs + o) = make_float2(acc[n][2 * h], acc[n][2 * h + 1]);
        }
}

// Group norm with SiLU over NHWC f32: one block per image and group, two passes.
extern "C" __global__ void __launch_bounds__(256)
group_norm(float *y, const float *x, const float *scale, const float *shift, int pixels, int channels, int groups) {
    __shared__ float part[2][8];
    int t = threadIdx.x, group = blockIdx.x % groups, image = blockIdx.x / groups, wide = channels / groups;
    const float *from = x + (size_t)image * pixels * channels + group * wide;
    float sum = 0, square = 0;
    for (int i = t; i < pixels * wide; i += 256) {
        float v = from[(size_t)(i / wide) * channels + i % wide];
        sum += v;
        square += v * v;
    }
    for (int d = 16; d > 0; d /= 2) {
        sum += __shfl_xor_sync(0xffffffff, sum, d);
        square += __shfl_xor_sync(0xffffffff, square, d);
    }
    if (t % 32 == 0) {
        part[0][t / 32] = sum;
        part[1][t / 32] = square;
    }
    __syncthreads();
    sum = square = 0;
    for (int w = 0; w < 8; w++) {
        sum += part[0][w];
        square += part[1][w];
    }
    float n = (float)(pixels * wide), mean = sum / n, r = rsqrtf(square / n - mean * mean + 1e-5f);
    float *to = y + (size_t)image * pixels * channels + group * wide;
    for (int i = t; i < pixels * wide; i += 256) {
        size_t k = (size_t)(i / wide) * channels + i % wide;
        int c = group * wide + i % wide;
        float v = (from[k] - mean) * r * scale[c] + shift[c];
        to[k] = v / (1 + __expf(-v));
    }
}
