//! Every reader of bytes that come from elsewhere, given damaged and hostile ones: it may refuse them, but
//! not panic, not run on, and not take more memory than the input's size explains.
//!
//! Inputs are made from good files by a seeded generator: the same ones every time. Where a checksum guards
//! a file it is put right again, so that what lies behind it is reached; an input whose answer is a new one
//! is kept and changed further. `cargo test --test fuzz` tries a number of inputs for each reader;
//! `GMMK_FUZZ_SECONDS=600 cargo test --test fuzz -- --nocapture` goes on as long as that for each, and
//! `GMMK_FUZZ_SEED=2` takes other inputs (docs/robustness.md).
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod change;
mod data;
#[path = "../common/folder.rs"]
mod folder;
mod formats;
mod good;
mod measure;
mod models;
mod outside;
mod stranger;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use change::Chance;
use measure::{Busy, Watchdog};

/// Processor time that an input may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Inputs that are kept for their answers.
const MOST_KEPT: usize = 400;

/// Reads an input and says what came of it.
type Read<'a> = Box<dyn FnMut(&[u8]) -> String + 'a>;

/// One reader of one kind of file.
struct Reader<'a> {
    name: &'static str,
    /// Good files.
    seeds: Vec<Vec<u8>>,
    /// Words that the format knows.
    words: &'a [&'a str],
    /// Changes an input once.
    change: fn(&mut Vec<u8>, &[u8], &[&str], &mut Chance),
    /// Puts checksums and lengths right.
    seal: fn(&mut Vec<u8>),
    /// Reads an input and says what came of it.
    read: Read<'a>,
    /// Bytes of memory that it may take: so many, and so many for every byte of the input.
    memory: [usize; 2],
    /// Inputs that a test tries.
    inputs: u64,
}

/// What was seen while a reader was tried.
#[derive(Default)]
struct Seen {
    inputs: u64,
    answers: HashSet<String>,
    most_memory: usize,
    longest: Duration,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// An answer without what differs from input to input.
fn shape(answer: &str) -> String {
    let words = answer.split(' ').filter(|word| !word.contains('/'));
    let letters =
        |word: &str| -> String { word.chars().filter(char::is_ascii_alphabetic).collect() };
    words.map(letters).take(20).collect::<Vec<_>>().join(" ")
}

/// Tries a reader; fails at the first input that it does not stand, and leaves that input in a file.
fn fuzz(mut reader: Reader<'_>) {
    let seed = number("GMMK_FUZZ_SEED").unwrap_or(1);
    let end = number("GMMK_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let mut kept = reader.seeds.clone();
    let mut seen = Seen::default();
    let watchdog = Watchdog::new(reader.name, LONGEST);
    let enough = reader.inputs;
    let go_on = |inputs: u64| match end {
        Some(end) => Instant::now() < end,
        None => inputs < enough,
    };
    let started = Instant::now();
    let busy = Busy::now();
    while go_on(seen.inputs) {
        let input = input(
            &reader,
            &kept,
            &mut Chance::new(seed, seen.inputs),
            seen.inputs,
        );
        if let Err(problem) = watchdog.watch(&input, || try_input(&mut reader, &input, &mut seen)) {
            let name = format!("fuzz-{}-{seed}-{}", reader.name, seen.inputs);
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::write(&path, &input).unwrap();
            panic!(
                "{}: {problem}; the input is {}",
                reader.name,
                path.display()
            );
        }
        if kept.len() < MOST_KEPT && kept.len() < reader.seeds.len() + seen.answers.len() {
            kept.push(input);
        }
        seen.inputs += 1;
    }
    println!(
        "{}: {} inputs in {:.0} s ({:.0} s of a processor), {} answers, most memory {} KiB, longest {:.0} ms",
        reader.name,
        seen.inputs,
        started.elapsed().as_secs_f64(),
        busy.elapsed().as_secs_f64(),
        seen.answers.len(),
        seen.most_memory >> 10,
        seen.longest.as_secs_f64() * 1000.0
    );
}

/// Input number `number`: first the good files themselves, then changed ones.
fn input(reader: &Reader<'_>, kept: &[Vec<u8>], chance: &mut Chance, number: u64) -> Vec<u8> {
    if let Some(seed) = reader.seeds.get(number as usize) {
        return seed.clone();
    }
    let other = &kept[chance.below(kept.len())];
    let from = [&reader.seeds[..], kept][chance.below(2)];
    let mut input = from[chance.below(from.len())].clone();
    let most = 1 + chance.below(4);
    for _ in 0..=chance.below(most) {
        (reader.change)(&mut input, other, reader.words, chance);
    }
    // One in eight meets the checksum itself.
    if chance.below(8) > 0 {
        (reader.seal)(&mut input);
    }
    input
}

/// Reads one input and checks what that took.
fn try_input(reader: &mut Reader<'_>, input: &[u8], seen: &mut Seen) -> Result<(), String> {
    let (busy, memory) = (Busy::now(), measure::Memory::now());
    let answer = catch_unwind(AssertUnwindSafe(|| (reader.read)(input)));
    let (busy, most) = (busy.elapsed(), memory.most());
    let answer = answer.map_err(|_| "it panicked".to_owned())?;
    let [base, factor] = reader.memory;
    let bound = base + factor * input.len();
    if most > bound {
        let length = input.len();
        return Err(format!(
            "{most} bytes of memory for {length} of input, more than {bound}: {answer}"
        ));
    }
    if busy > LONGEST {
        return Err(format!("{busy:?} of a processor: {answer}"));
    }
    seen.answers.insert(shape(&answer));
    seen.most_memory = seen.most_memory.max(most);
    seen.longest = seen.longest.max(busy);
    Ok(())
}
