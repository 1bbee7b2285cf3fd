//! Memory and processor time of one thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The system's allocator, counting for each thread what it has and the most it had.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HAS: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has nobody left to tell.
    let _ = HAS.try_with(|has| {
        has.set(has.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(has.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// What this thread had at some moment.
pub struct Memory(isize);

impl Memory {
    /// Begins to look for the most.
    pub fn now() -> Self {
        let has = HAS.get();
        MOST.set(has);
        Self(has)
    }

    /// The most bytes that the thread had since, above what it had then.
    pub fn most(&self) -> usize {
        (MOST.get() - self.0).max(0) as usize
    }
}

/// Processor time of this thread at some moment: a process that is held up by others does not age.
pub struct Busy(Duration);

impl Busy {
    /// The moment.
    pub fn now() -> Self {
        Self(busy(Path::new("/proc/thread-self")))
    }

    /// Since then.
    pub fn elapsed(&self) -> Duration {
        busy(Path::new("/proc/thread-self")).saturating_sub(self.0)
    }
}

/// Nanoseconds on a processor: the first number of `schedstat`.
fn busy(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// When an input was begun, and the input.
type Begun = Option<(Duration, Vec<u8>)>;

/// Ends the process when an input takes for ever, and leaves that input in a file.
pub struct Watchdog(Arc<Mutex<Begun>>, PathBuf);

impl Watchdog {
    /// Watches the thread that calls this.
    pub fn new(name: &'static str, longest: Duration) -> Self {
        let watched = Arc::new(Mutex::new(Begun::None));
        let thread = std::fs::canonicalize("/proc/thread-self").unwrap();
        let (weak, of) = (Arc::downgrade(&watched), thread.clone());
        std::thread::spawn(move || {
            while let Some(watched) = weak.upgrade() {
                if let Some((start, input)) = &*watched.lock().unwrap()
                    && busy(&of).saturating_sub(*start) > 2 * longest
                {
                    let path =
                        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-hangs"));
                    std::fs::write(&path, input).unwrap();
                    eprintln!("{name}: an input takes for ever; it is {}", path.display());
                    std::process::abort();
                }
                drop(watched);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        Self(watched, thread)
    }

    /// Does something under watch.
    pub fn watch<T>(&self, input: &[u8], work: impl FnOnce() -> T) -> T {
        *self.0.lock().unwrap() = Some((busy(&self.1), input.to_vec()));
        let result = work();
        *self.0.lock().unwrap() = None;
        result
    }
}
