//! Changes of an input, drawn from a seeded generator.

/// splitmix64.
pub struct Chance(u64);

impl Chance {
    /// The generator of input number `number`.
    pub fn new(seed: u64, number: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A place in something of this length; near its beginning half of the time, where headers are.
    fn place(&mut self, length: usize) -> usize {
        let near = if self.below(2) == 0 { 600 } else { length };
        self.below(length.min(near).max(1))
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Numbers at which something changes.
const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    7,
    63,
    127,
    128,
    255,
    256,
    4096,
    32_767,
    32_768,
    65_535,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    u64::MAX,
];

/// Numbers as text.
const TEXTS: [&str; 22] = [
    "1000004",
    "4294967300",
    "0",
    "1",
    "-1",
    "2",
    "3",
    "1000000",
    "1048577",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "1e999",
    "-0.0",
    "0.5",
    "nan",
    "inf",
    "null",
    "\"\"",
    "[]",
    "{}",
];

/// What some readers descend into.
const DEEP: [&str; 7] = ["[", "{\"a\":", "(", "\"", "\n", "\0", "[[a.b]]\n"];

/// Changes `input` once; `other` is another one, to take pieces from.
pub fn change(input: &mut Vec<u8>, other: &[u8], words: &[&str], chance: &mut Chance) {
    if input.is_empty() {
        input.extend_from_slice(&other[..other.len().min(64)]);
        return;
    }
    let at = chance.place(input.len());
    match chance.below(11) {
        0 => input[at] ^= 1 << chance.below(8),
        1 => input[at] = chance.next() as u8,
        2 => input.truncate(at),
        3 => put_number(input, at, chance),
        4 => drop(input.drain(at..(at + 1 + chance.below(64)).min(input.len()))),
        5 | 6 => change_digits(input, at, chance),
        7 => {
            let piece = input[at..(at + 1 + chance.below(256)).min(input.len())].to_vec();
            let times = 1 << chance.below(8);
            insert(input, at, &piece.repeat(times));
        }
        8 => {
            let from = chance.place(other.len().max(1)).min(other.len());
            let piece = &other[from..(from + 1 + chance.below(256)).min(other.len())];
            insert(input, at, piece);
        }
        9 if !words.is_empty() => {
            let word = chance.pick(words).as_bytes();
            let found = input.windows(word.len()).position(|w| w == word);
            match found {
                // What belongs to a word is changed where the word is.
                Some(place) => change_digits(input, place + word.len(), chance),
                None => insert(input, at, word),
            }
        }
        _ => {
            let deep = chance.pick(&DEEP).as_bytes();
            insert(input, at, &deep.repeat(1 << chance.below(13)));
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

/// Overwrites bytes by a number of 1, 2, 4 or 8 of them, in either order.
fn put_number(input: &mut [u8], at: usize, chance: &mut Chance) {
    let size = (1 << chance.below(4)).min(input.len() - at);
    let number = *chance.pick(&NUMBERS);
    let mut bytes = number.to_le_bytes()[..size].to_vec();
    if chance.below(2) == 0 {
        bytes.reverse();
    }
    input[at..at + size].copy_from_slice(&bytes);
}

/// Another number in the place of the next one that stands as text behind `at`.
fn change_digits(input: &mut Vec<u8>, at: usize, chance: &mut Chance) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let digits = input[start..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .count();
    let text = *chance.pick(&TEXTS);
    input.splice(start..start + digits, text.bytes());
}
