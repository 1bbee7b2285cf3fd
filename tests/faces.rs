//! Procedural faces: the law of the attributes and what the pictures show.

use gmmk::data::attributes::CELEBA;
use gmmk::data::faces::Attribute::{self, *};
use gmmk::data::faces::{marginal, render, sample_attributes};
use proptest::prelude::*;

const SEED: u64 = 42;

/// A young person without beard, and these attributes.
fn person(attributes: &[Attribute]) -> [u8; 40] {
    let mut face = [0; 40];
    for &a in [NoBeard, Young].iter().chain(attributes) {
        face[a as usize] = 1;
    }
    face
}

fn without(mut face: [u8; 40], attribute: Attribute) -> [u8; 40] {
    face[attribute as usize] = 0;
    face
}

/// Mean absolute difference of two pictures inside a box given in hundredths of the side.
fn difference(a: &[u8], b: &[u8], size: usize, [left, top, right, bottom]: [usize; 4]) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for y in top * size / 100..bottom * size / 100 {
        for x in left * size / 100..right * size / 100 {
            for i in (y * size + x) * 3..(y * size + x) * 3 + 3 {
                sum += f64::from(a[i].abs_diff(b[i]));
                n += 1.0;
            }
        }
    }
    sum / n
}

#[test]
fn attributes_are_as_common_as_in_celeba() {
    const N: u64 = 20_000;
    let mut counts = [0.0; 40];
    for index in 0..N {
        for (count, a) in counts.iter_mut().zip(sample_attributes(SEED, index)) {
            *count += f64::from(a) / N as f64;
        }
    }
    for (k, count) in counts.iter().enumerate() {
        let want = marginal(k);
        let name = CELEBA[k];
        assert!(
            (count - want).abs() < 0.012,
            "{name}: {count:.3}, not {want}"
        );
    }
}

#[test]
fn signs_are_those_of_the_photographs() {
    let all: Vec<_> = (0..20_000).map(|i| sample_attributes(SEED, i)).collect();
    let mean = |a: Attribute| all.iter().map(|f| f64::from(f[a as usize])).sum::<f64>() / 20_000.0;
    let both = |a: Attribute, b: Attribute| {
        let joint = all
            .iter()
            .map(|f| f64::from(f[a as usize] * f[b as usize]))
            .sum::<f64>();
        joint / 20_000.0 - mean(a) * mean(b)
    };
    let together = [
        (Male, Goatee),
        (Male, FiveOClockShadow),
        (Male, WearingNecktie),
        (Smiling, HighCheekbones),
        (Smiling, MouthSlightlyOpen),
    ];
    let apart = [
        (Male, HeavyMakeup),
        (Male, WearingLipstick),
        (Male, WearingEarrings),
        (Male, WavyHair),
        (Young, GrayHair),
        (Young, Bald),
        (Young, DoubleChin),
        (BlackHair, BlondHair),
    ];
    for (a, b) in together {
        assert!(both(a, b) > 0.01, "{a:?} {b:?}");
    }
    for (a, b) in apart {
        assert!(both(a, b) < -0.005, "{a:?} {b:?}");
    }
}

#[test]
fn nobody_contradicts_himself() {
    let hair = [BlackHair, BlondHair, BrownHair, GrayHair];
    for index in 0..20_000 {
        let face = sample_attributes(SEED, index);
        let has = |a: Attribute| face[a as usize] == 1;
        let count = |group: &[Attribute]| group.iter().filter(|&&a| has(a)).count();
        let bearded = count(&[FiveOClockShadow, Goatee, Mustache, Sideburns]);
        assert!(!has(NoBeard) || bearded == 0, "{index}: beard");
        assert!(has(Male) || (has(NoBeard) && !has(Bald)), "{index}: woman");
        assert!(count(&hair) <= 1, "{index}: hair colours");
        assert!(count(&[StraightHair, WavyHair]) <= 1, "{index}: texture");
        let grown = count(&hair) + count(&[StraightHair, WavyHair, Bangs]);
        assert!(!has(Bald) || grown == 0, "{index}: bald");
        let top = count(&[Bald, Bangs, RecedingHairline]);
        assert!(!has(WearingHat) || top == 0, "{index}: hat");
        assert!(top <= 1, "{index}: forehead");
    }
}

#[test]
fn same_arguments_same_picture() {
    for index in 0..8 {
        let face = sample_attributes(SEED, index);
        assert_eq!(face, sample_attributes(SEED, index));
        assert_eq!(
            render(SEED, index, &face, 48),
            render(SEED, index, &face, 48)
        );
    }
    assert_ne!(sample_attributes(1, 0), sample_attributes(2, 0));
}

#[test]
fn sizes() {
    let face = sample_attributes(SEED, 3);
    for size in [1, 2, 3, 7, 16, 24, 25, 32, 41, 64, 100, 161, 256, 300] {
        assert_eq!(
            render(SEED, 3, &face, size).len(),
            (size * size * 3) as usize
        );
    }
    assert!(render(SEED, 3, &face, 0).is_empty());
}

/// The same picture at two sizes.
#[test]
fn small_pictures_are_the_large_ones_shrunk() {
    for index in 0..8 {
        let face = without(sample_attributes(SEED, index), Blurry);
        let (small, large) = (
            render(SEED, index, &face, 32),
            render(SEED, index, &face, 64),
        );
        let halved: Vec<u8> = (0..32 * 32 * 3)
            .map(|i| {
                let (y, x, c) = (i / 96, i / 3 % 32, i % 3);
                let at = |dy: usize, dx: usize| {
                    u32::from(large[((2 * y + dy) * 64 + 2 * x + dx) * 3 + c])
                };
                ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4) as u8
            })
            .collect();
        assert!(
            difference(&small, &halved, 32, [0, 0, 100, 100]) < 3.0,
            "{index}"
        );
    }
}

#[test]
fn people_differ() {
    let face = person(&[BrownHair, Smiling]);
    let pictures: Vec<_> = (0..12)
        .map(|index| render(SEED, index, &face, 32))
        .collect();
    for (i, a) in pictures.iter().enumerate() {
        for b in &pictures[..i] {
            assert!(difference(a, b, 32, [0, 0, 100, 100]) > 8.0);
        }
    }
}

/// Attribute, others it is shown with, the box where it shows, how much it changes it at least.
type Sight = (Attribute, &'static [Attribute], [usize; 4], f64);

const EYES: [usize; 4] = [22, 32, 78, 56];
const MOUTH: [usize; 4] = [34, 58, 66, 82];
const CHIN: [usize; 4] = [30, 62, 70, 90];
const TOP: [usize; 4] = [20, 0, 80, 34];
const SIDES: [usize; 4] = [8, 30, 92, 100];
const LOW: [usize; 4] = [30, 84, 70, 100];
const ALL: [usize; 4] = [0, 0, 100, 100];

const SIGHTS: [Sight; 38] = [
    (FiveOClockShadow, &[Male], CHIN, 6.0),
    (ArchedEyebrows, &[BlackHair], EYES, 1.5),
    (Attractive, &[], ALL, 2.0),
    (BagsUnderEyes, &[], EYES, 2.0),
    (Bald, &[Male, BlackHair], TOP, 20.0),
    (Bangs, &[BlackHair], TOP, 8.0),
    (BigLips, &[], MOUTH, 1.5),
    (BigNose, &[], [36, 42, 64, 68], 2.0),
    (BlackHair, &[], TOP, 12.0),
    (BlondHair, &[], TOP, 12.0),
    (Blurry, &[Eyeglasses], ALL, 2.5),
    (BrownHair, &[], TOP, 6.0),
    (BushyEyebrows, &[BlackHair], EYES, 4.0),
    (Chubby, &[], ALL, 1.5),
    (DoubleChin, &[], CHIN, 1.5),
    (Eyeglasses, &[], EYES, 10.0),
    (Goatee, &[Male, BlackHair], CHIN, 8.0),
    (GrayHair, &[], TOP, 12.0),
    (HeavyMakeup, &[], EYES, 5.0),
    (HighCheekbones, &[], [22, 45, 78, 75], 1.5),
    (Male, &[], SIDES, 6.0),
    (MouthSlightlyOpen, &[], MOUTH, 4.0),
    (Mustache, &[Male, BlackHair], MOUTH, 6.0),
    (NarrowEyes, &[], EYES, 2.5),
    (OvalFace, &[], ALL, 1.0),
    (PaleSkin, &[], MOUTH, 8.0),
    (PointyNose, &[], [36, 42, 64, 68], 1.0),
    (RecedingHairline, &[Male, BlackHair], TOP, 5.0),
    (RosyCheeks, &[], [22, 45, 78, 75], 4.0),
    (Sideburns, &[Male, BlackHair], [18, 38, 82, 75], 2.5),
    (Smiling, &[], MOUTH, 4.0),
    (StraightHair, &[BlackHair], SIDES, 5.0),
    (WavyHair, &[BlackHair], SIDES, 6.0),
    (WearingEarrings, &[BlackHair], [10, 45, 90, 80], 2.0),
    (WearingHat, &[BlackHair], TOP, 20.0),
    (WearingLipstick, &[], MOUTH, 3.0),
    (WearingNecklace, &[], LOW, 6.0),
    (WearingNecktie, &[Male], LOW, 15.0),
];

/// Every attribute shows at 32 x 32 where one looks for it, whoever the person is.
#[test]
fn attributes_can_be_seen() {
    let mut faults = Vec::new();
    for (attribute, others, region, least) in SIGHTS {
        let on = person(&[others, &[attribute]].concat());
        let shown = (0..12).map(|index| {
            let with = render(SEED, index, &on, 32);
            difference(
                &with,
                &render(SEED, index, &without(on, attribute), 32),
                32,
                region,
            )
        });
        let mean = shown.sum::<f64>() / 12.0;
        if mean < least {
            faults.push(format!("{attribute:?} {mean:.1} < {least}"));
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn age_and_beard_can_be_seen() {
    for (attribute, region, least) in [(Young, ALL, 2.0), (NoBeard, CHIN, 15.0)] {
        let on = person(&[Male, BlackHair]);
        for index in 0..6 {
            let with = render(SEED, index, &on, 32);
            let off = render(SEED, index, &without(on, attribute), 32);
            let seen = difference(&with, &off, 32, region);
            assert!(seen > least, "{attribute:?} of {index}: {seen:.1}");
        }
    }
}

proptest! {
    #[test]
    fn anybody_can_be_drawn(bits in 0_u64..1 << 40, seed: u64, index: u64, size in 1_u32..48) {
        let face = std::array::from_fn(|k| (bits >> k & 1) as u8);
        let picture = render(seed, index, &face, size);
        prop_assert_eq!(picture.len(), (size * size * 3) as usize);
    }
}
