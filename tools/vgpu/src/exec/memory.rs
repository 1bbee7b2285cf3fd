//! The device's global memory: buffers with exact sizes, one shadow byte for each of their bytes.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;

/// Where shared memory appears among generic addresses.
pub const SHARED_BASE: u64 = 0x7e00_0000_0000;
/// Where local memory appears.
pub const LOCAL_BASE: u64 = 0x7e80_0000_0000;
/// Where parameters appear.
pub const PARAM_BASE: u64 = 0x7ec0_0000_0000;
/// Bytes of each window.
pub const WINDOW: u64 = 1 << 32;
/// The first global address.
const GLOBAL_BASE: u64 = 0x7f00_0000_0000;
/// Unmapped bytes behind every buffer.
const GUARD: u64 = 64 << 10;
/// A new buffer's bytes: as bf16 and f32 a small negative number, not NaN.
pub const POISON: u8 = 0xA5;

/// Bytes on the host with an alignment, zeroed at the start.
#[derive(Debug)]
struct Bytes {
    at: *mut u8,
    layout: Layout,
    /// Freed with this; the host's own memory is not.
    owned: bool,
}

impl Bytes {
    fn new(len: u64) -> Option<Bytes> {
        let layout = Layout::from_size_align((len as usize).max(1), 512).ok()?;
        // SAFETY: the layout has a size.
        let at = unsafe { alloc_zeroed(layout) };
        (!at.is_null()).then_some(Bytes {
            at,
            layout,
            owned: true,
        })
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: allocated with this layout and not freed before.
            unsafe { dealloc(self.at, self.layout) }
        }
    }
}

/// A buffer.
#[derive(Debug)]
pub struct Buffer {
    /// Its first address.
    pub base: u64,
    /// Its bytes, exactly as asked for.
    pub size: u64,
    data: Bytes,
    valid: Bytes,
    touched: Bytes,
    races: Option<Bytes>,
}

/// What the interpreter needs to know of a buffer, by value.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Behind the last address.
    pub end: u64,
    /// The byte at `base`.
    pub data: *mut u8,
    /// The shadow byte of `base`: 1 where written.
    pub valid: *mut u8,
    /// Two bytes for each sector of 32 bytes: the launch that last read and wrote it.
    pub touched: *mut u8,
    /// A word for each byte: its last writer and reader; null when races are not looked for.
    pub races: *mut u64,
}

impl Region {
    /// A region that contains nothing.
    pub const EMPTY: Region = Region {
        base: u64::MAX,
        end: 0,
        data: std::ptr::null_mut(),
        valid: std::ptr::null_mut(),
        touched: std::ptr::null_mut(),
        races: std::ptr::null_mut(),
    };

    /// The host address of a device address.
    #[inline(always)]
    pub fn host(&self, address: u64) -> *mut u8 {
        self.data.wrapping_add((address - self.base) as usize)
    }
}

/// All buffers.
#[derive(Debug)]
pub struct Memory {
    live: BTreeMap<u64, Buffer>,
    freed: BTreeMap<u64, u64>,
    next: u64,
    used: u64,
    /// Bytes of the device.
    pub total: u64,
    /// Byte that new buffers are filled with.
    pub poison: u8,
    /// Whether buffers carry what the hunt for races needs.
    pub races: bool,
}

// SAFETY: the raw pointers are owned allocations; who writes through them is the launch's business.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of a device with `total` bytes.
    pub fn new(total: u64) -> Memory {
        Memory {
            live: BTreeMap::new(),
            freed: BTreeMap::new(),
            next: GLOBAL_BASE,
            used: 0,
            total,
            poison: POISON,
            races: false,
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// A new buffer's address; `None` when the device (or the host) has no room.
    pub fn alloc(&mut self, size: u64) -> Option<u64> {
        if size == 0 || self.used + size > self.total {
            return None;
        }
        let base = self.next;
        let buffer = Buffer {
            base,
            size,
            data: Bytes::new(size)?,
            valid: Bytes::new(size)?,
            touched: Bytes::new((size / 32 + 1) * 2)?,
            races: if self.races {
                Some(Bytes::new(size * 8)?)
            } else {
                None
            },
        };
        // SAFETY: the buffer has `size` bytes.
        unsafe { std::ptr::write_bytes(buffer.data.at, self.poison, size as usize) };
        self.next += (size + GUARD).next_multiple_of(512);
        self.used += size;
        self.live.insert(base, buffer);
        Some(base)
    }

    /// Makes host memory a buffer: its address on the device. All of it counts as written.
    pub fn map(&mut self, host: *mut u8, size: u64) -> Option<u64> {
        let base = self.alloc(size)?;
        let buffer = self.live.get_mut(&base)?;
        let layout = buffer.data.layout;
        buffer.data = Bytes {
            at: host,
            layout,
            owned: false,
        };
        // SAFETY: the buffer's shadow has `size` bytes.
        unsafe { std::ptr::write_bytes(buffer.valid.at, 1, size as usize) };
        Some(base)
    }

    /// Frees a buffer by its first address.
    pub fn free(&mut self, base: u64) -> bool {
        let Some(buffer) = self.live.remove(&base) else {
            return false;
        };
        self.used -= buffer.size;
        self.freed.insert(base, buffer.size);
        true
    }

    /// The buffer that holds an address.
    pub fn find(&self, address: u64) -> Option<Region> {
        let (_, buffer) = self.live.range(..=address).next_back()?;
        let end = buffer.base + buffer.size;
        (address < end).then(|| Region {
            base: buffer.base,
            end,
            data: buffer.data.at,
            valid: buffer.valid.at,
            touched: buffer.touched.at,
            races: buffer
                .races
                .as_ref()
                .map_or(std::ptr::null_mut(), |b| b.at.cast()),
        })
    }

    /// The buffer that holds all of a range.
    pub fn range(&self, address: u64, len: u64) -> Option<Region> {
        self.find(address).filter(|r| address + len <= r.end)
    }

    /// Words about an address that lies in no buffer.
    pub fn describe(&self, address: u64) -> String {
        let near = |(base, size): (u64, u64), what: &str| {
            format!(
                "{} bytes behind the {} bytes of {what} {base:#x}",
                address - base - size,
                size
            )
        };
        let live = self
            .live
            .range(..=address)
            .next_back()
            .map(|(_, b)| (b.base, b.size));
        let freed = self
            .freed
            .range(..=address)
            .next_back()
            .map(|(b, s)| (*b, *s));
        if let Some((base, size)) = freed
            && address < base + size
        {
            return format!(
                "in the freed buffer {base:#x} of {size} bytes, at offset {}",
                address - base
            );
        }
        if let Some(found) = live
            && address < found.0 + found.1 + GUARD
        {
            return if address < found.0 + found.1 {
                format!(
                    "at offset {} of the {} bytes of buffer {:#x}, over its end",
                    address - found.0,
                    found.1,
                    found.0
                )
            } else {
                near(found, "buffer")
            };
        }
        let above = self
            .live
            .range(address..)
            .next()
            .map(|(_, b)| (b.base, b.size));
        match above {
            Some((base, size)) if base - address <= GUARD => {
                format!(
                    "{} bytes before the {size} bytes of buffer {base:#x}",
                    base - address
                )
            }
            _ => "in no buffer".to_owned(),
        }
    }

    /// Copies into device memory and marks it written.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(region) = self.range(address, bytes.len() as u64) else {
            return bytes.is_empty();
        };
        // SAFETY: the range lies in the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.host(address), bytes.len());
            std::ptr::write_bytes(
                region.valid.add((address - region.base) as usize),
                1,
                bytes.len(),
            );
        }
        true
    }

    /// Copies out of device memory.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(region) = self.range(address, bytes.len() as u64) else {
            return bytes.is_empty();
        };
        // SAFETY: the range lies in the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(region.host(address), bytes.as_mut_ptr(), bytes.len())
        };
        true
    }

    /// Copies within device memory, with what is known of every byte.
    pub fn copy(&mut self, to: u64, from: u64, len: u64) -> bool {
        let (Some(t), Some(f)) = (self.range(to, len), self.range(from, len)) else {
            return len == 0;
        };
        // SAFETY: both ranges lie in their buffers; they may overlap.
        unsafe {
            std::ptr::copy(f.host(from), t.host(to), len as usize);
            let (v, w) = (
                f.valid.add((from - f.base) as usize),
                t.valid.add((to - t.base) as usize),
            );
            std::ptr::copy(v, w, len as usize);
        }
        true
    }

    /// Fills with a pattern of 1, 2 or 4 bytes.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: u64) -> bool {
        let len = pattern.len() as u64 * count;
        if self.range(address, len).is_none() {
            return len == 0;
        }
        let bytes: Vec<u8> = pattern.iter().copied().cycle().take(len as usize).collect();
        self.write(address, &bytes)
    }

    /// How many bytes of a range nobody has written.
    pub fn unwritten(&self, address: u64, len: u64) -> u64 {
        let Some(region) = self.range(address, len) else {
            return 0;
        };
        let at = region.valid.wrapping_add((address - region.base) as usize);
        // SAFETY: the range lies in the buffer.
        let shadow = unsafe { std::slice::from_raw_parts(at, len as usize) };
        shadow.iter().filter(|&&v| v == 0).count() as u64
    }

    /// Forgets which sectors earlier launches touched, when their numbers run out.
    pub fn forget_touches(&mut self) {
        for buffer in self.live.values() {
            // SAFETY: this many bytes were allocated.
            unsafe {
                std::ptr::write_bytes(buffer.touched.at, 0, (buffer.size / 32 + 1) as usize * 2)
            };
            if let Some(races) = &buffer.races {
                // SAFETY: as above.
                unsafe { std::ptr::write_bytes(races.at, 0, buffer.size as usize * 8) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_memory_is_shared_not_copied() {
        let mut host = vec![1u8, 2, 3, 4];
        let mut m = Memory::new(1 << 20);
        let at = m.map(host.as_mut_ptr(), 4).unwrap();
        assert!(m.write(at + 1, &[9]) && m.unwritten(at, 4) == 0);
        assert!(m.free(at) && m.used() == 0);
        assert_eq!(host, [1, 9, 3, 4]);
    }

    #[test]
    fn buffers_are_exact() {
        let mut m = Memory::new(1 << 20);
        let (a, b) = (m.alloc(100).unwrap(), m.alloc(7).unwrap());
        assert!(
            m.range(a, 100).is_some() && m.range(a, 101).is_none() && m.range(a + 99, 1).is_some()
        );
        assert!(b >= a + 100 + GUARD);
        assert_eq!(m.unwritten(a, 100), 100);
        assert!(m.write(a + 4, &[1; 8]));
        assert_eq!(m.unwritten(a, 100), 92);
        assert!(m.describe(a + 100).contains("0 bytes behind the 100 bytes"));
        assert!(m.free(a) && !m.free(a));
        assert!(m.describe(a + 3).contains("freed"));
        assert!(m.alloc(1 << 20).is_none() && m.alloc(0).is_none());
    }
}
