//! Distance of a tensor from the oracle's, and the proof that it notices what it must.

/// Unit roundoff of f32.
pub const ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// How far two tensors are apart.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// |got - want| / |want|, Euclidean.
    pub relative: f64,
    /// Largest |got - want| / (rms(want) + |want|) of an element.
    pub element: f64,
    /// Where that is.
    pub at: usize,
}

/// Largest ratio of an element's error to the tensor's relative error limit: with some 10^5 elements
/// the largest of their rounding errors is 4 to 5 standard deviations.
const ELEMENT: f64 = 8.0;

/// Distance of `got` from `want`; values below `floor` count as zero.
pub fn distance(got: &[f32], want: &[f64], floor: f64) -> Distance {
    assert_eq!(got.len(), want.len(), "lengths");
    let squares = want.iter().map(|w| w * w).sum::<f64>();
    let rms = (squares / want.len() as f64).sqrt().max(floor);
    let mut sum = 0.0;
    let mut worst = Distance {
        relative: 0.0,
        element: 0.0,
        at: 0,
    };
    for (at, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        sum += error * error;
        let element = error / (rms + w.abs());
        // A NaN is the worst there is.
        if element.is_nan() || element > worst.element {
            worst.element = if element.is_nan() {
                f64::INFINITY
            } else {
                element
            };
            worst.at = at;
        }
    }
    worst.relative = (sum / want.len() as f64).sqrt() / rms;
    worst
}

/// Complains unless `got` is within `limit` of `want`, as a whole and element by element.
pub fn close(got: &[f32], want: &[f64], limit: f64, floor: f64) -> Result<Distance, String> {
    let d = distance(got, want, floor);
    if d.relative <= limit && d.element <= ELEMENT * limit {
        return Ok(d);
    }
    Err(format!(
        "relative error {:.3e} (limit {limit:.3e}), worst element {} of {}: {} instead of {} ({:.3e})",
        d.relative,
        d.at,
        got.len(),
        got[d.at],
        want[d.at],
        d.element,
    ))
}

/// Complains unless the bits are the same.
pub fn same_bits(a: &[f32], b: &[f32]) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("{} and {} elements", a.len(), b.len()));
    }
    match a
        .iter()
        .zip(b)
        .position(|(a, b)| a.to_bits() != b.to_bits())
    {
        None => Ok(()),
        Some(i) => Err(format!("element {i} of {}: {} and {}", a.len(), a[i], b[i])),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    const LIMIT: f64 = 1e-5;

    fn pair() -> (Vec<f32>, Vec<f64>) {
        let got = Rng::new(1).normals(10_000, 0.0, 1.0);
        let want = got.iter().map(|&x| f64::from(x)).collect();
        (got, want)
    }

    #[test]
    fn rounding_errors_pass() {
        let (got, want) = pair();
        let want: Vec<f64> = want.iter().map(|w| w * (1.0 + 3e-6)).collect();
        assert!(close(&got, &want, LIMIT, 0.0).is_ok());
        assert!(same_bits(&got, &got).is_ok());
        assert!(close(&[0.0; 5], &[0.0; 5], LIMIT, 1e-9).is_ok());
    }

    #[test]
    fn a_wrong_element_is_noticed() {
        let (mut got, want) = pair();
        // Half a permille of one element in ten thousand.
        let at = got.iter().position(|x| x.abs() > 0.5).unwrap();
        let right = got[at];
        got[at] *= 1.0005;
        let d = distance(&got, &want, 0.0);
        assert!(d.relative <= LIMIT && d.at == at, "only the element shows");
        assert!(close(&got, &want, LIMIT, 0.0).is_err());
        got[at] = f32::NAN;
        assert!(close(&got, &want, LIMIT, 0.0).is_err());
        got[at] = f32::INFINITY;
        assert!(close(&got, &want, LIMIT, 0.0).is_err());
        got[at] = f32::from_bits(right.to_bits() ^ 1);
        let before: Vec<f32> = want.iter().map(|&w| w as f32).collect();
        assert!(same_bits(&got, &before).is_err());
    }

    #[test]
    fn a_swapped_pair_is_noticed() {
        let (mut got, want) = pair();
        got.swap(17, 4711);
        assert!(close(&got, &want, LIMIT, 0.0).is_err());
        let before: Vec<f32> = want.iter().map(|&w| w as f32).collect();
        assert!(same_bits(&got, &before).is_err());
    }

    #[test]
    fn a_zero_tensor_is_noticed() {
        let (got, want) = pair();
        assert!(close(&vec![0.0; want.len()], &want, LIMIT, 0.0).is_err());
        assert!(close(&got, &vec![0.0; want.len()], LIMIT, 1e-9).is_err());
        assert!(same_bits(&[0.0], &[-0.0]).is_err());
        assert!(same_bits(&[0.0], &[0.0, 0.0]).is_err());
    }
}
