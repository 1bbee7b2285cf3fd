// Kernels that each load one part of a device: memory levels, pipes, atomics. All take (y, x, n, bytes of x).
typedef unsigned int u32;
typedef unsigned long long u64;
#define K(name) extern "C" __global__ void __launch_bounds__(256) name(float *y, const float *x, int n)
#define T ((int)threadIdx.x)
#define I ((int)(blockIdx.x * blockDim.x + threadIdx.x))
#define STRIDE ((int)(gridDim.x * blockDim.x))
__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
// What a loop computes must be used: this is never true, and the compiler does not know it.
#define KEEP(v) if (n == -1) y[I] = (v)

// n float4 of x to y.
K(copy) { for (int i = I; i < n; i += STRIDE) ((float4 *)y)[i] = ((const float4 *)x)[i]; }
K(fill) { for (int i = I; i < n; i += STRIDE) ((float4 *)y)[i] = make_float4(1, 2, 3, 4); }
K(read) {
    float s = 0;
    for (int i = I; i < n; i += STRIDE) { float4 v = ((const float4 *)x)[i]; s += v.x + v.y + v.z + v.w; }
    KEEP(s);
}
// Every block reads the same n float4, past L1.
K(read_l2) {
    float s = 0;
    for (int i = T; i < n; i += 256) {
        float4 v;
        asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"((const float4 *)x + i));
        s += v.x + v.y + v.z + v.w;
    }
    KEEP(s);
}
// Each block reads 4 KB n times: from L1 but for the first.
K(read_l1) {
    float s = 0;
    for (int k = 0; k < n; k++) {
        float4 v;
        asm volatile("ld.global.ca.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"((const float4 *)x + T));
        s += v.x + v.y + v.z + v.w;
    }
    KEEP(s);
}
K(shared_load) {
    __shared__ float4 s[256];
    s[T] = make_float4(T, 1, 2, 3);
    __syncthreads();
    float sum = 0;
    for (int k = 0; k < n; k++) {
        float4 v;
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(shared_address(s + T)));
        sum += v.x;
    }
    KEEP(sum);
}
K(shared_conflict) {
    __shared__ float s[1024];
    for (int i = T; i < 1024; i += 256) s[i] = i;
    __syncthreads();
    float sum = 0;
    for (int k = 0; k < n; k++) {
        float v;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(shared_address(s + 4 * T)));
        sum += v;
    }
    KEEP(sum);
}
K(shared_atomic) {
    __shared__ u32 s[256];
    s[T] = 0;
    __syncthreads();
    for (int k = 0; k < n; k++) atomicAdd(s + T, 1u);
    __syncthreads();
    KEEP(s[255 - T]);
}
K(atomic_spread) { for (int k = 0; k < n; k++) atomicAdd(y + I, 1.0f); }
K(atomic_same) { for (int k = 0; k < n; k++) if (T % 32 == 0) atomicAdd(y, 1.0f); }

#define LOOP(BODY) for (int k = 0; k < n; k++) { BODY BODY BODY BODY }
#define MMA(SHAPE, C, A0, A1, A2, A3, B0, B1)                                                              \
    asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(C[0]), "+f"(C[1]), "+f"(C[2]), "+f"(C[3]) : "r"(A0), "r"(A1), "r"(A2), "r"(A3), "r"(B0), "r"(B1));
K(mma_bf16) {
    float a[4] = {}, b[4] = {}, c[4] = {}, d[4] = {};
    u32 v = T;
    for (int k = 0; k < n; k++) {
        MMA("m16n8k16.row.col.f32.bf16.bf16.f32", a, v, v, v, v, v, v) MMA("m16n8k16.row.col.f32.bf16.bf16.f32", b, v, v, v, v, v, v)
        MMA("m16n8k16.row.col.f32.bf16.bf16.f32", c, v, v, v, v, v, v) MMA("m16n8k16.row.col.f32.bf16.bf16.f32", d, v, v, v, v, v, v)
    }
    KEEP(a[0] + b[0] + c[0] + d[0]);
}
K(mma_tf32) {
    float a[4] = {}, b[4] = {}, c[4] = {}, d[4] = {};
    u32 v = T << 16;
    for (int k = 0; k < n; k++) {
        MMA("m16n8k8.row.col.f32.tf32.tf32.f32", a, v, v, v, v, v, v) MMA("m16n8k8.row.col.f32.tf32.tf32.f32", b, v, v, v, v, v, v)
        MMA("m16n8k8.row.col.f32.tf32.tf32.f32", c, v, v, v, v, v, v) MMA("m16n8k8.row.col.f32.tf32.tf32.f32", d, v, v, v, v, v, v)
    }
    KEEP(a[0] + b[0] + c[0] + d[0]);
}
K(ldmatrix) {
    __shared__ __align__(16) float s[1024];
    for (int i = T; i < 1024; i += 256) s[i] = i;
    __syncthreads();
    u32 sum = 0;
    LOOP({
        u32 a; u32 b; u32 c; u32 d;
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(shared_address(s + 4 * (T & 31))));
        sum ^= a ^ b ^ c ^ d;
    })
    KEEP((float)sum);
}
K(fma_f32) { float a = T, b = T + 1, c = T + 2, d = T + 3, s = 0.5f; LOOP(a = a * s + 1; b = b * s + 1; c = c * s + 1; d = d * s + 1;) KEEP(a + b + c + d); }
K(fma_f64) { double a = T, b = T + 1, s = 0.5; LOOP(a = a * s + 1; b = b * s + 1;) KEEP((float)(a + b)); }
K(mad_int) { int a = T, b = T + 1, c = T + 2, d = T + 3, s = n | 3; LOOP(a = a * s + b; b = b * s + c; c = c * s + d; d = d * s + a;) KEEP(a + b + c + d); }
K(exp2_f32) {
    float a = T, b = T + 1;
    LOOP(asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(a)); asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(b));)
    KEEP(a + b);
}
K(convert) {
    u32 a = T, b = T + 1;
    LOOP(asm volatile("{ .reg .f32 f; cvt.rn.f32.u32 f, %0; cvt.rzi.u32.f32 %0, f; }" : "+r"(a)); asm volatile("{ .reg .f32 f; cvt.rn.f32.u32 f, %0; cvt.rzi.u32.f32 %0, f; }" : "+r"(b));)
    KEEP((float)(a + b));
}
// A pipeline of asynchronous copies, four deep, through 16 KB of shared memory.
K(copy_async) {
    __shared__ float4 s[4][256];
    int steps = n / STRIDE;
    for (int k = 0; k < steps + 3; k++) {
        if (k < steps) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&s[k & 3][T])), "l"((const float4 *)x + k * STRIDE + I) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (k >= 3) {
            asm volatile("cp.async.wait_group 3;" ::: "memory");
            ((float4 *)y)[(k - 3) * STRIDE + I] = s[(k - 3) & 3][T];
        }
    }
}
K(nothing) {}
