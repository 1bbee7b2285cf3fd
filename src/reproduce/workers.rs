//! Independent runs side by side, each on a thread of its own.

use crate::device::pool::{Pool, PoolError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

/// Results of `work` for the numbers 0..count, in that order, computed on `threads` threads. Every
/// thread has a pool of one worker for the programs it runs. `done` hears on the caller's thread how
/// many are finished.
///
/// # Errors
/// A thread's pool cannot be started.
pub fn each<T: Send>(
    threads: usize,
    count: usize,
    work: impl Fn(usize, &Arc<Pool>) -> T + Sync,
    mut done: impl FnMut(usize),
) -> Result<Vec<T>, PoolError> {
    let pools = (0..threads.clamp(1, count.max(1)))
        .map(|_| Pool::new(1).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()?;
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    let mut found: Vec<Option<T>> = (0..count).map(|_| None).collect();
    std::thread::scope(|scope| {
        let (next, work) = (&next, &work);
        for pool in pools {
            let sender = sender.clone();
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || sender.send((number, work(number, &pool))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (finished, (number, result)) in results.iter().enumerate() {
            found[number] = Some(result);
            done(finished + 1);
        }
    });
    // A panic of a run ends the scope, so nothing is missing here.
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_all_are_counted() {
        for threads in [1, 3, 50] {
            let mut counted = 0;
            let squares = each(threads, 20, |n, _| n * n, |n| counted = n).unwrap();
            let want: Vec<usize> = (0..20).map(|n| n * n).collect();
            assert_eq!(squares, want);
            assert_eq!(counted, 20);
        }
    }
}
