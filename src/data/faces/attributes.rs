//! Which attributes a made-up person has: a latent-factor probit with the marginals of CelebA.

use crate::rng::{Philox, Stream};

/// The attributes by name; `attribute as usize` is its place in
/// [`CELEBA`](crate::data::attributes::CELEBA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the names are those of CelebA and say what they mean"
)]
pub enum Attribute {
    FiveOClockShadow,
    ArchedEyebrows,
    Attractive,
    BagsUnderEyes,
    Bald,
    Bangs,
    BigLips,
    BigNose,
    BlackHair,
    BlondHair,
    Blurry,
    BrownHair,
    BushyEyebrows,
    Chubby,
    DoubleChin,
    Eyeglasses,
    Goatee,
    GrayHair,
    HeavyMakeup,
    HighCheekbones,
    Male,
    MouthSlightlyOpen,
    Mustache,
    NarrowEyes,
    NoBeard,
    OvalFace,
    PaleSkin,
    PointyNose,
    RecedingHairline,
    RosyCheeks,
    Sideburns,
    Smiling,
    StraightHair,
    WavyHair,
    WearingEarrings,
    WearingHat,
    WearingLipstick,
    WearingNecklace,
    WearingNecktie,
    Young,
}

use Attribute::*;

/// How often an attribute occurs in CelebA, the threshold its score must pass for that to come
/// true after the exclusions, and how its score follows the latent factors: gender (male > 0),
/// age (old > 0), smile, glamour, dark hair, wavy, beard, heavy.
struct Law {
    marginal: f64,
    threshold: f64,
    loadings: [f64; FACTORS],
}

const FACTORS: usize = 8;

const fn law(marginal: f64, threshold: f64, loadings: [f64; FACTORS]) -> Law {
    Law {
        marginal,
        threshold,
        loadings,
    }
}

#[rustfmt::skip]
const LAWS: [Law; 40] = [
    //                    male   age smile glamr  dark  wavy beard heavy
    law(0.111,  0.836, [ 0.55,  0.0,  0.0,  0.0,  0.0,  0.0, 0.65,  0.0]), // 5_o_Clock_Shadow
    law(0.267,  0.629, [-0.45,  0.0,  0.0, 0.45,  0.0,  0.0,  0.0,  0.0]), // Arched_Eyebrows
    law(0.513, -0.029, [-0.35,-0.45,  0.0, 0.45,  0.0,  0.0,  0.0,-0.30]), // Attractive
    law(0.205,  0.817, [ 0.40, 0.35,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Bags_Under_Eyes
    law(0.022,  1.912, [ 0.55, 0.45,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Bald
    law(0.152,  0.988, [-0.30,-0.20,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Bangs
    law(0.241,  0.703, [-0.15,  0.0,  0.0, 0.20,  0.0,  0.0,  0.0,  0.0]), // Big_Lips
    law(0.235,  0.718, [ 0.45, 0.25,  0.0,  0.0,  0.0,  0.0,  0.0, 0.35]), // Big_Nose
    law(0.239,  0.566, [ 0.15,-0.10,  0.0,  0.0, 0.85,  0.0,  0.0,  0.0]), // Black_Hair
    law(0.148,  0.880, [-0.35,  0.0,  0.0, 0.15,-0.75,  0.0,  0.0,  0.0]), // Blond_Hair
    law(0.051,  1.632, [  0.0,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Blurry
    law(0.205,  0.596, [-0.20,-0.15,  0.0,  0.0,-0.10,  0.0,  0.0,  0.0]), // Brown_Hair
    law(0.142,  1.070, [ 0.45,  0.0,  0.0,  0.0, 0.25,  0.0,  0.0,  0.0]), // Bushy_Eyebrows
    law(0.058,  1.573, [ 0.30, 0.30,  0.0,  0.0,  0.0,  0.0,  0.0, 0.75]), // Chubby
    law(0.047,  1.675, [ 0.25, 0.50,  0.0,  0.0,  0.0,  0.0,  0.0, 0.70]), // Double_Chin
    law(0.065,  1.518, [ 0.30, 0.45,  0.0,-0.20,  0.0,  0.0,  0.0,  0.0]), // Eyeglasses
    law(0.063,  1.342, [ 0.50,  0.0,  0.0,  0.0,  0.0,  0.0, 0.70,  0.0]), // Goatee
    law(0.042,  1.481, [ 0.30, 0.80,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Gray_Hair
    law(0.387,  0.291, [-0.75,  0.0,  0.0, 0.55,  0.0,  0.0,  0.0,  0.0]), // Heavy_Makeup
    law(0.455,  0.111, [-0.25,  0.0, 0.80, 0.20,  0.0,  0.0,  0.0,  0.0]), // High_Cheekbones
    law(0.417,  0.209, [ 0.97,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Male
    law(0.483,  0.045, [  0.0,  0.0, 0.65,  0.0,  0.0,  0.0,  0.0,  0.0]), // Mouth_Slightly_Open
    law(0.042,  1.583, [ 0.50, 0.15,  0.0,  0.0,  0.0,  0.0, 0.65,  0.0]), // Mustache
    law(0.115,  1.191, [  0.0,  0.0, 0.20,  0.0,  0.0,  0.0,  0.0,  0.0]), // Narrow_Eyes
    law(0.835, -0.761, [-0.60,  0.0,  0.0,  0.0,  0.0,  0.0,-0.75,  0.0]), // No_Beard
    law(0.284,  0.547, [-0.15,  0.0, 0.20, 0.20,  0.0,  0.0,  0.0,-0.30]), // Oval_Face
    law(0.043,  1.714, [-0.15,  0.0,  0.0,  0.0,-0.20,  0.0,  0.0,  0.0]), // Pale_Skin
    law(0.277,  0.599, [-0.25,  0.0,  0.0, 0.25,  0.0,  0.0,  0.0,  0.0]), // Pointy_Nose
    law(0.080,  1.293, [ 0.35, 0.50,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Receding_Hairline
    law(0.066,  1.506, [-0.40,  0.0, 0.25, 0.45,  0.0,  0.0,  0.0,  0.0]), // Rosy_Cheeks
    law(0.057,  1.390, [ 0.50,  0.0,  0.0,  0.0,  0.0,  0.0, 0.65,  0.0]), // Sideburns
    law(0.482,  0.042, [-0.10,  0.0, 0.92,  0.0,  0.0,  0.0,  0.0,  0.0]), // Smiling
    law(0.208,  0.733, [  0.0,  0.0,  0.0,  0.0,  0.0,-0.60,  0.0,  0.0]), // Straight_Hair
    law(0.320,  0.420, [-0.40,  0.0,  0.0, 0.15,  0.0, 0.70,  0.0,  0.0]), // Wavy_Hair
    law(0.189,  0.881, [-0.60,  0.0,  0.0, 0.35,  0.0,  0.0,  0.0,  0.0]), // Wearing_Earrings
    law(0.048,  1.665, [ 0.25,  0.0,  0.0,  0.0,  0.0,  0.0, 0.15,  0.0]), // Wearing_Hat
    law(0.472,  0.074, [-0.85,  0.0,  0.0, 0.40,  0.0,  0.0,  0.0,  0.0]), // Wearing_Lipstick
    law(0.123,  1.161, [-0.45,  0.0,  0.0, 0.25,  0.0,  0.0,  0.0,  0.0]), // Wearing_Necklace
    law(0.073,  1.355, [ 0.60, 0.40,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Wearing_Necktie
    law(0.774, -0.754, [-0.20,-0.92,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0]), // Young
];

/// How often attribute `k` occurs in CelebA, and hence over many draws of [`sample_attributes`].
pub fn marginal(k: usize) -> f64 {
    LAWS[k].marginal
}

/// The attributes, 0 or 1, of picture `index`.
///
/// Score u = Lambda f + residual with unit variance, f ~ N(0, I); attribute k is present if
/// u_k passes its threshold, and no attribute that excludes it in plain sense is. Blocks of
/// `Philox(seed, Faces, index)`: 0 and 1 the factors, 2 to 11 the residuals.
pub fn sample_attributes(seed: u64, index: u64) -> [u8; 40] {
    let (_, scores) = scores(seed, index);
    let margins = std::array::from_fn(|k| scores[k] - LAWS[k].threshold);
    reconcile(&margins)
}

/// Row k of Lambda: how the score of attribute k follows gender (male > 0), age (old > 0), smile,
/// glamour, dark hair, wavy, beard, heavy. What the squares leave of 1 is the residual's variance.
pub fn loadings(k: usize) -> [f64; FACTORS] {
    LAWS[k].loadings
}

/// The factors f and the scores u = Lambda f + residual of picture `index`.
pub fn scores(seed: u64, index: u64) -> ([f64; FACTORS], [f64; 40]) {
    let philox = Philox::new(seed, Stream::Faces, index);
    let factors = [philox.normals4(0), philox.normals4(1)];
    let residuals: [_; 10] = std::array::from_fn(|block| philox.normals4(2 + block as u32));
    let mut scores = [0.0; 40];
    for (k, score) in scores.iter_mut().enumerate() {
        let mut rest = 1.0;
        for (factor, loading) in factors.as_flattened().iter().zip(LAWS[k].loadings) {
            *score += loading * factor;
            rest -= loading * loading;
        }
        *score += rest.max(0.0).sqrt() * residuals[k / 4][k % 4];
    }
    (std::array::from_fn(|i| factors[i / 4][i % 4]), scores)
}

/// Attributes with a positive margin, less those that others exclude in plain sense.
fn reconcile(margins: &[f64; 40]) -> [u8; 40] {
    let mut face = margins.map(|m| u8::from(m > 0.0));
    let excludes = |face: &mut [u8; 40], excluded: &[Attribute]| {
        for &k in excluded {
            face[k as usize] = 0;
        }
    };
    if face[Male as usize] == 0 {
        face[NoBeard as usize] = 1;
        excludes(&mut face, &[Bald, WearingNecktie]);
    }
    if face[NoBeard as usize] == 1 {
        excludes(&mut face, &[FiveOClockShadow, Goatee, Mustache, Sideburns]);
    }
    if face[WearingHat as usize] == 1 {
        excludes(&mut face, &[Bald, Bangs, RecedingHairline]);
    }
    if face[Bald as usize] == 1 {
        excludes(
            &mut face,
            &[Bangs, RecedingHairline, StraightHair, WavyHair],
        );
        excludes(&mut face, &[BlackHair, BlondHair, BrownHair, GrayHair]);
    }
    if face[Chubby as usize] == 1 {
        excludes(&mut face, &[OvalFace]);
    }
    clearest(
        &mut face,
        margins,
        &[BlackHair, BlondHair, BrownHair, GrayHair],
    );
    clearest(&mut face, margins, &[StraightHair, WavyHair]);
    clearest(&mut face, margins, &[Bangs, RecedingHairline]);
    face
}

/// Of `rivals` keeps only the one with the largest margin.
fn clearest(face: &mut [u8; 40], margins: &[f64; 40], rivals: &[Attribute]) {
    let largest = rivals
        .iter()
        .map(|&k| margins[k as usize])
        .fold(f64::NEG_INFINITY, f64::max);
    for &k in rivals {
        if margins[k as usize] < largest {
            face[k as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::attributes::CELEBA;

    #[test]
    #[rustfmt::skip]
    fn names_follow_the_file() {
        let all = [
            FiveOClockShadow, ArchedEyebrows, Attractive, BagsUnderEyes, Bald, Bangs, BigLips,
            BigNose, BlackHair, BlondHair, Blurry, BrownHair, BushyEyebrows, Chubby, DoubleChin,
            Eyeglasses, Goatee, GrayHair, HeavyMakeup, HighCheekbones, Male, MouthSlightlyOpen,
            Mustache, NarrowEyes, NoBeard, OvalFace, PaleSkin, PointyNose, RecedingHairline,
            RosyCheeks, Sideburns, Smiling, StraightHair, WavyHair, WearingEarrings, WearingHat,
            WearingLipstick, WearingNecklace, WearingNecktie, Young,
        ];
        for (k, (attribute, name)) in all.into_iter().zip(CELEBA).enumerate() {
            let name = name.replace('_', "").replace("5o", "FiveO");
            assert_eq!((attribute as usize, format!("{attribute:?}")), (k, name));
        }
    }

    #[test]
    fn rows_have_unit_variance() {
        for (law, name) in LAWS.iter().zip(CELEBA) {
            let explained: f64 = law.loadings.iter().map(|x| x * x).sum();
            assert!(explained <= 1.0, "{name}: {explained}");
        }
    }

    /// Prints thresholds that give the marginals after the exclusions: run it after a change of
    /// loadings or rules, and copy them into the table.
    #[test]
    #[ignore = "a tool: prints the thresholds"]
    fn thresholds() {
        const N: u64 = 100_000;
        let all: Vec<[f64; 40]> = (0..N).map(|index| scores(1234, index).1).collect();
        let mut thresholds: [f64; 40] = std::array::from_fn(|k| LAWS[k].threshold);
        for _ in 0..60 {
            let mut counts = [0.0; 40];
            for u in &all {
                let face = reconcile(&std::array::from_fn(|k| u[k] - thresholds[k]));
                for (count, present) in counts.iter_mut().zip(face) {
                    *count += f64::from(present) / N as f64;
                }
            }
            for k in 0..40 {
                let m = LAWS[k].marginal;
                let step = (counts[k] - m) / (m * (1.0 - m)).powf(0.8);
                thresholds[k] += 0.5 * step.clamp(-1.0, 1.0);
            }
        }
        for k in 0..40 {
            println!("{:>20} {:.3}", CELEBA[k], thresholds[k]);
        }
    }
}
