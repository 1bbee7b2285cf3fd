//! Vectors of f32 for kernels that are written once and compiled for each instruction set.

/// A vector register and its operations.
///
/// # Safety of every method
/// Only called from code that was compiled for the vector's instruction set;
/// pointers are readable or writable for [`Lanes::N`] numbers, in any alignment.
#[allow(clippy::missing_safety_doc)] // said once, above
pub trait Lanes: Copy {
    /// Numbers in a vector.
    const N: usize;
    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// All lanes `x`.
    unsafe fn set(x: f32) -> Self;
    /// The numbers at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes the lanes to `to`.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * by`.
    unsafe fn mul(self, by: Self) -> Self;
    /// `self * by + to`, rounded once where the processor can.
    unsafe fn mul_add(self, by: Self, to: Self) -> Self;
    /// Writes the transpose of the 8 rows of 8 numbers at `from`, `steps[0]` apart, to `to`, `steps[1]` apart.
    #[inline(always)]
    unsafe fn transpose_block(from: *const f32, to: *mut f32, steps: [usize; 2]) {
        for (i, j) in (0..8).flat_map(|i| (0..8).map(move |j| (i, j))) {
            // SAFETY: promised by the caller.
            unsafe { *to.add(j * steps[1] + i) = *from.add(i * steps[0] + j) };
        }
    }
}

/// A vector of plain numbers; the compiler maps it to what the target has.
#[derive(Clone, Copy)]
pub struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    const N: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 4])
    }
    #[inline(always)]
    unsafe fn set(x: f32) -> Self {
        Self([x; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: promised by the caller.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(self, by: Self) -> Self {
        self.zip(by, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn mul_add(self, by: Self, to: Self) -> Self {
        Self(std::array::from_fn(|i| {
            // Without fused instructions `f32::mul_add` would be a library call.
            if cfg!(target_arch = "aarch64") {
                self.0[i].mul_add(by.0[i], to.0[i])
            } else {
                self.0[i] * by.0[i] + to.0[i]
            }
        }))
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{V8, V16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(clippy::needless_range_loop)] // loops are what the compiler unrolls into registers

    use super::Lanes;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($(#[$doc:meta])* $name:ident($raw:ty; $n:literal) $zero:ident $set:ident $load:ident $store:ident
         $add:ident $sub:ident $mul:ident $fma:ident) => {
            $(#[$doc])*
            #[derive(Clone, Copy)]
            pub struct $name($raw);
            impl Lanes for $name {
                const N: usize = $n;
                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: promised by the caller.
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn set(x: f32) -> Self {
                    // SAFETY: promised by the caller.
                    Self(unsafe { $set(x) })
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: promised by the caller.
                    Self(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: promised by the caller.
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    // SAFETY: promised by the caller.
                    Self(unsafe { $add(self.0, other.0) })
                }
                #[inline(always)]
                unsafe fn sub(self, other: Self) -> Self {
                    // SAFETY: promised by the caller.
                    Self(unsafe { $sub(self.0, other.0) })
                }
                #[inline(always)]
                unsafe fn mul(self, by: Self) -> Self {
                    // SAFETY: promised by the caller.
                    Self(unsafe { $mul(self.0, by.0) })
                }
                #[inline(always)]
                unsafe fn mul_add(self, by: Self, to: Self) -> Self {
                    // SAFETY: promised by the caller.
                    Self(unsafe { $fma(self.0, by.0, to.0) })
                }
                #[inline(always)]
                unsafe fn transpose_block(from: *const f32, to: *mut f32, steps: [usize; 2]) {
                    // SAFETY: promised by the caller; both instruction sets have these vectors.
                    unsafe { transpose_block(from, to, steps) }
                }
            }
        };
    }
    /// [`Lanes::transpose_block`]: pairs of rows, then pairs of pairs, then halves change places.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn transpose_block(from: *const f32, to: *mut f32, steps: [usize; 2]) {
        // SAFETY: promised by the caller.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                r[i] = _mm256_loadu_ps(from.add(i * steps[0]));
            }
            let mut quads = r;
            for i in [0, 4] {
                let low = _mm256_unpacklo_ps(r[i], r[i + 1]);
                let high = _mm256_unpackhi_ps(r[i], r[i + 1]);
                let low2 = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
                let high2 = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
                quads[i] = _mm256_shuffle_ps::<0x44>(low, low2);
                quads[i + 1] = _mm256_shuffle_ps::<0xEE>(low, low2);
                quads[i + 2] = _mm256_shuffle_ps::<0x44>(high, high2);
                quads[i + 3] = _mm256_shuffle_ps::<0xEE>(high, high2);
            }
            for i in 0..4 {
                let (a, b) = (quads[i], quads[i + 4]);
                _mm256_storeu_ps(to.add(i * steps[1]), _mm256_permute2f128_ps::<0x20>(a, b));
                let lower = _mm256_permute2f128_ps::<0x31>(a, b);
                _mm256_storeu_ps(to.add((i + 4) * steps[1]), lower);
            }
        }
    }

    vector!(
        /// 16 lanes of AVX-512.
        V16(__m512; 16) _mm512_setzero_ps _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps
        _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_fmadd_ps
    );
    vector!(
        /// 8 lanes of AVX2 with FMA.
        V8(__m256; 8) _mm256_setzero_ps _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps
        _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_fmadd_ps
    );
}

/// Defines a function as a generic one over [`Lanes`] (which must be `#[inline(always)]`), compiled
/// for each [`super::simd::Level`]; callers get the best.
macro_rules! by_level {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::device::lanes::{V8, V16};
                use $crate::device::simd::{Level, level};
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,fma")]
                unsafe fn avx512($($arg: $ty),*) {
                    // SAFETY: promised by the caller.
                    unsafe { $body::<V16>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $ty),*) {
                    // SAFETY: promised by the caller.
                    unsafe { $body::<V8>($($arg),*) }
                }
                match level() {
                    // SAFETY: `level` found these instructions; the rest is promised by the caller.
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Portable => {}
                }
            }
            // SAFETY: promised by the caller.
            unsafe { $body::<$crate::device::lanes::Plain>($($arg),*) }
        }
    };
}
pub(crate) use by_level;
