//! L1 and L2 as a model: sectored, set-associative, least recently used out first.
//!
//! Blocks run one after the other here, side by side on a device. So each block's requests are noted, its
//! warps' in turn between barriers, and replayed when a wave of blocks (SMs times resident blocks) is complete:
//! one request of each block in turn. L1 belongs to an SM and is empty at a launch; L2 keeps what earlier
//! launches left. L1 writes through and does not allocate on stores; atomics, `.cg` and `.cv` pass it by.
//! L2 writes back when a line leaves.

use crate::exec::global::Use;
use std::collections::BTreeMap;

/// Bytes of a line: four sectors.
const LINE: u64 = 128;
/// Lines of a set.
const WAYS: usize = 16;
/// Requests of a wave that are held before the first of them are replayed without the rest.
const HELD: usize = 1 << 24;

/// One line of a set.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The line's number and one; 0: empty.
    line: u64,
    stamp: u32,
    valid: u8,
    dirty: u8,
}

/// What a lookup met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// The sector was there.
    pub hit: bool,
    /// Sectors that had to be written back to make room.
    pub evicted: u32,
}

/// A cache of one level.
#[derive(Clone, Debug)]
pub struct Cache {
    entries: Vec<Entry>,
    sets: u64,
    ways: usize,
    clock: u32,
}

impl Cache {
    /// A cache of so many bytes.
    pub fn new(bytes: u64, ways: usize) -> Cache {
        let sets = (bytes / LINE / ways as u64).max(1);
        Cache {
            entries: vec![Entry::default(); sets as usize * ways],
            sets,
            ways,
            clock: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.fill(Entry::default());
    }

    fn set(&mut self, line: u64) -> &mut [Entry] {
        // Strides that are powers of two spread over the sets, as devices hash addresses.
        let hash = line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        let at = (hash % self.sets) as usize * self.ways;
        &mut self.entries[at..at + self.ways]
    }

    fn tick(&mut self) -> u32 {
        self.clock = self.clock.wrapping_add(1);
        if self.clock == 0 {
            self.entries.iter_mut().for_each(|e| e.stamp = 0);
            self.clock = 1;
        }
        self.clock
    }

    /// Whether a sector (address / 32) is there; its line counts as used.
    pub fn look(&mut self, sector: u64) -> bool {
        let stamp = self.tick();
        let (line, bit) = (sector / 4 + 1, 1u8 << (sector % 4));
        let found = self.set(line).iter_mut().find(|e| e.line == line);
        found.is_some_and(|e| {
            e.stamp = stamp;
            e.valid & bit != 0
        })
    }

    /// Looks for a sector and brings it in; written sectors are dirty.
    pub fn bring(&mut self, sector: u64, dirty: bool) -> Met {
        let stamp = self.tick();
        let (line, bit) = (sector / 4 + 1, 1u8 << (sector % 4));
        let set = self.set(line);
        let mut met = Met::default();
        let place = set.iter().position(|e| e.line == line);
        let place = place.unwrap_or_else(|| {
            let oldest = |n: &usize| (set[*n].line != 0, set[*n].stamp);
            let victim = (0..set.len()).min_by_key(oldest).unwrap_or(0);
            met.evicted = set[victim].dirty.count_ones();
            set[victim] = Entry {
                line,
                ..Entry::default()
            };
            victim
        });
        let entry = &mut set[place];
        met.hit = entry.valid & bit != 0;
        entry.stamp = stamp;
        entry.valid |= bit;
        entry.dirty |= if dirty { bit } else { 0 };
        met
    }
}

/// What the caches of a launch look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Levels {
    pub sms: u32,
    /// Blocks on an SM at once.
    pub resident: u32,
    /// L1 of an SM: what shared memory leaves.
    pub l1_bytes: u32,
    pub l2_bytes: u64,
}

/// What a launch's caches did, in sectors of 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Loads found in L1.
    pub l1_hits: u64,
    /// All that L2 was asked for: loads that L1 did not have, stores, atomics.
    pub l2: u64,
    /// Of them, found in L2 (a store into a sector that is there, too).
    pub l2_hits: u64,
    /// Read from DRAM.
    pub dram_read: u64,
    /// Written to DRAM to make room in L2.
    pub dram_written: u64,
}

impl Traffic {
    /// Bytes between L2 and DRAM.
    pub fn dram_bytes(&self) -> u64 {
        32 * (self.dram_read + self.dram_written)
    }
}

/// One sector of one request.
#[derive(Clone, Copy, Debug)]
struct Note(u64);

impl Note {
    const WRITE: u64 = 1 << 60;
    const ATOMIC: u64 = 1 << 61;
    const BYPASS: u64 = 1 << 62;
    const LAST: u64 = 1 << 63;

    fn sector(self) -> u64 {
        self.0 & (Note::WRITE - 1)
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }
}

/// A block's requests to global memory.
#[derive(Debug, Default)]
pub struct Trace {
    /// Since the last barrier, by warp.
    warps: Vec<Vec<Note>>,
    /// Before it, the warps' requests in turn.
    all: Vec<Note>,
}

impl Trace {
    /// Notes a request: its distinct sectors, in the order of its lanes.
    pub fn request(&mut self, warp: usize, sectors: &[u64], how: Use, bypass: bool) {
        if self.warps.len() <= warp {
            self.warps.resize(warp + 1, Vec::new());
        }
        let mut flags = match how {
            Use::Read => 0,
            Use::Write => Note::WRITE,
            Use::Atomic => Note::ATOMIC,
        };
        flags |= if bypass { Note::BYPASS } else { 0 };
        let list = &mut self.warps[warp];
        list.extend(sectors.iter().map(|s| Note(s | flags)));
        if let Some(last) = list.last_mut() {
            last.0 |= Note::LAST;
        }
    }

    /// The warps have met: their requests so far took turns.
    pub fn merge(&mut self) {
        let lists = std::mem::take(&mut self.warps);
        take_turns(&lists, |_, note| self.all.push(note));
    }
}

/// One request of each list in turn, with the list's number.
fn take_turns(lists: &[Vec<Note>], mut put: impl FnMut(usize, Note)) {
    let mut at = vec![0; lists.len()];
    let mut left: Vec<usize> = (0..lists.len()).collect();
    while !left.is_empty() {
        left.retain(|&n| {
            while let Some(note) = lists[n].get(at[n]) {
                at[n] += 1;
                put(n, *note);
                if note.has(Note::LAST) {
                    break;
                }
            }
            at[n] < lists[n].len()
        });
    }
}

/// A launch's caches, fed with blocks in the order in which a device would start them.
#[derive(Debug)]
pub struct Waves {
    /// Blocks of a wave, and the first block of the next one.
    wave: u64,
    first: u64,
    l1: Vec<Cache>,
    l2: Cache,
    /// Finished blocks of waves that are not complete.
    held: BTreeMap<u64, Vec<Note>>,
    notes: usize,
    traffic: Traffic,
}

impl Waves {
    /// Caches for a launch of so many blocks, L2 as the last launch left it.
    pub fn new(levels: Levels, l2: Cache, blocks: u64) -> Waves {
        let sms = u64::from(levels.sms).min(blocks) as usize;
        Waves {
            wave: u64::from(levels.sms * levels.resident.max(1)),
            first: 0,
            l1: vec![Cache::new(levels.l1_bytes.into(), WAYS); sms.max(1)],
            l2,
            held: BTreeMap::new(),
            notes: 0,
            traffic: Traffic::default(),
        }
    }

    /// A block is done; `position` is its place in the order of blocks.
    pub fn add(&mut self, position: u64, mut trace: Trace) {
        trace.merge();
        self.notes += trace.all.len();
        self.held.insert(position, trace.all);
        // In the order of waves, whichever is complete first.
        while self.held.range(self.first..self.first + self.wave).count() as u64 == self.wave {
            self.replay(self.first);
            self.first += self.wave;
        }
        if self.notes > HELD
            && let Some((lowest, _)) = self.held.first_key_value()
        {
            self.replay(lowest / self.wave * self.wave);
        }
    }

    /// Replays what is held of a wave.
    fn replay(&mut self, first: u64) {
        let mut rest = self.held.split_off(&first);
        let mut later = rest.split_off(&(first + self.wave));
        self.held.append(&mut later);
        let (positions, lists): (Vec<u64>, Vec<Vec<Note>>) = rest.into_iter().unzip();
        self.notes -= lists.iter().map(Vec::len).sum::<usize>();
        take_turns(&lists, |n, note| self.sector(positions[n], note));
    }

    fn sector(&mut self, position: u64, note: Note) {
        let sector = note.sector();
        let sm = (position % self.l1.len() as u64) as usize;
        let plain = !note.has(Note::BYPASS | Note::ATOMIC | Note::WRITE);
        if plain && self.l1[sm].bring(sector, false).hit {
            self.traffic.l1_hits += 1;
            return;
        }
        self.traffic.l2 += 1;
        let writes = note.has(Note::WRITE | Note::ATOMIC);
        let met = self.l2.bring(sector, writes);
        self.traffic.l2_hits += u64::from(met.hit);
        self.traffic.dram_written += u64::from(met.evicted);
        // A store fills its sector; whether it fills all of it is not looked at.
        self.traffic.dram_read += u64::from(!met.hit && !note.has(Note::WRITE));
    }

    /// The last waves, and what all of it came to. L2 goes on to the next launch.
    pub fn finish(mut self) -> (Traffic, Cache) {
        while let Some((lowest, _)) = self.held.first_key_value() {
            self.replay(lowest / self.wave * self.wave);
        }
        (self.traffic, self.l2)
    }
}

/// An L2 of a device.
pub fn l2(bytes: u64) -> Cache {
    Cache::new(bytes, WAYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_line_leaves() {
        // One set of two lines.
        let mut c = Cache::new(256, 2);
        assert!(!c.bring(0, false).hit && c.bring(0, false).hit);
        // Another sector of the same line misses but takes no line.
        assert!(!c.bring(1, true).hit && !c.bring(4, false).hit && c.bring(0, false).hit);
        // Line 1 is the older one; line 0 has one dirty sector when it leaves.
        assert_eq!(c.bring(8, false).evicted, 0);
        assert!(!c.look(4) && c.look(1));
        c.look(8);
        assert_eq!(c.bring(12, false).evicted, 1);
        assert!(!c.look(0) && c.look(8));
        c.clear();
        assert!(!c.look(8));
    }

    fn levels(sms: u32, resident: u32, l1: u32, l2: u64) -> Levels {
        Levels {
            sms,
            resident,
            l1_bytes: l1,
            l2_bytes: l2,
        }
    }

    /// Traffic of blocks that each make these requests.
    fn traffic(levels: Levels, blocks: &[&[(u64, Use, bool)]]) -> Traffic {
        let mut waves = Waves::new(levels, l2(levels.l2_bytes), blocks.len() as u64);
        for (n, requests) in blocks.iter().enumerate() {
            let mut trace = Trace::default();
            for (sector, how, bypass) in *requests {
                trace.request(0, &[*sector], *how, *bypass);
            }
            waves.add(n as u64, trace);
        }
        waves.finish().0
    }

    #[test]
    fn l1_belongs_to_an_sm() {
        let read: &[_] = &[(7, Use::Read, false), (7, Use::Read, false)];
        // Two blocks on one SM: one miss. On two: one each, and the second finds it in L2.
        let t = traffic(levels(1, 2, 4096, 1 << 16), &[read, read]);
        assert_eq!((t.l1_hits, t.l2, t.l2_hits, t.dram_read), (3, 1, 0, 1));
        let t = traffic(levels(2, 1, 4096, 1 << 16), &[read, read]);
        assert_eq!((t.l1_hits, t.l2, t.l2_hits, t.dram_read), (2, 2, 1, 1));
    }

    #[test]
    fn who_passes_l1_by() {
        for (how, bypass) in [(Use::Read, true), (Use::Write, false), (Use::Atomic, false)] {
            let t = traffic(
                levels(1, 1, 4096, 1 << 16),
                &[&[(3, how, bypass), (3, how, bypass), (3, Use::Read, false)]],
            );
            let read = u64::from(how != Use::Write);
            assert_eq!((t.l1_hits, t.l2, t.l2_hits), (0, 3, 2));
            assert_eq!(t.dram_read, read);
        }
    }

    #[test]
    fn blocks_of_a_wave_run_side_by_side() {
        // L2 of one set, 16 lines. Two blocks read 10 lines each, twice. Side by side their 20 lines
        // push one another out; one after the other each finds its own again.
        let lines = |from: u64| -> Vec<(u64, Use, bool)> {
            let once = (from..from + 10).map(|l| (4 * l, Use::Read, true));
            once.clone().chain(once).collect()
        };
        let (a, b) = (lines(0), lines(100));
        let together = traffic(levels(2, 1, 2048, 2048), &[&a, &b]);
        assert_eq!((together.l2, together.l2_hits), (40, 0));
        let apart = traffic(levels(1, 1, 2048, 2048), &[&a, &b]);
        assert_eq!((apart.l2, apart.l2_hits), (40, 20));
    }

    #[test]
    fn warps_take_turns_between_barriers() {
        let mut trace = Trace::default();
        trace.request(0, &[1, 2], Use::Read, false);
        trace.request(0, &[3], Use::Read, false);
        trace.request(1, &[4], Use::Write, false);
        trace.merge();
        trace.request(1, &[5], Use::Read, false);
        trace.merge();
        let order: Vec<u64> = trace.all.iter().map(|n| n.sector()).collect();
        assert_eq!(order, [1, 2, 4, 3, 5]);
    }

    #[test]
    fn what_does_not_fit_is_written_back() {
        // 32 lines written into an L2 of 16: the first 16 leave, 4 sectors each.
        let writes: Vec<_> = (0..128).map(|s| (s, Use::Write, false)).collect();
        let t = traffic(levels(1, 1, 2048, 2048), &[&writes]);
        assert_eq!((t.dram_read, t.dram_written), (0, 64));
        assert_eq!(t.dram_bytes(), 64 * 32);
    }
}
