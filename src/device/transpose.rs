//! Transposes, in blocks of 8x8 numbers in registers.

use super::lanes::{Lanes, by_level};

/// Writes column j of `rows` rows of `columns` numbers at `from`, `steps[0]` apart, as row j of `to`;
/// its rows are `steps[1]` apart.
///
/// # Panics
/// If a slice is too short.
pub fn transpose(from: &[f32], to: &mut [f32], [rows, columns]: [usize; 2], steps: [usize; 2]) {
    if rows * columns == 0 {
        return;
    }
    assert!(
        (rows - 1) * steps[0] + columns <= from.len(),
        "read past the end"
    );
    assert!(
        (columns - 1) * steps[1] + rows <= to.len(),
        "written past the end"
    );
    // SAFETY: the lengths were checked.
    unsafe { blocks(from.as_ptr(), to.as_mut_ptr(), [rows, columns], steps) }
}

by_level! {
    /// See [`transpose`].
    ///
    /// # Safety
    /// All that is addressed exists.
    unsafe fn blocks(from: *const f32, to: *mut f32, size: [usize; 2], steps: [usize; 2]) = blocks_of
}

#[inline(always)]
unsafe fn blocks_of<V: Lanes>(
    from: *const f32,
    to: *mut f32,
    [rows, columns]: [usize; 2],
    steps: [usize; 2],
) {
    for i in (0..rows).step_by(8) {
        for j in (0..columns).step_by(8) {
            // SAFETY: promised by the caller.
            unsafe {
                let (from, to) = (from.add(i * steps[0] + j), to.add(j * steps[1] + i));
                if i + 8 <= rows && j + 8 <= columns {
                    V::transpose_block(from, to, steps);
                    continue;
                }
                for i in 0..(rows - i).min(8) {
                    for j in 0..(columns - j).min(8) {
                        *to.add(j * steps[1] + i) = *from.add(i * steps[0] + j);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_transposed_and_nothing_else_written() {
        for (rows, columns) in [(1, 1), (8, 8), (16, 8), (7, 9), (8, 13), (17, 24), (3, 20)] {
            let steps = [columns + 3, rows + 2];
            let from: Vec<f32> = (0..rows * steps[0]).map(|i| i as f32).collect();
            let mut to = vec![-1.0; columns * steps[1]];
            transpose(&from, &mut to, [rows, columns], steps);
            for (at, &x) in to.iter().enumerate() {
                let (j, i) = (at / steps[1], at % steps[1]);
                let want = if i < rows {
                    from[i * steps[0] + j]
                } else {
                    -1.0
                };
                assert!(x == want, "{rows} x {columns}: row {j}, column {i}");
            }
        }
    }
}
