//! Pixels of known shapes; data of any kind.

use super::*;

const SIZE: [u32; 2] = [400, 300];

fn panel(shape: Shape) -> Panel {
    Panel {
        x_range: Some([0.0, 10.0]),
        y_range: Some([0.0, 10.0]),
        marks: vec![Mark {
            name: "it".into(),
            colour: 0,
            shape,
        }],
        ..Panel::default()
    }
}

fn drawn(panel: Panel) -> Picture {
    Figure::single(panel, SIZE).render().unwrap()
}

/// Places of the pixels that have exactly the palette's colour: (x, y) of each.
fn places(picture: &Picture, index: usize) -> Vec<[usize; 2]> {
    let all = (0..picture.height()).flat_map(|y| (0..picture.width()).map(move |x| [x, y]));
    all.filter(|&[x, y]| picture.pixel(x, y) == Some(colour(index)))
        .collect()
}

/// [left, right, top, bottom] of some places.
fn bounds(places: &[[usize; 2]]) -> [usize; 4] {
    let [xs, ys] = [0, 1].map(|i| places.iter().map(move |p| p[i]));
    let ends = |v: &mut dyn Iterator<Item = usize>| {
        v.fold((usize::MAX, 0), |(l, h), x| (l.min(x), h.max(x)))
    };
    let ((left, right), (top, bottom)) = (ends(&mut { xs }), ends(&mut { ys }));
    [left, right, top, bottom]
}

/// Bounds of the plotting area, found from lines along its border.
fn area() -> [usize; 4] {
    let frame = vec![
        [0.0, 0.0],
        [10.0, 0.0],
        [10.0, 10.0],
        [0.0, 10.0],
        [0.0, 0.0],
    ];
    bounds(&places(&drawn(panel(Shape::Line(frame))), 0))
}

#[test]
fn a_bar_fills_its_rectangle() {
    let [left, right, top, bottom] = area();
    let (w, h) = ((right - left) as f64, (bottom - top) as f64);
    let points = vec![[5.0, 5.0]];
    let bar = places(&drawn(panel(Shape::Bars { points, width: 4.0 })), 0);
    let found = bounds(&bar);
    let expected = [
        left as f64 + 0.3 * w,
        left as f64 + 0.7 * w,
        top as f64 + 0.5 * h,
        bottom as f64,
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (*found as f64 - expected).abs() <= 2.0,
            "{found} {expected}"
        );
    }
    let full = (found[1] - found[0] + 1) * (found[3] - found[2] + 1);
    assert_eq!(bar.len(), full, "no holes");
}

#[test]
fn a_disc_has_its_place_and_size() {
    let [left, right, top, bottom] = area();
    let points = vec![[2.5, 7.5], [f64::NAN, 1.0], [20.0, 5.0]];
    let disc = places(&drawn(panel(Shape::Points { points, radius: 8 })), 0);
    let [l, r, t, b] = bounds(&disc);
    let centre = [(l + r) as f64 / 2.0, (t + b) as f64 / 2.0];
    let expected = [
        left as f64 + 0.25 * (right - left) as f64,
        top as f64 + 0.25 * (bottom - top) as f64,
    ];
    for (found, expected) in centre.iter().zip(expected) {
        assert!((found - expected).abs() <= 1.5, "{found} {expected}");
    }
    let ideal = std::f64::consts::PI * 64.0;
    assert!(
        (disc.len() as f64 / ideal - 1.0).abs() < 0.2,
        "{}",
        disc.len()
    );
}

#[test]
fn gaps_interrupt_lines_and_the_border_cuts_them() {
    let [left, right, top, _] = area();
    let whole = vec![[0.0, 5.0], [10.0, 5.0]];
    let gap = vec![
        [0.0, 5.0],
        [4.0, 5.0],
        [5.0, f64::NAN],
        [6.0, 5.0],
        [10.0, 5.0],
    ];
    let row = |points| {
        let found = places(&drawn(panel(Shape::Line(points))), 0);
        let columns: std::collections::BTreeSet<usize> = found.iter().map(|p| p[0]).collect();
        columns.len() as f64
    };
    let (full, cut) = (row(whole), row(gap));
    assert!((full - (right - left) as f64).abs() < 5.0);
    assert!((cut / full - 0.8).abs() < 0.03, "{cut} {full}");
    let steep = places(&drawn(panel(Shape::Line(vec![[5.0, 0.0], [5.0, 1e9]]))), 0);
    assert!(bounds(&steep)[2] >= top);
    let dashed = places(
        &drawn(panel(Shape::Dashed(vec![[0.0, 5.0], [10.0, 5.0]]))),
        0,
    );
    let solid = places(&drawn(panel(Shape::Line(vec![[0.0, 5.0], [10.0, 5.0]]))), 0);
    let share = dashed.len() as f64 / solid.len() as f64;
    assert!((0.4..0.8).contains(&share), "{share}");
}

#[test]
fn bands_are_translucent_and_levels_span_the_panel() {
    let [left, right, top, bottom] = area();
    let picture = drawn(panel(Shape::Band(vec![[0.0, 2.0, 8.0], [10.0, 2.0, 8.0]])));
    let at = |share: f64| {
        let y = bottom - (share * (bottom - top) as f64) as usize;
        // Away from grid lines.
        picture.pixel(left + (right - left) * 33 / 100, y)
    };
    let tint = colour(0).map(|v| (255.0 - 0.25 * (255.0 - f64::from(v))).round());
    for (found, expected) in at(0.55).unwrap().iter().zip(tint) {
        assert!(
            (f64::from(*found) - expected).abs() < 3.0,
            "{:?} {tint:?}",
            at(0.55)
        );
    }
    assert_eq!((at(0.95), at(0.1)), (Some([255; 3]), Some([255; 3])));
    let level = bounds(&places(&drawn(panel(Shape::Level(5.0))), 0));
    assert!(level[0] <= left + 1 && level[1] + 1 >= right, "{level:?}");
    let vertical = bounds(&places(&drawn(panel(Shape::Vertical(5.0))), 0));
    assert!(
        vertical[2] <= top + 1 && vertical[3] + 1 >= bottom,
        "{vertical:?}"
    );
}

#[test]
fn any_data_can_be_drawn() {
    let nan = f64::NAN;
    for points in [
        vec![],
        vec![[0.0, 1.0]],
        vec![[5.0, 5.0], [5.0, 5.0]],
        vec![[0.0, nan], [1.0, f64::INFINITY], [nan, 1.0]],
        vec![[0.0, -1.0], [1.0, 0.0], [2.0, 1e-300]],
        vec![[0.0, 1e300], [1.0, -1e300]],
        vec![[1e15, 1e-320], [1e15 + 1.0, 1e308]],
        vec![[0.0, f64::MAX], [1.0, f64::MIN]],
        vec![[1e-20, 1e-20], [2e-20, 3e-20]],
    ] {
        let band = points.iter().map(|&[x, y]| [x, y, y]).collect();
        for shape in [
            Shape::Line(points.clone()),
            Shape::Dashed(points.clone()),
            Shape::Bars {
                points: points.clone(),
                width: 1.0,
            },
            Shape::Band(band),
            Shape::Points { points, radius: 3 },
            Shape::Level(nan),
            Shape::Vertical(f64::INFINITY),
        ] {
            for log in [0, 1, 2, 3] {
                let mut any = panel(shape.clone());
                (any.log_x, any.log_y) = (log & 1 == 1, log & 2 == 2);
                (any.x_range, any.y_range, any.legend) = (None, None, true);
                Figure::single(any, [240, 180]).render().unwrap();
            }
        }
    }
    assert!(Figure::default().render().is_err());
    assert!(Figure::single(Panel::default(), [10, 10]).render().is_err());
    assert!(
        Figure::single(Panel::default(), [u32::MAX; 2])
            .render()
            .is_err()
    );
}

#[test]
fn the_legend_covers_no_data() {
    // A line along every border but one: only one side is free, then none.
    let mut line = vec![[0.5, 9.5], [9.5, 9.5], [9.5, 0.5]];
    let count = |line: &[[f64; 2]], legend| {
        let mut named = panel(Shape::Line(line.to_vec()));
        named.legend = legend;
        named.marks[0].name = "a name of some length".into();
        places(&drawn(named), 0).len()
    };
    // The legend's own sample has ink too.
    assert!(count(&line, true) > count(&line, false));
    line = (0..2000)
        .map(|i| [f64::from(i) / 200.0, f64::from(i % 2) * 10.0])
        .collect();
    let mut full = panel(Shape::Line(line));
    full.legend = true;
    let with = bounds(&places(&drawn(full.clone()), 0));
    full.legend = false;
    let without = bounds(&places(&drawn(full), 0));
    assert_eq!(with[3], without[3]);
    assert!(
        with[2] <= without[2] + 12,
        "the legend stands above: {with:?} {without:?}"
    );
}

#[test]
fn averages_skip_gaps_and_shrink_at_the_ends() {
    let points = [[0.0, 1.0], [1.0, f64::NAN], [2.0, 3.0], [3.0, 8.0]];
    let mean = moving_average(&points, 1);
    assert_eq!(
        (mean[0], mean[2], mean[3]),
        ([0.0, 1.0], [2.0, 5.5], [3.0, 5.5])
    );
    assert!(mean[1][1].is_nan());
}

/// A figure to look at: `GMMK_LOOK=DIR cargo test look_at`.
#[test]
fn look_at_figures() {
    let Some(dir) = std::env::var_os("GMMK_LOOK").map(std::path::PathBuf::from) else {
        return;
    };
    let noisy = |scale: f64, seed: u64| -> Vec<[f64; 2]> {
        (1..=600_u64)
            .map(|i| {
                let noise = ((i * 7919 + seed * 31) * 2_654_435_761 % 1000) as f64 / 1000.0;
                let x = i as f64 * 200.0;
                [
                    x,
                    scale * (0.9 * (-x / 9000.0).exp() + 0.03) * (0.7 + 0.6 * noise),
                ]
            })
            .collect()
    };
    let curve = |log_y| Panel {
        title: "Training loss".into(),
        x_label: "images".into(),
        y_label: "mean squared error".into(),
        log_y,
        legend: true,
        marks: vec![
            Mark::line("", pale(0), noisy(1.0, 1)),
            Mark::line("training", 0, moving_average(&noisy(1.0, 1), 15)),
            Mark::line(
                "held out (averaged weights)",
                1,
                noisy(1.5, 5).into_iter().step_by(40).collect(),
            ),
        ],
        ..Panel::default()
    };
    let wave = |phase: f64| -> Vec<[f64; 2]> {
        (0..=200)
            .map(|i| f64::from(i) / 100.0 - 1.0)
            .map(|x| [x, (6.0 * x + phase).sin()])
            .collect()
    };
    let mark = |name: &str, colour, shape| Mark {
        name: name.into(),
        colour,
        shape,
    };
    let shapes = Panel {
        title: "Shapes: σ = 0.2, π ≥ 0".into(),
        x_label: "x (standard deviations)".into(),
        y_label: "density".into(),
        legend: true,
        marks: vec![
            mark(
                "band",
                2,
                Shape::Band(
                    wave(0.0)
                        .into_iter()
                        .map(|[x, y]| [x, y - 0.2, y + 0.2])
                        .collect(),
                ),
            ),
            Mark::line("line", 2, wave(0.0)),
            mark("dashed", 3, Shape::Dashed(wave(1.0))),
            mark(
                "points",
                4,
                Shape::Points {
                    points: wave(2.0).into_iter().step_by(10).collect(),
                    radius: 4,
                },
            ),
            mark("level", 6, Shape::Level(-0.5)),
            mark("", 7, Shape::Vertical(0.0)),
        ],
        ..Panel::default()
    };
    let bars = Panel {
        title: "Bars".into(),
        y_label: "defects (%)".into(),
        categories: [
            "none",
            "four classes",
            "four overlapping features",
            "sixteen classes",
        ]
        .map(String::from)
        .to_vec(),
        legend: true,
        marks: vec![
            mark(
                "fixed Z",
                0,
                Shape::Bars {
                    points: (0..4)
                        .map(|i| [f64::from(i) - 0.2, 47.0 - 9.0 * f64::from(i)])
                        .collect(),
                    width: 0.36,
                },
            ),
            mark(
                "fresh Z",
                1,
                Shape::Bars {
                    points: (0..4)
                        .map(|i| [f64::from(i) + 0.2, 42.0 - 9.0 * f64::from(i)])
                        .collect(),
                    width: 0.36,
                },
            ),
        ],
        ..Panel::default()
    };
    let figure = Figure {
        title: "A figure of four panels".into(),
        caption: "What is seen, in plain words, and whether the claim holds: this caption is long enough to be wrapped onto a second line below the panels, where it explains itself.".into(),
        columns: 2,
        panel_size: [520, 340],
        panels: vec![curve(false), curve(true), shapes, bars],
    };
    figure
        .render()
        .unwrap()
        .save_png(&dir.join("figure.png"))
        .unwrap();
}
