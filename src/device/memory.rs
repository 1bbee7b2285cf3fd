//! Aligned, zeroed host memory.

use memmap2::MmapMut;

/// Alignment of every buffer and of every tensor in an arena, in bytes.
pub const ALIGN: usize = 256;

/// Bytes from which large pages (2 MiB) are asked for.
#[cfg(target_os = "linux")]
const LARGE: usize = 8 << 20;

/// A zeroed buffer of bytes, aligned to [`ALIGN`]. The system maps its pages at first touch, large ones
/// where it can: a step walks through all of its memory, and small pages cost it a tenth in look-ups.
pub struct Buffer {
    /// Keeps `ptr` alive.
    _pages: MmapMut,
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: the buffer owns its memory; access goes through &self / &mut self or the plan's proofs.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `bytes` zeroed bytes, or `None` if the system has no such memory.
    pub fn new(bytes: usize) -> Option<Self> {
        // Pages are aligned to more than `ALIGN`.
        let mut pages = MmapMut::map_anon(bytes.max(ALIGN)).ok()?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE {
            // Without large pages it works as well, only slower.
            let _unheeded = pages.advise(memmap2::Advice::HugePage);
        }
        let ptr = pages.as_mut_ptr();
        Some(Self {
            _pages: pages,
            ptr,
            bytes,
        })
    }

    /// Size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Start of the memory.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// The memory as numbers of type T, which any bit pattern is valid for.
    pub fn as_slice<T: bytemuck::Pod>(&self) -> &[T] {
        // SAFETY: aligned to a page, initialised (zeroed), inside the allocation, and T is plain data.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.bytes / size_of::<T>()) }
    }

    /// The memory as numbers of type T.
    pub fn as_mut_slice<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast(), self.bytes / size_of::<T>()) }
    }
}

/// Rounds up to [`ALIGN`].
pub fn align_up(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// Bytes of memory that a new program could use now: the smaller of what the system reports as
/// available and what is left under the control group's limit. `None` where it does not say.
pub fn available_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?
        .trim()
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    let number = |path: &str| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(limit, used)| limit.saturating_sub(used));
    Some(group.map_or(kib * 1024, |left| left.min(kib * 1024)))
}

/// Largest resident size of this process so far, bytes; `None` where the system does not say.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .split(' ')
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}
