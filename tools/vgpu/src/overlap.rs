//! How long a graph takes whose branches run at once: a model, like that of one kernel, and never a measurement.
//!
//! A kernel is a number of turns, each of which has a multiprocessor to itself for as long as the model of
//! the kernel alone says. Free multiprocessors go to the kernel whose stream comes first, and what it leaves to
//! the others; a turn that has begun is not interrupted. Where all that runs at once asks for more of L2 or DRAM
//! than there is, all of it slows down alike. Blocks of two kernels never share a multiprocessor, which a
//! device may do better.

use crate::device::Device;
use crate::model::{FILL, Load, NODE};

/// A node's work.
#[derive(Clone, Debug)]
pub struct Job {
    /// Seconds before its first turn; the whole, if it has none.
    pub lead: f64,
    /// Turns on a multiprocessor.
    pub turns: u64,
    /// Seconds of each.
    pub seconds: f64,
    /// Bytes a second that each turn moves through L2 and DRAM.
    pub rates: [f64; 2],
    /// The lower, the sooner its turns are taken.
    pub priority: i32,
    /// The jobs before it.
    pub after: Vec<usize>,
}

impl Job {
    /// A kernel that alone takes `seconds`.
    pub fn kernel(load: &Load, seconds: f64, d: &Device) -> Job {
        let sms = f64::from(d.sms);
        let per_sm = (load.blocks as f64 / sms).ceil();
        let resident = f64::from(load.resident).min(per_sm).max(1.0);
        let turns = (load.blocks as f64 / resident).ceil().max(1.0);
        let fill = FILL / (d.clock_ghz * 1e9);
        let each = ((seconds - fill) / (turns / sms).ceil()).max(0.0);
        let l2 = 32.0 * load.sectors * load.blocks as f64;
        let rate = |bytes: f64| {
            if each > 0.0 {
                bytes / turns / each
            } else {
                0.0
            }
        };
        Job {
            lead: fill + NODE,
            turns: turns as u64,
            seconds: each,
            rates: [rate(l2), rate(load.dram_bytes)],
            priority: 0,
            after: Vec::new(),
        }
    }

    /// Something that takes `seconds` and no multiprocessor.
    pub fn other(seconds: f64) -> Job {
        Job {
            lead: seconds,
            turns: 0,
            seconds: 0.0,
            rates: [0.0; 2],
            priority: 0,
            after: Vec::new(),
        }
    }
}

/// A job that has begun.
#[derive(Clone, Copy)]
struct Running {
    job: usize,
    /// Seconds until its first turn.
    lead: f64,
    /// Turns that wait for a multiprocessor, and turns that have one.
    waiting: u64,
    busy: u64,
}

/// Turns that began together.
struct Batch {
    job: usize,
    count: u64,
    left: f64,
}

/// Times shorter than this are nothing.
const TICK: f64 = 1e-13;

struct Clock<'a> {
    jobs: &'a [Job],
    device: &'a Device,
    /// How many jobs each still waits for.
    blocked: Vec<usize>,
    running: Vec<Running>,
    batches: Vec<Batch>,
    free: u64,
    now: f64,
}

/// Seconds from the first job's beginning to the last one's end.
pub fn makespan(jobs: &[Job], device: &Device) -> f64 {
    let mut clock = Clock {
        jobs,
        device,
        blocked: jobs.iter().map(|j| j.after.len()).collect(),
        running: Vec::new(),
        batches: Vec::new(),
        free: u64::from(device.sms),
        now: 0.0,
    };
    for job in 0..jobs.len() {
        clock.begin_if_free(job);
    }
    while !clock.running.is_empty() {
        clock.dispatch();
        clock.advance();
        clock.finish();
    }
    clock.now
}

impl Clock<'_> {
    fn begin_if_free(&mut self, job: usize) {
        if self.blocked[job] == 0 {
            let Job { lead, turns, .. } = self.jobs[job];
            self.running.push(Running {
                job,
                lead,
                waiting: turns,
                busy: 0,
            });
        }
    }

    /// Gives free multiprocessors to turns that wait.
    fn dispatch(&mut self) {
        let jobs = self.jobs;
        self.running.sort_by_key(|r| (jobs[r.job].priority, r.job));
        for r in self.running.iter_mut().filter(|r| r.lead <= TICK) {
            let count = r.waiting.min(self.free);
            if count > 0 {
                self.batches.push(Batch {
                    job: r.job,
                    count,
                    left: jobs[r.job].seconds,
                });
                self.free -= count;
                (r.waiting, r.busy) = (r.waiting - count, r.busy + count);
            }
        }
    }

    /// How much slower everything is because L2 or DRAM is asked for too much.
    fn slowdown(&self) -> f64 {
        let d = self.device;
        let most = [
            d.l2_bytes_per_clock * d.clock_ghz * 1e9,
            d.eta_dram * d.dram_gb_per_s * 1e9,
        ];
        let asked = |level: usize| -> f64 {
            let rate = |b: &Batch| b.count as f64 * self.jobs[b.job].rates[level];
            self.batches.iter().map(rate).sum()
        };
        (0..2).fold(1.0, |slow, level| {
            f64::max(slow, asked(level) / most[level])
        })
    }

    /// Moves on to the next end of anything.
    fn advance(&mut self) {
        let slow = self.slowdown();
        let turns = self.batches.iter().map(|b| b.left * slow);
        let leads = self.running.iter().map(|r| r.lead).filter(|l| *l > TICK);
        let step = turns.chain(leads).fold(f64::INFINITY, f64::min);
        let step = if step.is_finite() { step } else { 0.0 };
        self.now += step;
        for b in &mut self.batches {
            b.left -= step / slow;
        }
        for r in &mut self.running {
            r.lead -= step;
        }
    }

    /// Takes away what has ended, and begins what waited for it.
    fn finish(&mut self) {
        let running = &mut self.running;
        let free = &mut self.free;
        self.batches.retain(|b| {
            let over = b.left <= TICK;
            if over {
                *free += b.count;
                if let Some(r) = running.iter_mut().find(|r| r.job == b.job) {
                    r.busy -= b.count;
                }
            }
            !over
        });
        let (over, rest): (Vec<_>, Vec<_>) = self
            .running
            .iter()
            .partition(|r| r.lead <= TICK && r.waiting == 0 && r.busy == 0);
        self.running = rest;
        for ended in over {
            for job in 0..self.jobs.len() {
                let edges = self.jobs[job].after.iter();
                let edges = edges.filter(|&&before| before == ended.job).count();
                if edges > 0 {
                    self.blocked[job] -= edges;
                    self.begin_if_free(job);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel of `turns` turns of `us` microseconds.
    fn job(turns: u64, us: f64, priority: i32, after: &[usize]) -> Job {
        Job {
            lead: 0.0,
            turns,
            seconds: us * 1e-6,
            rates: [0.0; 2],
            priority,
            after: after.to_vec(),
        }
    }

    fn us(jobs: &[Job]) -> f64 {
        let d = Device::named("h100").unwrap();
        assert_eq!(d.sms, 132);
        (makespan(jobs, &d) * 1e7).round() / 10.0
    }

    #[test]
    fn a_chain_takes_the_sum() {
        let d = Device::named("h100").unwrap();
        let load = Load {
            blocks: 300,
            resident: 2,
            ..Load::default()
        };
        let mut jobs = vec![Job::kernel(&load, 1e-5, &d); 3];
        (jobs[1].after, jobs[2].after) = (vec![0], vec![1]);
        jobs.push(Job::other(2e-6));
        jobs[3].after = vec![2];
        let want = 3.0 * (1e-5 + NODE) + 2e-6;
        assert!((makespan(&jobs, &d) - want).abs() < 1e-10);
    }

    #[test]
    fn a_small_kernel_leaves_room_for_another() {
        // 32 multiprocessors for 10 us; beside them 100 are free for two rounds of the other.
        assert_eq!(us(&[job(32, 10.0, 0, &[]), job(200, 5.0, 1, &[])]), 10.0);
        // Both want all of the device.
        assert_eq!(us(&[job(132, 10.0, 0, &[]), job(132, 5.0, 1, &[])]), 15.0);
        // What has begun is not interrupted, whatever its rank.
        let late = [
            job(32, 2.0, 0, &[]),
            job(132, 10.0, 0, &[0]),
            job(132, 5.0, 1, &[]),
        ];
        assert_eq!(us(&late), 17.0);
    }

    #[test]
    fn memory_is_shared() {
        let d = Device::named("h100").unwrap();
        let mut half = job(66, 10.0, 0, &[]);
        // Each asks for three quarters of what DRAM gives.
        half.rates[1] = 0.75 * d.eta_dram * d.dram_gb_per_s * 1e9 / 66.0;
        assert_eq!(us(std::slice::from_ref(&half)), 10.0);
        assert_eq!(us(&[half.clone(), half]), 15.0);
    }
}
