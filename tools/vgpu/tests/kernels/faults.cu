// Pairs of kernels: `bad_X` does one thing wrong, `good_X` is its corrected twin.
// All take a (256 floats, written), b (256 floats, nobody has written), n = 256.
typedef unsigned int u32;
typedef unsigned long long u64;
#define T ((int)threadIdx.x)
#define I ((int)(blockIdx.x * blockDim.x + threadIdx.x))
#define K(name) extern "C" __global__ void name(float *a, float *b, int n)
__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
#define COMMIT asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(N) asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory")

K(bad_write) { b[I + 1] = a[I]; }
K(good_write) { if (I + 1 < n) b[I + 1] = a[I]; }

K(bad_read) { b[I] = a[I - 1]; }
K(good_read) { b[I] = I > 0 ? a[I - 1] : 0; }

K(bad_bounds_shared) { __shared__ float s[64]; s[T + n / 256] = a[I]; __syncthreads(); b[I] = s[T + n / 256]; }
K(good_bounds_shared) { __shared__ float s[65]; s[T + n / 256] = a[I]; __syncthreads(); b[I] = s[T + n / 256]; }

K(bad_align) { float2 v = *(float2 *)(a + T + n / 256); b[T] = v.x + v.y; }
K(good_align) { float2 v = *(float2 *)(a + 2 * T); b[T] = v.x + v.y; }

K(bad_align_shared) {
    __shared__ __align__(16) float s[256];
    *(float4 *)(s + 4 * T + n / 256) = make_float4(1, 2, 3, 4);
    __syncthreads();
    b[T] = s[T + 1];
}
K(good_align_shared) {
    __shared__ __align__(16) float s[256];
    *(float4 *)(s + 4 * T) = make_float4(1, 2, 3, 4);
    __syncthreads();
    b[T] = s[T + 1];
}

K(bad_uninit) { a[I] = b[I]; }
K(good_uninit) { b[I] = 1; a[I] = b[I]; }

K(bad_uninit_shared) { __shared__ float s[64]; if (T < 32) s[T] = a[I]; __syncthreads(); b[I] = s[T]; }
K(good_uninit_shared) { __shared__ float s[64]; s[T] = a[I]; __syncthreads(); b[I] = s[T]; }

K(bad_race_read) { __shared__ float s[64]; s[T] = a[I]; b[I] = s[63 - T]; }
K(good_race_read) { __shared__ float s[64]; s[T] = a[I]; __syncthreads(); b[I] = s[63 - T]; }

K(bad_race_write) { __shared__ float s[32]; s[T & 31] = a[I] + T; __syncthreads(); b[I] = s[T & 31]; }
K(good_race_write) { __shared__ float s[32]; if (T < 32) s[T] = a[I]; __syncthreads(); b[I] = s[T & 31]; }

// Two warps store one value: harmless. Two values: a race.
K(bad_race_value) { __shared__ float s[32]; s[T & 31] = (float)T; __syncthreads(); b[I] = s[T & 31]; }
K(good_race_value) { __shared__ float s[32]; s[T & 31] = (float)(T & 31); __syncthreads(); b[I] = s[T & 31]; }

// Both warps add to the same words, one behind the other.
#define RACE_ADD(ADD) { __shared__ float s[32]; if (T < 32) s[T] = 0; __syncthreads(); ADD; __syncthreads(); b[I] = s[T & 31]; }
K(bad_race_add) RACE_ADD(s[T & 31] += a[I])
K(good_race_add) RACE_ADD(atomicAdd(s + (T & 31), a[I]))

K(bad_race_reuse) {
    __shared__ float s[64];
    float sum = 0;
    for (int k = 0; k < 3; k++) { s[T] = a[(T + k) & 255]; __syncthreads(); sum += s[63 - T]; }
    b[I] = sum;
}
K(good_race_reuse) {
    __shared__ float s[64];
    float sum = 0;
    for (int k = 0; k < 3; k++) { s[T] = a[(T + k) & 255]; __syncthreads(); sum += s[63 - T]; __syncthreads(); }
    b[I] = sum;
}

K(bad_race_warp) { __shared__ volatile float s[32]; s[T] = a[T]; b[T] = s[31 - T]; }
K(good_race_warp) { __shared__ volatile float s[32]; s[T] = a[T]; __syncwarp(); b[T] = s[31 - T]; }

K(bad_race_half) { // 16-bit stores: neighbours share words, other warps' do not belong here
    __shared__ unsigned short s[64]; s[T] = (unsigned short)T; b[T] = s[63 - T];
}
K(good_race_half) {
    __shared__ unsigned short s[64]; s[63 - T] = (unsigned short)T; b[T] = s[63 - T];
}

K(bad_same_address) { b[0] = (float)T; }
K(good_same_address) { if (T == 0) b[0] = (float)T; }

K(bad_barrier) { if (T < 16) __syncthreads(); else b[T] = 1; b[T] = 2; }
K(good_barrier) { __syncthreads(); if (T >= 16) b[T] = 1; b[T] = 2; }

K(bad_barrier_left) { if (T >= 50) return; b[T] = 1; __syncthreads(); a[T] = b[49 - T]; }
K(good_barrier_left) { if (T < 50) b[T] = 1; __syncthreads(); if (T < 50) a[T] = b[49 - T]; }

K(bad_deadlock) { if (T < 32) asm volatile("bar.sync 1, 64;" ::: "memory"); b[T] = 1; }
K(good_deadlock) { asm volatile("bar.sync 1, 64;" ::: "memory"); b[T] = 1; }

K(bad_counts) {
    if (T < 32) asm volatile("bar.sync 1, 64;" ::: "memory"); else asm volatile("bar.sync 1, 96;" ::: "memory");
    b[T] = 1;
}
K(good_counts) {
    if (T < 32) asm volatile("bar.sync 1, 64;" ::: "memory"); else asm volatile("bar.sync 1, 64;" ::: "memory");
    b[T] = 1;
}

K(bad_shfl) { float x = a[T]; if (T < 20) { x += __shfl_xor_sync(0xffffffff, x, 1); b[T] = x; } }
K(good_shfl) { float x = a[T]; float y = __shfl_xor_sync(0xffffffff, x, 1); if (T < 20) b[T] = x + y; }

K(bad_mask) { float x = a[T]; b[T] = __shfl_xor_sync(0x0000ffff, x, 1); }
K(good_mask) { float x = a[T]; b[T] = __shfl_xor_sync(T < 16 ? 0x0000ffff : 0xffff0000, x, 1); }

K(bad_shfl_source) { float x = a[T]; if (T < 16) b[T] = __shfl_sync(0x0000ffff, x, 20); }
K(good_shfl_source) { float x = a[T]; if (T < 16) b[T] = __shfl_sync(0x0000ffff, x, 4); }

__device__ __forceinline__ void mma(float (&c)[4], u32 x) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(x));
}
K(bad_mma) { float c[4] = {0, 0, 0, 0}; if (T < 16) mma(c, 0x3f803f80); b[T] = c[0]; }
K(good_mma) { float c[4] = {0, 0, 0, 0}; mma(c, 0x3f803f80); b[T] = c[0]; }

__device__ __forceinline__ u32 ldmatrix(u32 address) {
    u32 r;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r) : "r"(address) : "memory");
    return r;
}
K(bad_ldmatrix) {
    __shared__ __align__(16) float s[256];
    for (int i = T; i < 256; i += 32) s[i] = a[i];
    __syncwarp();
    b[T] = (float)ldmatrix(shared_address(s) + 16 * (T & 7) + 8);
}
K(good_ldmatrix) {
    __shared__ __align__(16) float s[256];
    for (int i = T; i < 256; i += 32) s[i] = a[i];
    __syncwarp();
    b[T] = (float)ldmatrix(shared_address(s) + 16 * (T & 7));
}
K(bad_ldmatrix_sync) {
    __shared__ __align__(16) float s[64];
    s[T] = a[T]; s[T + 32] = a[T];
    b[T] = (float)ldmatrix(shared_address(s) + 16 * (T & 7));
}
K(good_ldmatrix_sync) {
    __shared__ __align__(16) float s[64];
    s[T] = a[T]; s[T + 32] = a[T];
    __syncwarp();
    b[T] = (float)ldmatrix(shared_address(s) + 16 * (T & 7));
}

K(bad_async) { __shared__ __align__(16) float s[256]; copy16(s + 4 * T, a + 4 * T); COMMIT; __syncthreads(); b[T] = s[T]; }
K(good_async) { __shared__ __align__(16) float s[256]; copy16(s + 4 * T, a + 4 * T); COMMIT; WAIT(0); __syncthreads(); b[T] = s[T]; }

K(bad_async_barrier) { __shared__ __align__(16) float s[256]; copy16(s + 4 * T, a + 4 * T); COMMIT; WAIT(0); b[T] = s[255 - 4 * T]; }
K(good_async_barrier) { __shared__ __align__(16) float s[256]; copy16(s + 4 * T, a + 4 * T); COMMIT; WAIT(0); __syncthreads(); b[T] = s[255 - 4 * T]; }

K(bad_async_count) {
    __shared__ __align__(16) float s[512];
    copy16(s + 4 * T, a + 4 * T); COMMIT; copy16(s + 256 + 4 * T, a + 4 * T); COMMIT;
    WAIT(1); __syncthreads(); b[T] = s[256 + T];
    WAIT(0);
}
K(good_async_count) {
    __shared__ __align__(16) float s[512];
    copy16(s + 4 * T, a + 4 * T); COMMIT; copy16(s + 256 + 4 * T, a + 4 * T); COMMIT;
    WAIT(1); __syncthreads(); b[T] = s[T];
    WAIT(0);
}

K(bad_async_refill) {
    __shared__ __align__(16) float s[256];
    copy16(s + 4 * T, a + 4 * T); COMMIT; WAIT(0); __syncthreads();
    float x = s[255 - 4 * T];
    copy16(s + 4 * T, a + 4 * T); COMMIT; WAIT(0); __syncthreads();
    b[T] = x + s[T];
}
K(good_async_refill) {
    __shared__ __align__(16) float s[256];
    copy16(s + 4 * T, a + 4 * T); COMMIT; WAIT(0); __syncthreads();
    float x = s[255 - 4 * T];
    __syncthreads();
    copy16(s + 4 * T, a + 4 * T); COMMIT; WAIT(0); __syncthreads();
    b[T] = x + s[T];
}

// Barriers in shared memory. Everybody stores, arrives, waits, and reads what the other warp has stored.
__device__ __forceinline__ void mb_init(u64 *bar, u32 n) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(n) : "memory");
}
__device__ __forceinline__ u64 mb_arrive(u64 *bar) {
    u64 state;
    asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(state) : "r"(shared_address(bar)) : "memory");
    return state;
}
__device__ __forceinline__ void mb_wait(u64 *bar, u64 state) {
    u32 done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.test_wait.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(shared_address(bar)), "l"(state) : "memory");
    } while (!done);
}
#define MB(INIT, AGAIN, WAIT_)                                  \
    {                                                           \
        __shared__ float s[64];                                 \
        __shared__ u64 bar;                                     \
        if (INIT && T == 0) mb_init(&bar, INIT);                \
        __syncthreads();                                        \
        s[T] = a[I];                                            \
        u64 state = mb_arrive(&bar);                            \
        if (AGAIN) { __syncthreads(); if (T == 0) asm volatile("mbarrier.arrive.noComplete.shared.b64 _, [%0], %1;" ::"r"(shared_address(&bar)), "r"(AGAIN) : "memory"); } \
        if (WAIT_) mb_wait(&bar, state);                        \
        b[I] = s[63 - T];                                       \
    }
K(bad_mbarrier_init) MB(0, 0, 1)
K(good_mbarrier_init) MB(64, 0, 1)
K(bad_mbarrier_count) MB(64, 64, 1)
K(good_mbarrier_count) MB(64, 63, 1)
K(bad_mbarrier_wait) MB(64, 0, 0)
K(good_mbarrier_wait) MB(64, 0, 1)
K(bad_mbarrier_never) MB(65, 0, 1)
K(good_mbarrier_never) MB(64, 0, 1)

#define MB_COPY(WAIT_)                                                                                               \
    {                                                                                                                \
        __shared__ __align__(16) float s[256];                                                                       \
        __shared__ u64 bar;                                                                                          \
        if (T == 0) mb_init(&bar, 64);                                                                               \
        __syncthreads();                                                                                             \
        copy16(s + 4 * T, a + 4 * T);                                                                                \
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(&bar)) : "memory");      \
        if (WAIT_) asm volatile("{ .reg .pred p; L: mbarrier.try_wait.parity.shared.b64 p, [%0], 0; @!p bra L; }" ::"r"(shared_address(&bar)) : "memory"); \
        b[T] = s[255 - 4 * T];                                                                                       \
    }
K(bad_mbarrier_copy) MB_COPY(0)
K(good_mbarrier_copy) MB_COPY(1)

K(bad_global_write) { if (T == 0) b[0] = (float)blockIdx.x; }
K(good_global_write) { if (T == 0) atomicAdd(a, (float)blockIdx.x); }

K(bad_global_read) { a[I] = 1; if (I + 64 < 128) b[I] = a[I + 64]; }
K(good_global_read) { b[I] = 1; if (I + 64 < 128) b[I] += a[I + 64]; }

__device__ u32 arrived;
K(bad_global_fence) {
    __shared__ u32 last;
    b[I] = a[I];
    __syncthreads();
    if (T == 0) last = atomicAdd(&arrived, 1);
    __syncthreads();
    if (last == gridDim.x - 1) a[T] = b[(I + 64) & 255];
}
__device__ u32 arrived_too;
K(good_global_fence) {
    __shared__ u32 last;
    b[I] = a[I];
    __threadfence();
    __syncthreads();
    if (T == 0) last = atomicAdd(&arrived_too, 1);
    __threadfence();
    __syncthreads();
    if (last == gridDim.x - 1) a[T] = b[(I + 64) & 255];
}

K(bad_nan) { float x = a[I]; b[I] = (x - x) / (x - x); }
K(good_nan) { float x = a[I]; b[I] = x / (x + 1); }

K(bad_nan_mma) {
    float c[4] = {3e38f, 3e38f, 3e38f, 3e38f};
    mma(c, 0x7f007f00);
    b[T] = c[0];
}
K(good_nan_mma) { float c[4] = {3e38f, 1, 1, 1}; mma(c, 0x3f803f80); b[T] = c[0]; }

K(bad_endless) { volatile float *x = a; while (x[0] >= 0) b[T] = 1; }
K(good_endless) { volatile float *x = a; for (int k = 0; k < n && x[0] >= 0; k++) b[T] = 1; }

K(bad_freed) { a[I] = 1; }
K(good_freed) { a[I] = 1; }
