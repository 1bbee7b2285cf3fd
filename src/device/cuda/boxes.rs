//! Tensors whose boxes the device copies to shared memory by itself.

use super::context::Cuda;
use super::error::CudaError;
use super::kernel::View;
use cudarc::driver::sys;
use std::ffi::c_void;

/// A tensor of bf16 whose boxes the device copies to shared memory by itself (kernels/bulk.cuh), innermost
/// dimension first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boxes {
    /// First element.
    pub pointer: u64,
    /// Elements of each dimension.
    pub sizes: Vec<u64>,
    /// Elements between neighbours in each dimension but the first.
    pub strides: Vec<u64>,
    /// Elements of a box in each dimension.
    pub shape: Vec<u32>,
}

impl Boxes {
    /// Boxes of pixels `[n, h, w, c]` of a tensor.
    pub fn of(view: View, [n, h, w, c]: [usize; 4]) -> Self {
        let [samples, height, width, channels] = view.shape.map(|x| x as u64);
        let ld = view.ld as u64;
        Self {
            pointer: view.pointer,
            sizes: vec![channels, width, height, samples],
            strides: vec![ld, ld * width, view.sample as u64],
            shape: [c, w, h, n].map(|x| x as u32).to_vec(),
        }
    }
}

impl Cuda {
    /// Describes boxes of a tensor for the device's own copies, with the swizzle of 128 bytes.
    ///
    /// # Errors
    /// Boxes that the device cannot copy.
    pub(super) fn tensor_map(&self, boxes: &Boxes) -> Result<[u64; 16], CudaError> {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let bytes: Vec<u64> = boxes.strides.iter().map(|s| 2 * s).collect();
        let steps = vec![1; boxes.sizes.len()];
        // SAFETY: four lists of this rank (the strides one shorter), and a place for the description.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                boxes.sizes.len() as u32,
                boxes.pointer as *mut c_void,
                boxes.sizes.as_ptr(),
                bytes.as_ptr(),
                boxes.shape.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        self.check(&format!("describe {boxes:?}"), result.result())?;
        Ok(map.opaque)
    }
}
