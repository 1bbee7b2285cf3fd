//! Tensor types and the errors of recording.

use std::fmt;

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// Byte: picture channels, attributes.
    U8,
    /// 32-bit word: seeds, sample numbers, time steps.
    U32,
}

impl DType {
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::U8 => 1,
        }
    }
}

/// Shape and element type of a tensor; pictures are `[n, h, w, c]`, sequences `[n, t, c]`.
#[derive(Clone, PartialEq, Eq)]
pub struct TensorType {
    /// Extents, slowest axis first; one to four of them.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl TensorType {
    /// An f32 tensor.
    pub fn f32(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            dtype: DType::F32,
        }
    }

    /// A tensor of words.
    pub fn u32(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            dtype: DType::U32,
        }
    }

    /// A tensor of bytes.
    pub fn u8(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            dtype: DType::U8,
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses what no op can take.
    ///
    /// # Errors
    /// No axis or more than four; no element.
    pub fn check(&self) -> Result<(), Mismatch> {
        if self.is_empty() || !(1..=4).contains(&self.shape.len()) {
            let want = "one to four axes, none of them of length 0";
            return Err(Mismatch::new("shape", want, self));
        }
        Ok(())
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// As samples, height, width, channels: `[c]` is one sample of one row, `[n, c]` has one row per
    /// sample, `[n, t, c]` has t rows in one column.
    pub fn nhwc(&self) -> [usize; 4] {
        match *self.shape.as_slice() {
            [c] => [1, 1, 1, c],
            [n, c] => [n, 1, 1, c],
            [n, t, c] => [n, 1, t, c],
            [n, h, w, c] => [n, h, w, c],
            _ => [0; 4],
        }
    }

    /// Samples: the first extent of a tensor with more than one axis.
    pub fn samples(&self) -> usize {
        self.nhwc()[0]
    }

    /// Rows (pixels) per sample.
    pub fn rows(&self) -> usize {
        let [_, h, w, _] = self.nhwc();
        h * w
    }

    /// Channels: the last extent.
    pub fn channels(&self) -> usize {
        self.nhwc()[3]
    }

    /// The same with another number of channels.
    pub fn with_channels(&self, channels: usize) -> Self {
        let mut out = self.clone();
        if let Some(last) = out.shape.last_mut() {
            *last = channels;
        }
        out
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = match self.dtype {
            DType::F32 => "f32",
            DType::U8 => "u8",
            DType::U32 => "u32",
        };
        write!(f, "{dtype}{:?}", self.shape)
    }
}

/// An op was recorded with operands that it cannot take.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{scope}: {op}: {what}: expected {expected}, found {found}")]
pub struct TapeError {
    /// Where in the network.
    pub scope: String,
    /// Name of the op.
    pub op: &'static str,
    /// What is wrong.
    pub what: String,
    /// What the op takes.
    pub expected: String,
    /// What it was given.
    pub found: String,
}

/// A shape rule's complaint, before the tape adds op and scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What is wrong.
    pub what: String,
    /// What the op takes.
    pub expected: String,
    /// What it was given.
    pub found: String,
}

impl Mismatch {
    /// `what`: expected ..., found ...
    pub fn new(what: &str, expected: impl fmt::Debug, found: impl fmt::Debug) -> Self {
        Self {
            what: what.to_string(),
            expected: format!("{expected:?}"),
            found: format!("{found:?}"),
        }
    }

    /// Fails unless `expected == found`.
    pub fn check<T: fmt::Debug + PartialEq>(what: &str, expected: T, found: T) -> Result<(), Self> {
        if expected == found {
            Ok(())
        } else {
            Err(Self::new(what, expected, found))
        }
    }
}
