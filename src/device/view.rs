//! Strided views of a device buffer: a tensor, or a slice of a wider one.

use std::marker::PhantomData;

/// Where a tensor lies inside its buffer: `n` samples of `h * w` rows of `c` elements.
///
/// Element (i, r, c) is at `offset + i * sample_stride + r * ld + c`; all in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Samples, height, width, channels. Tensors of lower rank have ones in front of the last axes.
    pub shape: [usize; 4],
    /// First element.
    pub offset: usize,
    /// Distance between samples.
    pub sample_stride: usize,
    /// Distance between rows (pixels); at least the number of channels.
    pub ld: usize,
}

impl Layout {
    /// A tensor that fills its buffer.
    pub fn dense(shape: [usize; 4]) -> Self {
        let [_, h, w, c] = shape;
        Self {
            shape,
            offset: 0,
            sample_stride: h * w * c,
            ld: c,
        }
    }

    /// Rows per sample.
    pub fn rows(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    /// Elements, without what lies between the rows of a slice.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One past the last element's position.
    pub fn end(&self) -> usize {
        if self.is_empty() {
            return self.offset;
        }
        self.offset
            + (self.shape[0] - 1) * self.sample_stride
            + (self.rows() - 1) * self.ld
            + self.shape[3]
    }

    /// All samples as one run of rows, if rows are evenly spaced across samples.
    fn merged(&self) -> Option<Self> {
        let [n, h, w, c] = self.shape;
        (n == 1 || self.sample_stride == self.rows() * self.ld).then_some(Self {
            shape: [1, 1, n * h * w, c],
            sample_stride: n * h * w * self.ld,
            ..*self
        })
    }
}

/// Read-only f32 view. Copies are cheap and may be read from any thread.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    ptr: *const f32,
    layout: Layout,
    _lives: PhantomData<&'a [f32]>,
}

// SAFETY: a `Rows` only reads, and nobody writes its elements while 'a lasts (see `Rows::new`).
unsafe impl Send for Rows<'_> {}
// SAFETY: as above.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    /// View of `layout` in the buffer that starts at `ptr`.
    ///
    /// # Safety
    /// The buffer holds at least `layout.end()` elements and lives for 'a; for 'a nobody writes an
    /// element that the layout covers.
    pub unsafe fn new(ptr: *const f32, layout: Layout) -> Self {
        Self {
            ptr,
            layout,
            _lives: PhantomData,
        }
    }

    /// View of a whole slice as one tensor of `shape`.
    pub fn of(data: &'a [f32], shape: [usize; 4]) -> Self {
        let layout = Layout::dense(shape);
        assert!(data.len() >= layout.end(), "slice shorter than its shape");
        // SAFETY: the length was checked; the shared borrow keeps writers away for 'a.
        unsafe { Self::new(data.as_ptr(), layout) }
    }

    /// Samples, height, width, channels.
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// Samples.
    pub fn n(&self) -> usize {
        self.layout.shape[0]
    }

    /// Rows per sample.
    pub fn rows(&self) -> usize {
        self.layout.rows()
    }

    /// Channels.
    pub fn cols(&self) -> usize {
        self.layout.shape[3]
    }

    /// Distance between rows.
    pub fn ld(&self) -> usize {
        self.layout.ld
    }

    /// Distance between samples.
    pub fn sample_stride(&self) -> usize {
        self.layout.sample_stride
    }

    /// Row `r` of sample `n`.
    #[inline]
    pub fn row(&self, n: usize, r: usize) -> &'a [f32] {
        assert!(n < self.n() && r < self.rows());
        let at = self.layout.offset + n * self.layout.sample_stride + r * self.layout.ld;
        // SAFETY: inside the layout, which `new` promised.
        unsafe { std::slice::from_raw_parts(self.ptr.add(at), self.cols()) }
    }

    /// The elements as one slice, if they lie side by side.
    pub fn flat(&self) -> Option<&'a [f32]> {
        let dense = self.layout.ld == self.cols() || self.rows() == 1;
        let even = self.n() == 1 || self.layout.sample_stride == self.rows() * self.cols();
        (dense && even).then(|| {
            // SAFETY: dense, so the covered elements are exactly this range.
            unsafe {
                std::slice::from_raw_parts(self.ptr.add(self.layout.offset), self.layout.len())
            }
        })
    }

    /// All samples as one sample, if rows are evenly spaced across samples.
    pub fn merged(&self) -> Option<Self> {
        self.layout.merged().map(|layout| Self { layout, ..*self })
    }

    /// Columns `from..from + len` of every row.
    pub fn columns(&self, from: usize, len: usize) -> Self {
        assert!(from + len <= self.cols());
        let mut layout = self.layout;
        layout.offset += from;
        layout.shape[3] = len;
        Self { layout, ..*self }
    }

    /// Pointer to row `r` of sample `n` and the number of elements from there to the view's end:
    /// an operand of a matrix product.
    pub fn span(&self, n: usize, r: usize) -> Span<'a> {
        let _in_range = self.row(n, r);
        let at = self.layout.offset + n * self.layout.sample_stride + r * self.layout.ld;
        Span {
            // SAFETY: `row` checked that this element exists.
            ptr: unsafe { self.ptr.add(at) },
            len: self.layout.end() - at,
            _lives: PhantomData,
        }
    }
}

/// A stretch of readable memory, some of whose elements may belong to others: an operand of a
/// matrix product, which touches only the rows it is told to.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    ptr: *const f32,
    len: usize,
    _lives: PhantomData<&'a [f32]>,
}

// SAFETY: reads only, like `Rows`.
unsafe impl Send for Span<'_> {}
// SAFETY: as above.
unsafe impl Sync for Span<'_> {}

impl<'a> Span<'a> {
    /// First element.
    pub fn ptr(&self) -> *const f32 {
        self.ptr
    }

    /// Elements up to the end of what the view covers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> From<&'a [f32]> for Span<'a> {
    fn from(data: &'a [f32]) -> Self {
        Self {
            ptr: data.as_ptr(),
            len: data.len(),
            _lives: PhantomData,
        }
    }
}

/// Writable f32 view; owns its elements for 'a.
pub struct RowsMut<'a> {
    ptr: *mut f32,
    layout: Layout,
    _lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: the view is the only access to its elements for 'a (see `RowsMut::new`).
unsafe impl Send for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    /// View of `layout` in the buffer that starts at `ptr`.
    ///
    /// # Safety
    /// The buffer holds at least `layout.end()` elements and lives for 'a; for 'a nobody else reads
    /// or writes an element that the layout covers.
    pub unsafe fn new(ptr: *mut f32, layout: Layout) -> Self {
        Self {
            ptr,
            layout,
            _lives: PhantomData,
        }
    }

    /// View of a whole slice as one tensor of `shape`.
    pub fn of(data: &'a mut [f32], shape: [usize; 4]) -> Self {
        let layout = Layout::dense(shape);
        assert!(data.len() >= layout.end(), "slice shorter than its shape");
        // SAFETY: the length was checked; the borrow is exclusive for 'a.
        unsafe { Self::new(data.as_mut_ptr(), layout) }
    }

    /// Samples, height, width, channels.
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// Samples.
    pub fn n(&self) -> usize {
        self.layout.shape[0]
    }

    /// Rows per sample.
    pub fn rows(&self) -> usize {
        self.layout.rows()
    }

    /// Channels.
    pub fn cols(&self) -> usize {
        self.layout.shape[3]
    }

    /// Row `r` of sample `n`.
    #[inline]
    pub fn row(&mut self, n: usize, r: usize) -> &mut [f32] {
        assert!(n < self.n() && r < self.rows());
        let at = self.layout.offset + n * self.layout.sample_stride + r * self.layout.ld;
        // SAFETY: inside the layout; exclusive through &mut self.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(at), self.cols()) }
    }

    /// The elements as one slice, if they lie side by side.
    pub fn flat(&mut self) -> Option<&mut [f32]> {
        let dense = self.layout.ld == self.cols() || self.rows() == 1;
        let even = self.n() == 1 || self.layout.sample_stride == self.rows() * self.cols();
        (dense && even).then(|| {
            // SAFETY: dense, so the covered elements are exactly this range; exclusive through &mut self.
            unsafe {
                std::slice::from_raw_parts_mut(self.ptr.add(self.layout.offset), self.layout.len())
            }
        })
    }

    /// The same view, for as long as this one rests.
    pub fn again(&mut self) -> RowsMut<'_> {
        // SAFETY: `self` owns the elements and is borrowed for as long.
        unsafe { RowsMut::new(self.ptr, self.layout) }
    }

    /// A dense tensor as one sample of `rows` rows.
    ///
    /// # Panics
    /// If it is a slice of a wider buffer, or does not divide.
    pub fn reshape(self, rows: usize) -> Self {
        let (len, dense) = (self.layout.len(), Layout::dense(self.layout.shape));
        let is_dense =
            dense.ld == self.layout.ld && dense.sample_stride == self.layout.sample_stride;
        assert!(is_dense && len.is_multiple_of(rows), "cannot reshape");
        let offset = self.layout.offset;
        let layout = Layout {
            offset,
            ..Layout::dense([1, 1, rows, len / rows])
        };
        Self { layout, ..self }
    }

    /// True if rows are evenly spaced across samples.
    pub fn can_merge(&self) -> bool {
        self.layout.merged().is_some()
    }

    /// All samples as one sample, if [`RowsMut::can_merge`]; else unchanged.
    pub fn merged(self) -> Self {
        let layout = self.layout.merged().unwrap_or(self.layout);
        Self { layout, ..self }
    }

    /// Parts of `rows_per_task` rows each (the last of a sample may be shorter), sample by sample.
    pub fn split(self, rows_per_task: usize) -> Split<'a> {
        assert!(rows_per_task > 0);
        let per_sample = self.rows().div_ceil(rows_per_task);
        Split {
            tasks: self.n() * per_sample,
            cut: Cut::Rows {
                rows_per_task,
                per_sample,
            },
            whole: self,
        }
    }

    /// Parts of `width` columns each (the last may be narrower), of all rows of all samples.
    pub fn split_columns(self, width: usize) -> Split<'a> {
        assert!(width > 0);
        Split {
            tasks: self.cols().div_ceil(width),
            cut: Cut::Columns { width },
            whole: self,
        }
    }
}

/// A writable view cut into parts, one per task.
pub struct Split<'a> {
    whole: RowsMut<'a>,
    cut: Cut,
    tasks: usize,
}

/// How a view is cut.
enum Cut {
    /// Rows of one sample.
    Rows {
        rows_per_task: usize,
        per_sample: usize,
    },
    /// Columns of everything.
    Columns { width: usize },
}

// SAFETY: parts are handed out by `part`, whose caller promises to hand out each index to one thread.
unsafe impl Sync for Split<'_> {}

impl Split<'_> {
    /// Number of parts.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Sample and first row of part number `task`.
    pub fn place(&self, task: usize) -> (usize, usize) {
        match self.cut {
            Cut::Rows {
                rows_per_task,
                per_sample,
            } => (task / per_sample, task % per_sample * rows_per_task),
            Cut::Columns { .. } => (0, 0),
        }
    }

    /// Part number `task`.
    ///
    /// # Safety
    /// No two live parts have the same index.
    pub(super) unsafe fn part(&self, task: usize) -> RowsMut<'_> {
        assert!(task < self.tasks);
        let mut layout = self.whole.layout;
        match self.cut {
            Cut::Rows { rows_per_task, .. } => {
                let (n, first) = self.place(task);
                let rows = rows_per_task.min(self.whole.rows() - first);
                layout.shape = [1, 1, rows, self.whole.cols()];
                layout.offset += n * layout.sample_stride + first * layout.ld;
            }
            Cut::Columns { width } => {
                layout.offset += task * width;
                layout.shape[3] = width.min(self.whole.cols() - task * width);
            }
        }
        // SAFETY: parts are disjoint ranges of rows or columns of `whole`, which owns its elements.
        unsafe { RowsMut::new(self.whole.ptr, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_row_once() {
        let mut data = vec![0.0; 3 * 7 * 2];
        let split = RowsMut::of(&mut data, [3, 1, 7, 2]).split(3);
        assert_eq!(split.tasks(), 9);
        for task in 0..9 {
            // SAFETY: one part at a time.
            let mut part = unsafe { split.part(task) };
            for r in 0..part.rows() {
                for x in part.row(0, r) {
                    *x += 1.0;
                }
            }
        }
        assert!(data.iter().all(|&x| x == 1.0));
    }

    #[test]
    fn columns_cover_every_element_once() {
        let mut data = vec![0.0; 3 * 7 * 5];
        let split = RowsMut::of(&mut data, [3, 1, 7, 5]).split_columns(2);
        assert_eq!(split.tasks(), 3);
        for task in 0..3 {
            // SAFETY: one part at a time.
            let mut part = unsafe { split.part(task) };
            assert_eq!(part.shape(), [3, 1, 7, [2, 2, 1][task]]);
            for (n, r) in (0..3).flat_map(|n| (0..7).map(move |r| (n, r))) {
                for (j, x) in part.row(n, r).iter_mut().enumerate() {
                    *x += (1 + 2 * task + j) as f32;
                }
            }
        }
        assert!(
            data.iter()
                .enumerate()
                .all(|(i, &x)| x == (1 + i % 5) as f32)
        );
    }

    #[test]
    fn slices_of_a_wide_buffer_keep_their_stride() {
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let wide = Rows::of(&data, [2, 1, 3, 4]);
        let slice = wide.columns(1, 2);
        assert_eq!(slice.row(1, 2), &[21.0, 22.0]);
        assert!(slice.flat().is_none());
        assert_eq!(
            slice.merged().map(|m| m.row(0, 5).to_vec()),
            Some(vec![21.0, 22.0])
        );
    }
}
