// Statistics of group norm: mean and 1 / sqrt(biased variance + eps) per sample and group.
//
// x: View<TX> [n, rows, c] -> stats: View<float> [n, 1, 2 groups], means then inverse deviations. A group is
// c / groups consecutive channels.
//
// A thread sums up its numbers of a channel and their squares, less the first of them: as that one is among them, its
// distance from the mean is at most sqrt(count M2), and M2 = sum (x - mean)^2 is off by count roundoffs at most. Then
// means and M2 are merged over the block's threads and channels (Chan, Golub, LeVeque 1979) in a fixed order, means
// first, then M2 with the squared deviations of the means: nothing cancels, however far the mean is from zero.
//
// Grid: columns.cuh, 256 threads. SPLIT: a group is seen by several blocks. Each leaves the moments of its part of the
// groups at `parts` [n][block][chunk][most] and takes a ticket of the sample; who takes the last one merges the
// sample's groups. The tickets are zeros, before and after. Shared: VX lanes pitch + 2 most floats.
// Bytes: x once. 4 operations per element.
//
// Macros: TX, VX = 1, 2, 4, 8, SPLIT = 0 | 1.
#include "columns.cuh"

// Rows in flight per thread.
constexpr int ROWS = 4;

// Means and M2 of a thread's channels.
struct Moments {
    float mean[VX], m2[VX];
};

// Moments of rows first + y, first + y + height, .., `count` > 0 of them.
__device__ __forceinline__ Moments moments(const View<const TX> &x, const Columns &at, int count) {
    float base[VX], sum[VX] = {}, squares[VX] = {};
    int r = at.first + at.y;
    load<VX>(x.row(at.n, r) + at.channel, base);
    auto take = [&](const float(&values)[VX]) {
#pragma unroll
        for (int v = 0; v < VX; ++v) {
            float d = values[v] - base[v];
            sum[v] += d;
            squares[v] = fmaf(d, d, squares[v]);
        }
    };
    // The first row again: it adds nothing, and the rest comes in whole sets of ROWS.
    for (; r + (ROWS - 1) * at.height < at.end; r += ROWS * at.height) {
        float values[ROWS][VX];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) load<VX>(x.row(at.n, r + i * at.height) + at.channel, values[i]);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) take(values[i]);
    }
    for (; r < at.end; r += at.height) {
        float values[VX];
        load<VX>(x.row(at.n, r) + at.channel, values);
        take(values);
    }
    Moments out;
    float share = 1.f / (float)count;
#pragma unroll
    for (int v = 0; v < VX; ++v) {
        float d = sum[v] * share;
        out.mean[v] = base[v] + d;
        out.m2[v] = fmaxf(fmaf(-sum[v], d, squares[v]), 0.f);
    }
    return out;
}

// The groups that the block's channels belong to, or parts of them.
struct Groups {
    int width, begin, end, first, count;  // channels of a group; the block's channels; its first group, their number

    __device__ __forceinline__ Groups(const Columns &at, int c, int groups) : width(c / groups) {
        begin = blockIdx.y * at.lanes * VX, end = min(begin + at.lanes * VX, c);
        first = begin / width, count = (end - 1) / width - first + 1;
    }
    // Channels of its group g that the block has, from `begin` on.
    __device__ __forceinline__ int from(int g) const { return max((first + g) * width - begin, 0); }
    __device__ __forceinline__ int to(int g) const { return min((first + g + 1) * width, end) - begin; }
};

// Per group, `totals` = the sum of the threads' numbers. Column (v, lane) lies at (v lanes + lane) pitch in `shared`.
__device__ __forceinline__ void add_up(const float (&values)[VX], const Columns &at, const Groups &groups, int pitch,
                                       float *shared, float *totals) {
    if (at.inside) {
#pragma unroll
        for (int v = 0; v < VX; ++v) shared[(v * at.lanes + at.x) * pitch + at.y] = values[v];
    }
    __syncthreads();
    int lane = threadIdx.x % 32;
    for (int g = threadIdx.x / 32; g < groups.count; g += blockDim.x / 32) {
        float total = 0.f;
        for (int i = groups.from(g); i < groups.to(g); ++i) {
            const float *column = shared + (i % VX * at.lanes + i / VX) * pitch;
            for (int y = lane; y < at.height; y += 32) total += column[y];
        }
        total = warp_sum(total);
        if (lane == 0) totals[g] = total;
    }
    __syncthreads();
}

// Means and M2 of the block's part of its groups, in `means` and `m2s`.
__device__ __forceinline__ void block_moments(const View<const TX> &x, const Columns &at, const Groups &groups,
                                              int pitch, float *shared, float *means, float *m2s) {
    int own = at.inside ? at.count(at.y) : 0;
    Moments sum = {};
    if (own > 0) sum = moments(x, at, own);
    float values[VX], count = (float)own, rows = (float)(at.end - at.first);
#pragma unroll
    for (int v = 0; v < VX; ++v) values[v] = count * sum.mean[v];
    add_up(values, at, groups, pitch, shared, means);
    for (int g = threadIdx.x; g < groups.count; g += blockDim.x)
        means[g] /= rows * (float)(groups.to(g) - groups.from(g));
    __syncthreads();
    int g = at.inside ? at.channel / groups.width - groups.first : 0, within = at.channel % groups.width;
#pragma unroll
    for (int v = 0; v < VX; ++v) {
        float d = sum.mean[v] - means[g];
        values[v] = fmaf(count * d, d, sum.m2[v]);
        if (++within == groups.width && v + 1 < VX) within = 0, g = min(g + 1, groups.count - 1);
    }
    add_up(values, at, groups, pitch, shared, m2s);
}

__device__ __forceinline__ void write_group(float mean, float m2, float count, float eps, float *stats, int group,
                                            int groups) {
    stats[group] = mean;
    stats[groups + group] = 1.f / sqrtf(m2 / count + eps);
}

// A warp merges the parts of a group: the mean, then the deviations of the parts' means from it.
struct Merge {
    const float2 *parts;  // of the sample
    int rows, span, blocks, channels, chunks, most, lane;

    // Sums over the parts of group g, `f(moments, numbers)` of each.
    template <class F>
    __device__ __forceinline__ float sum(int g, int width, F f) const {
        int chunk = g * width / channels, across = ((g + 1) * width - 1) / channels - chunk + 1;
        float total = 0.f;
        for (int i = lane; i < blocks * across; i += 32) {
            int block = i / across, at = chunk + i % across;
            int begin = max(at * channels, g * width), end = min((at + 1) * channels, (g + 1) * width);
            int numbers = min(span, rows - block * span) * (end - begin);
            total += f(parts[(block * chunks + at) * most + g - at * channels / width], (float)numbers);
        }
        return warp_sum(total);
    }
};

extern "C" __global__ void __launch_bounds__(256, 3)
    group_norm(View<const TX> x, View<float> stats, float2 *parts, int *tickets, int rows, int c, int lanes,
               int blocks, int span, int groups, int pitch, int most, float eps) {
    grid_begin();
    extern __shared__ float shared[];
    __shared__ int ticket;
    Columns at(rows, c, lanes, blocks, span);
    Groups here(at, c, groups);
    float *means = shared + VX * lanes * pitch, *m2s = means + most;
    block_moments(x, at, here, pitch, shared, means, m2s);
    float *out = stats.row(at.n, 0);
    if constexpr (!SPLIT) {
        for (int g = threadIdx.x; g < here.count; g += blockDim.x)
            write_group(means[g], m2s[g], (float)rows * (float)here.width, eps, out, here.first + g, groups);
        return;
    }
    int chunks = gridDim.y;
    parts += (i64)at.n * blocks * chunks * most;
    for (int g = threadIdx.x; g < here.count; g += blockDim.x)
        parts[(at.block * chunks + (int)blockIdx.y) * most + g] = make_float2(means[g], m2s[g]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) ticket = atomicAdd(tickets + at.n, 1);
    __syncthreads();
    if (ticket != blocks * chunks - 1) return;
    __threadfence();
    if (threadIdx.x == 0) tickets[at.n] = 0;
    const Merge merge = {parts, rows, span, blocks, lanes * VX, chunks, most, (int)threadIdx.x % 32};
    float count = (float)rows * (float)here.width;
    for (int g = threadIdx.x / 32; g < groups; g += blockDim.x / 32) {
        float total = merge.sum(g, here.width, [](float2 part, float numbers) { return numbers * part.x; });
        float mean = total / count;
        float m2 = merge.sum(g, here.width, [mean](float2 part, float numbers) {
            float d = part.x - mean;
            return fmaf(numbers * d, d, part.y);
        });
        if (merge.lane == 0) write_group(mean, m2, count, eps, out, g, groups);
    }
}
