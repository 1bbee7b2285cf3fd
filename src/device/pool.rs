//! Worker threads. Work is cut by shape into numbered tasks; threads take the next number.
//!
//! Results never depend on which thread ran a task: a task writes only its own part of the outputs,
//! and sums over tasks are made afterwards in task order.

use super::view::{RowsMut, Split};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A fixed set of worker threads.
pub struct Pool {
    threads: rayon::ThreadPool,
}

/// The threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} worker threads: {source}")]
pub struct PoolError {
    threads: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Pool {
    /// `threads` workers; 0 means one per processor.
    ///
    /// # Errors
    /// The system refuses to start a thread.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        let wanted = if threads == 0 {
            default_threads()
        } else {
            threads
        };
        rayon::ThreadPoolBuilder::new()
            .num_threads(wanted)
            .thread_name(|i| format!("gmmk-cpu-{i}"))
            .build()
            .map(|threads| Self { threads })
            .map_err(|source| PoolError {
                threads: wanted,
                source,
            })
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `f` on a worker, so that the loops inside start without a hand-over.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.threads.install(f)
    }

    /// Calls `f(task, part, scratch)` once for each task of the `outputs`, which all have the same
    /// number of tasks. Each worker has its own slice of `scratch`, with what the last task left.
    ///
    /// # Panics
    /// If the outputs disagree about the number of tasks, or `f` calls this again.
    pub fn run<F>(&self, outputs: &[Split<'_>], scratch: &mut [f32], f: F)
    where
        F: Fn(usize, &mut Parts<'_>, &mut [f32]) + Sync,
    {
        let tasks = outputs.first().map_or(0, Split::tasks);
        assert!(
            outputs.iter().all(|o| o.tasks() == tasks),
            "outputs are cut into different numbers of tasks"
        );
        let workers = self.threads().min(tasks);
        if workers <= 1 {
            for task in 0..tasks {
                f(task, &mut Parts { outputs, task }, scratch);
            }
            return;
        }
        let share = scratch.len() / self.threads();
        let shares = Shares {
            ptr: scratch.as_mut_ptr(),
            share,
        };
        let next = AtomicUsize::new(0);
        let work = || {
            let worker = rayon::current_thread_index().unwrap_or_default();
            let _mine_alone = Busy::enter();
            // SAFETY: `fan_out` runs `work` on workers of this pool only, and `Busy` stops a second
            // one on the same worker; `scratch` is borrowed until all are done.
            let mine = unsafe { shares.of(worker) };
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                f(task, &mut Parts { outputs, task }, mine);
            }
        };
        self.threads.install(|| fan_out(workers, &work));
    }
}

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as running tasks.
struct Busy;

impl Busy {
    fn enter() -> Self {
        assert!(
            !BUSY.replace(true),
            "a task may not start a loop of its own"
        );
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

/// Offers `work` to `copies` workers. Those that are not free in time are not waited for: what
/// nobody took runs here, and finds nothing left to do.
fn fan_out(copies: usize, work: &(impl Fn() + Sync)) {
    if copies <= 1 {
        work();
        return;
    }
    let half = copies / 2;
    rayon::join(|| fan_out(copies - half, work), || fan_out(half, work));
}

/// Processors this process may use.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

struct Shares {
    ptr: *mut f32,
    share: usize,
}

// SAFETY: only used to compute disjoint slices, see `Shares::of`.
unsafe impl Sync for Shares {}

impl Shares {
    /// # Safety
    /// `worker` is unique among the threads that hold a slice, and its range is inside the buffer.
    #[allow(clippy::mut_from_ref)] // distinct workers get distinct memory
    unsafe fn of(&self, worker: usize) -> &mut [f32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(worker * self.share), self.share) }
    }
}

/// The part of each output that belongs to one task.
pub struct Parts<'a> {
    outputs: &'a [Split<'a>],
    task: usize,
}

impl Parts<'_> {
    /// Sample and first row of this task's part of output `i`.
    pub fn place(&self, i: usize) -> (usize, usize) {
        self.outputs[i].place(self.task)
    }

    /// This task's rows of output `i`.
    pub fn get(&mut self, i: usize) -> RowsMut<'_> {
        // SAFETY: the pool gives each task number to one thread; &mut self allows one view at a time.
        unsafe { self.outputs[i].part(self.task) }
    }

    /// This task's rows of several outputs at once.
    ///
    /// # Panics
    /// If an output is named twice.
    pub fn many<const N: usize>(&mut self, outputs: [usize; N]) -> [RowsMut<'_>; N] {
        for (i, output) in outputs.iter().enumerate() {
            assert!(
                !outputs[..i].contains(output),
                "output {output} named twice"
            );
        }
        // SAFETY: as in `get`; different outputs do not overlap.
        outputs.map(|i| unsafe { self.outputs[i].part(self.task) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_with_its_own_scratch() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            let mut out = vec![0.0; 100];
            let mut scratch = vec![0.0; 5];
            let split = RowsMut::of(&mut out, [10, 1, 10, 1]).split(4);
            pool.run(&[split], &mut scratch, |task, parts, mine| {
                mine[0] = task as f32;
                let mut part = parts.get(0);
                for r in 0..part.rows() {
                    part.row(0, r)[0] += mine[0] + 1.0;
                }
            });
            let want: Vec<f32> = (0..100)
                .map(|i| (i / 10 * 3 + i % 10 / 4 + 1) as f32)
                .collect();
            assert_eq!(out, want);
        }
    }
}
