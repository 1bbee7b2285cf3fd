//! 3x3 convolutions: every combination of prologue and residual, and the sizes at which the work is
//! cut differently.

use super::check::check;
use super::program::{Pre, Program, Residue, Step};
use super::rng::{Rng, seed};
use gmmk::ops::conv2d::Algorithm;

/// Norm (none, plain, with scale and shift) and SiLU.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Norm {
    None,
    Plain,
    ScaleShift,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    None,
    Plain,
    Doubled,
    Shortcut,
}

/// A convolution's shape: input [n, h, w, c] (before doubling), k outputs, groups of the norm.
#[derive(Clone, Copy, Debug)]
struct Size {
    input: [usize; 4],
    k: usize,
    groups: usize,
}

#[derive(Clone, Copy, Debug)]
struct Form {
    norm: Norm,
    silu: bool,
    upsample: bool,
    residual: Kind,
}

impl Form {
    const PLAIN: Form = Form {
        norm: Norm::None,
        silu: false,
        upsample: false,
        residual: Kind::None,
    };

    fn random(rng: &mut Rng, size: &Size) -> Self {
        let upsample = rng.between(0, 3) == 0;
        let [_, h, w, _] = size.input;
        let even = upsample || (h % 2 == 0 && w % 2 == 0);
        let kinds = [Kind::None, Kind::Plain, Kind::Shortcut, Kind::Doubled];
        Form {
            norm: rng.pick(&[Norm::None, Norm::Plain, Norm::ScaleShift]),
            silu: rng.between(0, 1) == 0,
            upsample,
            residual: rng.pick(&kinds[..3 + usize::from(even)]),
        }
    }
}

fn convolution(size: Size, form: Form, seed: u64) -> Program {
    let mut p = Program::new(&format!("conv2d {:?} {form:?}", size), seed);
    let [n, h, w, c] = size.input;
    let scale = 1 + usize::from(form.upsample);
    let (height, width) = (scale * h, scale * w);
    let x = p.input(&size.input);
    let [weight, bias] = p.filter(c, size.k);
    let norm = match form.norm {
        Norm::None => None,
        Norm::Plain => Some(p.norm(size.groups, c, None)),
        Norm::ScaleShift => Some(p.norm(size.groups, c, Some(n))),
    };
    let residue = match form.residual {
        Kind::None => Residue::None,
        Kind::Plain => Residue::Plain(p.input(&[n, height, width, size.k])),
        Kind::Doubled => Residue::Doubled(p.input(&[n, height / 2, width / 2, size.k])),
        Kind::Shortcut => {
            let from = p.input(&[n, height, width, c + 1]);
            let [w, b] = p.weights(c + 1, size.k, true);
            Residue::Shortcut { from, w, b }
        }
    };
    let y = p.step(Step::Conv {
        x,
        w: weight,
        b: bias,
        pre: Pre {
            norm,
            silu: form.silu,
        },
        upsample: form.upsample,
        residue,
    });
    p.outputs.push(y);
    p
}

#[test]
fn conv2d_every_combination() {
    let mut number = 0;
    for norm in [Norm::None, Norm::Plain, Norm::ScaleShift] {
        for silu in [false, true] {
            for upsample in [false, true] {
                for residual in [Kind::None, Kind::Plain, Kind::Doubled, Kind::Shortcut] {
                    number += 1;
                    let mut rng = Rng::new(seed(number));
                    let form = Form {
                        norm,
                        silu,
                        upsample,
                        residual,
                    };
                    let groups = rng.between(1, 3);
                    let even = 1 + usize::from(residual == Kind::Doubled && !upsample);
                    // A norm of two or three numbers is nearly constant: its gradient cancels.
                    let input = [
                        rng.between(1, 3),
                        even * rng.between(1, 4),
                        even * rng.between(1, 3),
                        groups * rng.between(4, 5),
                    ];
                    let k = rng.between(1, 5);
                    check(convolution(Size { input, k, groups }, form, seed(number)));
                }
            }
        }
    }
}

/// Pixels and channels one below, at and above the micro-kernels' tiles (12 x 32, 6 x 16, 4 x 8).
#[test]
fn conv2d_around_the_tiles() {
    let pictures = [
        [1, 1],
        [1, 5],
        [2, 3],
        [1, 7],
        [1, 11],
        [3, 4],
        [1, 13],
        [5, 5],
    ];
    let channels = [1, 7, 8, 9, 15, 16, 17, 31, 32, 33];
    for (i, &k) in channels.iter().enumerate() {
        for (j, &[h, w]) in pictures.iter().enumerate().filter(|p| (p.0 + i) % 3 == 0) {
            let number = seed(1000 + (10 * i + j) as u64);
            let mut rng = Rng::new(number);
            let c = channels[(i * 7 + j * 3) % channels.len()];
            let size = Size {
                input: [rng.between(1, 2), h, w, c],
                k,
                groups: 1,
            };
            let mut form = Form::random(&mut rng, &size);
            if h * w * c == 1 {
                // The norm of a single number is constant.
                form.norm = Norm::None;
            }
            check(convolution(size, form, number));
        }
    }
}

/// Several small pictures in one task, the last task with fewer; more than a weight gradient adds up
/// in registers at once.
#[test]
fn conv2d_small_pictures() {
    let inputs = [
        [45, 2, 2, 3],
        [70, 2, 2, 4],
        [9, 5, 5, 3],
        [7, 3, 11, 5],
        [33, 1, 5, 4],
        [150, 1, 1, 6],
        [2, 8, 8, 6],
        [3, 11, 12, 4],
    ];
    for (i, &input) in inputs.iter().enumerate() {
        for turn in 0..2 {
            let number = seed(2000 + 10 * i as u64 + turn);
            let mut rng = Rng::new(number);
            let size = Size {
                input,
                k: rng.between(1, 7),
                groups: 1,
            };
            let mut form = Form::random(&mut rng, &size);
            form.upsample = turn == 1 && input[0] < 60;
            if form.residual == Kind::Doubled {
                form.residual = Kind::Plain;
            }
            check(convolution(size, form, number));
        }
    }
}

/// One picture in several strips, in the forward pass (many inputs) or in the input gradient (many
/// outputs); odd heights and prime widths.
#[test]
fn conv2d_strips() {
    let sizes = [
        ([1, 9, 101, 64], 2),
        ([2, 13, 37, 96], 1),
        ([1, 5, 401, 61], 1),
        ([1, 9, 101, 2], 64),
        ([2, 7, 211, 1], 33),
        ([1, 4, 29, 97], 3),
    ];
    for (i, &(input, k)) in sizes.iter().enumerate() {
        let number = seed(3000 + i as u64);
        let size = Size {
            input,
            k,
            groups: 1,
        };
        let residual = [Kind::Plain, Kind::Shortcut][i % 2];
        let form = Form {
            norm: [Norm::None, Norm::ScaleShift][i / 2 % 2],
            silu: i % 3 == 0,
            upsample: false,
            residual,
        };
        check(convolution(size, form, number));
    }
}

/// Strips of a doubled picture: rows and their copies stay in one task.
#[test]
fn conv2d_doubled_strips() {
    let sizes = [
        ([1, 5, 53, 61], 1),
        ([2, 3, 103, 1], 64),
        ([1, 7, 19, 120], 2),
    ];
    for (i, &(input, k)) in sizes.iter().enumerate() {
        let size = Size {
            input,
            k,
            groups: 1,
        };
        let form = Form {
            norm: [Norm::ScaleShift, Norm::None, Norm::Plain][i],
            silu: i != 1,
            upsample: true,
            residual: Kind::Doubled,
        };
        check(convolution(size, form, seed(4000 + i as u64)));
    }
}

/// Sizes of a real network.
#[test]
fn conv2d_large() {
    let sizes = [
        ([2, 16, 16, 32], 32, 8),
        ([1, 32, 32, 16], 40, 4),
        ([5, 8, 8, 64], 48, 8),
    ];
    for (i, &(input, k, groups)) in sizes.iter().enumerate() {
        let form = Form {
            norm: Norm::ScaleShift,
            silu: true,
            upsample: i == 2,
            residual: [Kind::Shortcut, Kind::Plain, Kind::Doubled][i],
        };
        let size = Size { input, k, groups };
        check(convolution(size, form, seed(5000 + i as u64)));
    }
    let size = Size {
        input: [3, 16, 16, 3],
        k: 32,
        groups: 1,
    };
    check(convolution(size, Form::PLAIN, seed(5100)));
}

/// Channels enough for sums in parts, ends of chunks inside, maps that do not fill their tiles.
#[test]
fn conv2d_wide() {
    let sizes = [
        ([3, 8, 8, 160], 72, Kind::Shortcut),
        ([1, 9, 15, 200], 136, Kind::Plain),
        ([2, 4, 6, 128], 64, Kind::Doubled),
    ];
    for (i, &(input, k, residual)) in sizes.iter().enumerate() {
        let form = Form {
            norm: Norm::ScaleShift,
            silu: true,
            upsample: residual == Kind::Doubled,
            residual,
        };
        let size = Size {
            input,
            k,
            groups: 8,
        };
        check(convolution(size, form, seed(5200 + i as u64)));
    }
}

/// Winograd's algorithm in every form, within the same limits as the direct one.
fn winograd(size: Size, form: Form, seed: u64) {
    let mut program = convolution(size, form, seed);
    program.label = format!("Winograd {}", program.label);
    program.algorithm = Algorithm::Winograd;
    check(program);
}

#[test]
fn winograd_every_combination() {
    let mut number = 0;
    for norm in [Norm::None, Norm::Plain, Norm::ScaleShift] {
        for upsample in [false, true] {
            for residual in [Kind::None, Kind::Plain, Kind::Doubled, Kind::Shortcut] {
                number += 1;
                let mut rng = Rng::new(seed(4000 + number));
                let even = 1 + usize::from(residual == Kind::Doubled && !upsample);
                let input = [
                    rng.between(1, 3),
                    even * rng.between(1, 5),
                    even * rng.between(1, 5),
                    16 * rng.between(1, 3),
                ];
                let form = Form {
                    norm,
                    silu: number % 2 == 0,
                    upsample,
                    residual,
                };
                let size = Size {
                    input,
                    k: 16 * rng.between(1, 3),
                    groups: 4,
                };
                winograd(size, form, seed(4000 + number));
            }
        }
    }
}

/// One tile, several bands and pictures of a task, more than one task, ragged edges.
#[test]
fn winograd_around_the_tiles() {
    let inputs = [
        [1, 1, 1, 16],
        [1, 4, 4, 16],
        [2, 5, 3, 16],
        [3, 8, 8, 16],
        [5, 7, 4, 16],
        [1, 37, 9, 16],
        [2, 9, 26, 16],
        [2, 20, 19, 16],
    ];
    for (i, input) in inputs.into_iter().enumerate() {
        let size = Size {
            input,
            k: 16,
            groups: 4,
        };
        winograd(size, Form::PLAIN, seed(4100 + i as u64));
    }
}

/// Sums over many tiles and channels: tasks, units and chunks of the weight gradient.
#[test]
fn winograd_of_many_tiles() {
    let forms = [
        (Norm::ScaleShift, false, Kind::Shortcut),
        (Norm::None, true, Kind::Doubled),
        (Norm::Plain, false, Kind::Plain),
    ];
    for (i, (norm, upsample, residual)) in forms.into_iter().enumerate() {
        let half = 1 + usize::from(upsample);
        let size = Size {
            input: [3, 42 / half, 26 / half, 32],
            k: 80,
            groups: 8,
        };
        let form = Form {
            norm,
            silu: i == 0,
            upsample,
            residual,
        };
        winograd(size, form, seed(4200 + i as u64));
    }
}
