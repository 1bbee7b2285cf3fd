//! A line chart as inline SVG, with its numbers beside it for read-outs.

use super::escape;
use crate::report::figure::axis::Axis;
use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 412.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 204.0;
/// Points of a drawn line; of more the least and the greatest of every stretch stay.
const POINTS: usize = 400;

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Class of its colour in the page's style: `c0` to `c4`, or `raw` for a pale one behind.
    pub class: &'static str,
    /// Points (x, y); a y that is not finite interrupts the line.
    pub points: Vec<[f64; 2]>,
}

/// A chart. The horizontal axis is whatever the series share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// What the numbers are, in a few words.
    pub note: String,
    /// Name of the horizontal axis.
    pub x_label: String,
    /// Ends of the horizontal axis; `None`: from the data.
    pub x_range: Option<[f64; 2]>,
    /// Logarithmic vertical axis.
    pub log_y: bool,
    /// Ends of the vertical axis; `None`: from the data.
    pub y_range: Option<[f64; 2]>,
    /// The lines, in order.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as a `<figure>`; nothing where there is no point to draw.
    pub fn html(&self) -> String {
        let lines: Vec<(&Series, Vec<[f64; 2]>)> = self
            .series
            .iter()
            .map(|s| (s, thin(&s.points)))
            .filter(|(_, points)| points.iter().any(|p| p[1].is_finite()))
            .collect();
        if lines.is_empty() {
            return String::new();
        }
        let all = || lines.iter().flat_map(|(_, points)| points.iter());
        let x = Axis::new(self.x_range, all().map(|p| p[0]), false, 0.0);
        let y = Axis::new(self.y_range, all().map(|p| p[1]), self.log_y, 0.06);
        let mut out = format!(
            "<figure class=\"chart\">\n<figcaption><h3>{}</h3><p>{}</p></figcaption>\n",
            escape(&self.title),
            escape(&self.note)
        );
        let _ = writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" data-area=\"{LEFT} {RIGHT} {TOP} {BOTTOM}\" data-x=\"{} {}\" data-series=\"{}\">",
            escape(&self.title),
            x.low,
            x.high,
            escape(&numbers(&lines))
        );
        self.axes(&mut out, &x, &y);
        for (series, points) in &lines {
            let (d, dots) = path(points, &x, &y);
            let _ = writeln!(out, "<path class=\"line {}\" d=\"{d}\"/>", series.class);
            for [x, y] in dots {
                let _ = writeln!(
                    out,
                    "<circle class=\"dot {}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>",
                    series.class
                );
            }
        }
        out.push_str("</svg>\n<p class=\"legend\">");
        // One line is named by the heading.
        let named = lines.iter().filter(|_| lines.len() > 1);
        for (series, _) in named {
            let _ = write!(
                out,
                "<span><i class=\"{}\"></i>{}</span> ",
                series.class,
                escape(&series.name)
            );
        }
        out.push_str("</p>\n</figure>\n");
        out
    }

    fn axes(&self, out: &mut String, x: &Axis, y: &Axis) {
        for (value, text) in y.ticks(6) {
            let at = place(y.share(value), BOTTOM, TOP);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                at + 3.5
            );
        }
        for (value, text) in x.ticks(5) {
            let at = place(x.share(value), LEFT, RIGHT);
            let anchor = if at > RIGHT - 12.0 { "end" } else { "middle" };
            let _ = writeln!(
                out,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>",
                BOTTOM + 14.0
            );
        }
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/><text class=\"unit\" x=\"{RIGHT}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            BOTTOM + 25.0,
            escape(&self.x_label)
        );
    }
}

fn place(share: Option<f64>, from: f64, to: f64) -> f64 {
    from + share.unwrap_or(0.0) * (to - from)
}

/// The numbers that are drawn, as JSON: a list of `[name, class, [[x, y], ..]]`.
fn numbers(lines: &[(&Series, Vec<[f64; 2]>)]) -> String {
    let line = |(series, points): &(&Series, Vec<[f64; 2]>)| {
        let finite: Vec<_> = points.iter().filter(|p| p[1].is_finite()).collect();
        serde_json::json!([series.name, series.class, finite])
    };
    serde_json::Value::from_iter(lines.iter().map(line)).to_string()
}

/// A path through the points that have a place, and those that no line reaches or that stand far apart.
fn path(points: &[[f64; 2]], x: &Axis, y: &Axis) -> (String, Vec<[f64; 2]>) {
    let at = |p: &[f64; 2]| -> Option<[f64; 2]> {
        let (x, y) = (x.share(p[0])?, y.share(p[1])?);
        Some([
            place(Some(x), LEFT, RIGHT),
            place(Some(y.clamp(0.0, 1.0)), BOTTOM, TOP),
        ])
    };
    let placed: Vec<_> = points.iter().map(at).collect();
    let mut d = String::new();
    let mut pen = 'M';
    for point in &placed {
        pen = match point {
            Some([x, y]) => {
                let _ = write!(d, "{pen}{x:.1} {y:.1}");
                'L'
            }
            None => 'M',
        };
    }
    let sparse = placed.len() <= 24;
    let alone = |i: usize| {
        let gap = |j: Option<usize>| j.and_then(|j| placed.get(j)).is_none_or(Option::is_none);
        gap(i.checked_sub(1)) && gap(Some(i + 1))
    };
    let dots = (0..placed.len()).filter(|&i| sparse || alone(i));
    (d, dots.filter_map(|i| placed[i]).collect())
}

/// At most [`POINTS`] of `points`: the first, the last, and the least and greatest of equal stretches.
fn thin(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil((POINTS - 2) / 2);
    let mut kept = vec![0, points.len() - 1];
    for start in (0..points.len()).step_by(stretch) {
        let finite =
            (start..points.len().min(start + stretch)).filter(|&i| points[i][1].is_finite());
        let by = |a: &usize, b: &usize| points[*a][1].total_cmp(&points[*b][1]);
        kept.extend(finite.clone().min_by(by));
        kept.extend(finite.max_by(by));
    }
    kept.sort_unstable();
    kept.dedup();
    kept.into_iter().map(|i| points[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<[f64; 2]>) -> Chart {
        let name = "a < b".to_owned();
        let series = vec![Series {
            name,
            class: "c0",
            points,
        }];
        Chart {
            title: "loss".into(),
            series,
            ..Chart::default()
        }
    }

    /// Where a point is drawn, from the SVG alone.
    fn drawn(html: &str) -> Vec<[f64; 2]> {
        let xml = roxmltree::Document::parse(html).unwrap();
        let line = xml.descendants().find(|n| n.has_tag_name("path")).unwrap();
        let d = line.attribute("d").unwrap();
        d.split(['M', 'L'])
            .skip(1)
            .map(|p| {
                let (x, y) = p.split_once(' ').unwrap();
                [x.parse().unwrap(), y.parse().unwrap()]
            })
            .collect()
    }

    #[test]
    fn points_lie_where_their_axes_say() {
        let html = Chart {
            y_range: Some([0.0, 1.0]),
            ..chart(vec![[10.0, 0.0], [20.0, 0.25], [50.0, 1.0]])
        }
        .html();
        let at = |x: f64, y: f64| [LEFT + x * (RIGHT - LEFT), BOTTOM + y * (TOP - BOTTOM)];
        for (found, wanted) in
            drawn(&html)
                .into_iter()
                .zip([at(0.0, 0.0), at(0.25, 0.25), at(1.0, 1.0)])
        {
            assert!((found[0] - wanted[0]).abs() < 0.06 && (found[1] - wanted[1]).abs() < 0.06);
        }
        let log = Chart {
            log_y: true,
            y_range: Some([0.01, 1.0]),
            ..chart(vec![[0.0, 0.1], [1.0, 1.0]])
        }
        .html();
        assert!((drawn(&log)[0][1] - (TOP + BOTTOM) / 2.0).abs() < 0.06);
        let xml = roxmltree::Document::parse(&html).unwrap();
        let svg = xml.descendants().find(|n| n.has_tag_name("svg")).unwrap();
        let series: serde_json::Value =
            serde_json::from_str(svg.attribute("data-series").unwrap()).unwrap();
        assert_eq!(
            series,
            serde_json::json!([["a < b", "c0", [[10.0, 0.0], [20.0, 0.25], [50.0, 1.0]]]])
        );
    }

    #[test]
    fn gaps_interrupt_and_lone_points_are_seen() {
        let mut points: Vec<_> = (0..40).map(|i| [f64::from(i), 1.0]).collect();
        for gap in [10, 12] {
            points[gap][1] = f64::NAN;
        }
        let html = chart(points).html();
        assert_eq!(
            html.split("d=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .matches('M')
                .count(),
            3
        );
        assert_eq!(
            html.matches("<circle").count(),
            1,
            "the point between two gaps"
        );
        assert_eq!(chart(vec![[1.0, f64::NAN]]).html(), "");
        assert_eq!(chart(Vec::new()).html(), "");
        assert!(chart(vec![[1.0, 2.0]]).html().contains("<circle"));
    }

    #[test]
    fn many_points_are_thinned_and_keep_every_peak() {
        let mut points: Vec<_> = (0..40_000)
            .map(|i| [f64::from(i), (f64::from(i) * 0.37).sin()])
            .collect();
        points[12_345][1] = 9.0;
        points[23_456][1] = -9.0;
        points[5][1] = f64::NAN;
        let kept = thin(&points);
        assert!(
            kept.len() <= POINTS && kept.len() > POINTS / 2,
            "{}",
            kept.len()
        );
        for wanted in [0, 12_345, 23_456, 39_999] {
            assert!(kept.contains(&points[wanted]));
        }
        assert!(kept.windows(2).all(|w| w[0][0] < w[1][0]));
        assert!(
            kept.iter().all(|p| points[p[0] as usize] == *p),
            "nothing is made up"
        );
    }
}
