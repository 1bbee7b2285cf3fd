// What came with sm_90: products of a warpgroup, bulk copies of boxes, barriers that count bytes.
// One block of 128 threads; the layouts are written out here once more, as the PTX ISA has them.
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define T ((int)threadIdx.x)
struct alignas(64) Map {
    u64 words[16];
};
__device__ __forceinline__ u32 address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// Byte of element `element` of the 64 in line `line`.
__device__ int swizzled(int line, int element) {
    return line * 128 + (element / 8 ^ line % 8) * 16 + element % 8 * 2;
}
// A matrix of lines as it comes, [lines][64].
__device__ void fill(char *to, const u16 *from, int lines) {
    for (int i = T; i < lines * 64; i += 128) *(u16 *)(to + swizzled(i / 64, i % 64)) = from[i];
}
__device__ u64 matrix(u32 at, int leading, int stride) {
    return (u64)(at >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | 1ull << 62;
}

// d[64][64] = sum over 32 of the summed index, 16 a product, starting at its number `skip`; the second product adds.
// A [64][64] (lines of the summed index, or, TA, lines of rows), B likewise.
template <int TA, int TB>
__device__ __forceinline__ void product(const u16 *a, const u16 *b, float *d, int skip, bool wait) {
    __shared__ __align__(1024) char as[8192], bs[8192];
    fill(as, a, 64), fill(bs, b, 64);
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    float x[32];
    for (int i = 0; i < 32; ++i) x[i] = -1.f;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        int k = skip + step * 16;
        u64 ma = matrix(address(as) + (TA ? k * 128 : k * 2), 16, 1024);
        u64 mb = matrix(address(bs) + (TB ? k * 128 : k * 2), 16, 1024);
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                     "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
                     "}, %32, %33, p, 1, 1, %35, %36; }"
                     : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3]), "+f"(x[4]), "+f"(x[5]), "+f"(x[6]), "+f"(x[7]),
                       "+f"(x[8]), "+f"(x[9]), "+f"(x[10]), "+f"(x[11]), "+f"(x[12]), "+f"(x[13]), "+f"(x[14]),
                       "+f"(x[15]), "+f"(x[16]), "+f"(x[17]), "+f"(x[18]), "+f"(x[19]), "+f"(x[20]), "+f"(x[21]),
                       "+f"(x[22]), "+f"(x[23]), "+f"(x[24]), "+f"(x[25]), "+f"(x[26]), "+f"(x[27]), "+f"(x[28]),
                       "+f"(x[29]), "+f"(x[30]), "+f"(x[31])
                     : "l"(ma), "l"(mb), "r"(step), "n"(TA), "n"(TB));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (wait) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 32; ++i) {
        int row = T / 32 * 16 + T % 32 / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + T % 4 * 2 + i % 2;
        d[row * 64 + column] = x[i];
    }
}
#define PRODUCT(name, ta, tb, wait) \
    extern "C" __global__ void name(const u16 *a, const u16 *b, float *d, int skip) {                \
        product<ta, tb>(a, b, d, skip, wait);                                                        \
    }
PRODUCT(product_00, 0, 0, true)
PRODUCT(product_01, 0, 1, true)
PRODUCT(product_10, 1, 0, true)
PRODUCT(product_11, 1, 1, true)
PRODUCT(no_wait, 0, 0, false)

__device__ void begin(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ void expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ void wait(u32 barrier, int parity) {
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }" ::"r"(barrier), "r"(parity)
                 : "memory");
}
__device__ void copy(u32 to, const Map &map, u32 barrier, int a, int b, int c) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to), "l"(&map), "r"(a), "r"(b), "r"(c), "r"(barrier)
                 : "memory");
}

// Boxes of 64 x 3 x 2 elements at (a, b, c) and (a, b, c + 1), one behind the other in two phases of a ring of one:
// y [2][2][3][64]. wrong: 1 reads before it waits, 2 announces too much, 3 refills before all have read.
template <int WRONG>
__device__ __forceinline__ void boxes(const Map &map, u16 *y, int a, int b, int c) {
    __shared__ __align__(1024) char to[768];
    __shared__ __align__(8) u64 barriers[3];
    u32 full = address(barriers), second = full + 8, empty = full + 16;
    if (T == 0) begin(full, 1), begin(second, 1), begin(empty, 96);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncthreads();
    // A warp copies, the others read.
    if (T >= 96) {
        if (T > 96) return;
        for (int i = 0; i < 2; ++i) {
            if (i > 0 && WRONG != 3) wait(empty, 0);
            u32 ready = WRONG == 3 && i > 0 ? second : full;
            expect(ready, WRONG == 2 ? 1024 : 768);
            copy(address(to), map, ready, a, b, c + i);
        }
        return;
    }
    for (int i = 0; i < 2; ++i) {
        if (WRONG == 3) wait(i > 0 ? second : full, 0);
        else if (WRONG != 1) wait(full, i);
        for (int e = T; e < 384; e += 96) y[i * 384 + e] = *(u16 *)(to + swizzled(e / 64, e % 64));
        arrive(empty);
    }
}
#define BOXES(name, wrong) \
    extern "C" __global__ void name(const __grid_constant__ Map map, u16 *y, int a, int b, int c) {  \
        boxes<wrong>(map, y, a, b, c);                                                               \
    }
BOXES(boxes_good, 0)
BOXES(boxes_early, 1)
BOXES(boxes_long, 2)
BOXES(boxes_refill, 3)
