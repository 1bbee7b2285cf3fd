//! Means, spreads and paired differences over seeds.

/// Mean and standard deviation (0 of a single number).
pub fn mean_and_deviation(values: &[f64]) -> [f64; 2] {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    [mean, (square / (n - 1.0).max(1.0)).sqrt()]
}

/// A paired difference over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
    /// Half the width of its 95 % interval (Student).
    pub half_width: f64,
}

/// Two-sided 95 % quantiles of Student's t for 1, 2, .. degrees of freedom.
const STUDENT: [f64; 9] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262,
];

impl Difference {
    /// `a - b`, seed by seed; infinitely uncertain with a single seed.
    pub fn of(a: &[f64], b: &[f64]) -> Self {
        let d: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let [mean, deviation] = mean_and_deviation(&d);
        let (error, quantile) = match d.len() {
            0 | 1 => (f64::INFINITY, 1.0),
            n => (
                deviation / (n as f64).sqrt(),
                STUDENT[(n - 2).min(STUDENT.len() - 1)],
            ),
        };
        Self {
            mean,
            error,
            half_width: quantile * error,
        }
    }

    /// Below zero by more than its uncertainty (-1), above (1), or neither.
    pub fn sign(self) -> i32 {
        i32::from(self.mean > self.half_width) - i32::from(self.mean < -self.half_width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_paired() {
        // 1, 2 and 3: mean 2, deviation 1.
        let d = Difference::of(&[11.0, 22.0, 33.0], &[10.0, 20.0, 30.0]);
        let error = 1.0 / 3.0_f64.sqrt();
        assert!((d.mean - 2.0).abs() < 1e-12 && (d.error - error).abs() < 1e-12);
        assert!((d.half_width - 4.303 * error).abs() < 1e-12);
        assert_eq!(d.sign(), 0);
        assert_eq!(
            Difference::of(&[1.0, 1.1, 0.9], &[2.0, 2.1, 1.89]).sign(),
            -1
        );
        assert_eq!(
            Difference::of(&[2.0, 2.1, 1.89], &[1.0, 1.1, 0.9]).sign(),
            1
        );
        assert_eq!(Difference::of(&[1.0], &[5.0]).sign(), 0);
    }
}
