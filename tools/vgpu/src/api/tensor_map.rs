//! Descriptions of tensors for bulk copies.

use super::{driver, put, take};
use crate::driver::code;
use crate::tensor_map::TensorMap;
use std::ffi::c_uint;

/// Bytes of an element by `CUtensorMapDataType`.
const ELEMENTS: [u64; 10] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2];
/// `CU_TENSOR_MAP_SWIZZLE_NONE` and `_128B`.
const SWIZZLES: [c_uint; 2] = [0, 3];

/// The rules of `cuTensorMapEncodeTiled`, for what is supported here.
fn encode(map: &TensorMap) -> Result<(), u32> {
    let sizes = &map.sizes[..map.rank];
    let boxes = &map.boxes[..map.rank];
    let row = map.element * u64::from(boxes[0]);
    let good = map.base.is_multiple_of(16)
        && map.base != 0
        && sizes.iter().all(|n| (1..=1 << 32).contains(n))
        && boxes.iter().all(|n| (1..=256).contains(n))
        && map.strides[..map.rank - 1]
            .iter()
            .all(|s| s.is_multiple_of(16) && *s < 1 << 40)
        && row.is_multiple_of(16)
        && (!map.swizzled || row <= 128);
    if good {
        Ok(())
    } else {
        Err(code::INVALID_VALUE)
    }
}

driver! {
    fn cuTensorMapEncodeTiled(
        to: *mut [u64; 16], element: c_uint, rank: c_uint, base: u64, sizes: *const u64, strides: *const u64,
        boxes: *const u32, steps: *const u32, interleave: c_uint, swizzle: c_uint, _promotion: c_uint, fill: c_uint,
    ) {
        let rank = rank as usize;
        let known = ELEMENTS.get(element as usize).copied();
        let Some(element) = known.filter(|_| (1..=5).contains(&rank)) else {
            return Err(code::INVALID_VALUE);
        };
        if interleave != 0 || fill != 0 || !SWIZZLES.contains(&swizzle) || !(to as u64).is_multiple_of(64) {
            return Err(code::INVALID_VALUE);
        }
        let mut map = TensorMap {
            base,
            rank,
            element,
            sizes: [0; 5],
            strides: [0; 4],
            boxes: [0; 5],
            swizzled: swizzle == 3,
        };
        for n in 0..rank {
            map.sizes[n] = take(sizes.wrapping_add(n))?;
            map.boxes[n] = take(boxes.wrapping_add(n))?;
            if take(steps.wrapping_add(n))? != 1 {
                return Err(code::INVALID_VALUE);
            }
        }
        for n in 0..rank - 1 {
            map.strides[n] = take(strides.wrapping_add(n))?;
        }
        encode(&map)?;
        put(to, map.words())
    }
}
