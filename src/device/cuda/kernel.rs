//! Kernels by name: source file, entry point, definitions; and what a launch is.

use std::fmt;

/// A kernel: an entry of a file in `kernels/`, compiled with these definitions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kernel {
    /// Stem of the file.
    pub file: &'static str,
    /// Name of the entry.
    pub entry: &'static str,
    /// Definitions, in the order they were made.
    pub defines: Vec<(&'static str, String)>,
}

impl Kernel {
    /// Entry `entry` of `kernels/{file}.cu`.
    pub fn new(file: &'static str, entry: &'static str) -> Self {
        Self {
            file,
            entry,
            defines: Vec::new(),
        }
    }

    /// With `-D{name}={value}`.
    pub fn define(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.defines.push((name, value.to_string()));
        self
    }

    /// With `-D{name}=1` or `=0`.
    pub fn flag(self, name: &'static str, on: bool) -> Self {
        self.define(name, u8::from(on))
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.entry)?;
        for (name, value) in &self.defines {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

/// Element type of a tensor on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// 32-bit float.
    F32,
    /// Upper half of one.
    Bf16,
    /// Byte.
    U8,
    /// 32-bit word.
    U32,
}

impl Elem {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// Its name in `kernels/common.cuh`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::U32 => "u32",
        }
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor on the device, or a slice of a wider one: element (n, row, c) is at
/// `pointer + (n * sample + row * ld + c) * elem.bytes()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// First element.
    pub pointer: u64,
    /// Element type.
    pub elem: Elem,
    /// Samples, height, width, channels.
    pub shape: [usize; 4],
    /// Distance between rows, in elements.
    pub ld: usize,
    /// Distance between samples, in elements.
    pub sample: usize,
}

impl View {
    /// A dense tensor.
    pub fn dense(pointer: u64, elem: Elem, shape: [usize; 4]) -> Self {
        let [_, h, w, c] = shape;
        Self {
            pointer,
            elem,
            shape,
            ld: c,
            sample: h * w * c,
        }
    }

    /// Samples.
    pub fn n(&self) -> usize {
        self.shape[0]
    }

    /// Rows (pixels) per sample.
    pub fn rows(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    /// Channels.
    pub fn c(&self) -> usize {
        self.shape[3]
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if nothing lies between its rows and samples.
    pub fn is_dense(&self) -> bool {
        let rows = self.ld == self.c() || self.rows() == 1;
        rows && (self.n() == 1 || self.sample == self.rows() * self.c())
    }

    /// Most elements, a power of two and at most `most` and 16 bytes, that can be read at once at any
    /// multiple of them within a row.
    pub fn vector(&self, most: usize) -> usize {
        let mut v = most.min(16 / self.elem.bytes());
        let fits = |v: usize| {
            let even = |x: usize| x.is_multiple_of(v);
            even(self.c())
                && (even(self.ld) || self.rows() == 1)
                && (even(self.sample) || self.n() == 1)
                && self.pointer.is_multiple_of((v * self.elem.bytes()) as u64)
        };
        while v > 1 && !fits(v) {
            v /= 2;
        }
        v
    }
}

/// Arguments of a launch, as the kernel declares them.
#[derive(Clone, Debug, Default)]
pub struct Args {
    bytes: Vec<u64>,
    offsets: Vec<usize>,
}

impl Args {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, words: &[u64]) -> Self {
        self.offsets.push(self.bytes.len());
        self.bytes.extend(words);
        self
    }

    /// A `View<T>`, by value.
    pub fn view(self, view: View) -> Self {
        self.push(&[view.pointer, view.sample as u64, view.ld as u64])
    }

    /// An optional `View<T>`: null if there is none.
    pub fn view_or_null(self, view: Option<View>) -> Self {
        match view {
            Some(view) => self.view(view),
            None => self.push(&[0, 0, 0]),
        }
    }

    /// A struct of 8-byte words, by value.
    pub fn words(self, words: &[u64]) -> Self {
        self.push(words)
    }

    /// A pointer.
    pub fn ptr(self, pointer: u64) -> Self {
        self.push(&[pointer])
    }

    /// An `int`.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn int(self, x: usize) -> Self {
        assert!(i32::try_from(x).is_ok(), "a kernel argument beyond 2^31");
        self.push(&[x as u64])
    }

    /// An unsigned word, or a flag.
    pub fn u32(self, x: u32) -> Self {
        self.push(&[u64::from(x)])
    }

    /// An unsigned long long.
    pub fn u64(self, x: u64) -> Self {
        self.push(&[x])
    }

    /// A `float`.
    pub fn f32(self, x: f32) -> Self {
        self.push(&[u64::from(x.to_bits())])
    }

    /// A `double`.
    pub fn f64(self, x: f64) -> Self {
        self.push(&[x.to_bits()])
    }

    /// Where each argument lies.
    pub(super) fn pointers(&self) -> impl Iterator<Item = *mut std::ffi::c_void> + '_ {
        self.offsets
            .iter()
            .map(|&o| std::ptr::from_ref(&self.bytes[o]).cast_mut().cast())
    }

    /// Number of arguments.
    pub(super) fn count(&self) -> usize {
        self.offsets.len()
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: usize,
    /// Its arguments.
    pub args: Args,
}
