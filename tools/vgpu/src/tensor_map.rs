//! The description of a tensor whose boxes are copied in bulk (`CUtensorMap`), in a layout of our own.

/// A tensor of up to five dimensions, innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of the first element.
    pub base: u64,
    /// Number of dimensions.
    pub rank: usize,
    /// Bytes of an element.
    pub element: u64,
    /// Elements of each dimension.
    pub sizes: [u64; 5],
    /// Bytes between neighbours in each dimension but the first, which are side by side.
    pub strides: [u64; 4],
    /// Elements of a box in each dimension.
    pub boxes: [u32; 5],
    /// Chunks of 16 bytes are exchanged within eight rows of 128 bytes.
    pub swizzled: bool,
}

/// Marks the 128 bytes as ours.
const MAGIC: u64 = 0x6d61_7074_656e_7376;

impl TensorMap {
    /// Its 128 bytes.
    pub fn words(&self) -> [u64; 16] {
        let mut words = [0; 16];
        let flags = self.rank as u64 | self.element << 8 | u64::from(self.swizzled) << 16;
        words[..3].copy_from_slice(&[MAGIC, self.base, flags]);
        words[3..8].copy_from_slice(&self.sizes);
        words[8..12].copy_from_slice(&self.strides);
        for (i, n) in self.boxes.iter().enumerate() {
            words[12 + i / 2] |= u64::from(*n) << (32 * (i % 2));
        }
        words
    }

    /// What 128 bytes say; `None` if no driver function wrote them.
    pub fn read(bytes: &[u8]) -> Option<TensorMap> {
        let mut words = [0; 16];
        for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(part.try_into().ok()?);
        }
        let flags = words[2];
        let mut map = TensorMap {
            base: words[1],
            rank: (flags & 0xff) as usize,
            element: flags >> 8 & 0xff,
            sizes: [0; 5],
            strides: [0; 4],
            boxes: [0; 5],
            swizzled: flags >> 16 & 1 == 1,
        };
        map.sizes.copy_from_slice(&words[3..8]);
        map.strides.copy_from_slice(&words[8..12]);
        for (i, n) in map.boxes.iter_mut().enumerate() {
            *n = (words[12 + i / 2] >> (32 * (i % 2))) as u32;
        }
        (words[0] == MAGIC).then_some(map)
    }

    /// Bytes of a box.
    pub fn bytes(&self) -> u64 {
        let elements = self.boxes[..self.rank].iter().map(|n| u64::from(*n));
        self.element * elements.product::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_the_same() {
        let map = TensorMap {
            base: 0x7000_1230,
            rank: 4,
            element: 2,
            sizes: [200, 9, 15, 3, 0],
            strides: [400, 3600, 54_000, 0],
            boxes: [64, 10, 18, 2, 0],
            swizzled: true,
        };
        let bytes: Vec<u8> = map.words().iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(TensorMap::read(&bytes), Some(map));
        assert_eq!(map.bytes(), 2 * 64 * 10 * 18 * 2);
        assert_eq!(TensorMap::read(&[0; 128]), None);
    }
}
