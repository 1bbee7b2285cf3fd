//! The attributes to learn: those of real faces from their pictures, or synthetic ones from the
//! factors that made them.

use super::pca::Pca;
use super::perceptron::Columns;
use crate::data::faces::{loadings, marginal, scores};
use crate::data::{
    Celeba, DataError, DataSet, Packed, Progress, default_cache_dir, locate, open_or_pack,
};
use crate::gmm::normal;
use std::path::Path;

/// Attributes of a face.
pub const ATTRIBUTES: usize = 40;
/// Pixels a side of the pictures.
const SIDE: u32 = 32;
/// Principal components that the network sees.
pub const COMPONENTS: usize = 128;
/// Pictures that the principal components are made from, at most.
const PCA_PICTURES: usize = 8000;
/// Of a training set without validation pictures, one in so many of its last rows validates.
const VALIDATION: usize = 8;

/// Examples as columns: what the network sees `[D, n]` and the labels `[K, n]`, 0 or 1.
#[derive(Clone, Debug)]
pub struct Part {
    /// Inputs.
    pub x: Columns,
    /// Labels.
    pub y: Columns,
}

impl Part {
    /// The examples with these numbers.
    pub fn select(&self, which: &[usize]) -> Self {
        Self {
            x: self.x.select_columns(which),
            y: self.y.select_columns(which),
        }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.x.ncols()
    }
}

/// A data set cut in three.
#[derive(Clone, Debug)]
pub struct Examples {
    /// What it is, in words.
    pub source: String,
    /// Learnt from.
    pub train: Part,
    /// Chooses rate and stopping step.
    pub validation: Part,
    /// Measures.
    pub test: Part,
    /// Squared error per test example of the true probabilities given the inputs, where they are known.
    pub bayes: Option<f64>,
}

impl Examples {
    /// Squared error per test example of a prediction that knows only how frequent each attribute is
    /// among the training examples.
    pub fn of_marginals(&self) -> f64 {
        let frequency = self.train.y.column_mean();
        let errors = self.test.y.column_iter().map(|y| {
            let pairs = y.iter().zip(frequency.iter());
            pairs.map(|(y, m)| (y - m).powi(2)).sum::<f64>()
        });
        errors.sum::<f64>() / self.test.len() as f64
    }
}

/// Synthetic attributes: y_k = `[u_k > Phi^-1(1 - m_k)]`, u = Lambda f + residual of unit variance, f ~
/// N(0, I) of eight factors, which are the inputs. Loadings and marginals m are those of the built-in
/// faces; nothing excludes anything here. `sizes` are the examples of the three parts.
pub fn synthetic(seed: u64, sizes: [usize; 3]) -> Examples {
    let thresholds: [f64; ATTRIBUTES] = std::array::from_fn(|k| quantile(1.0 - marginal(k)));
    let mut first = 0;
    let [train, validation, test] = sizes.map(|n| {
        let drawn: Vec<_> = (first..first + n as u64).map(|i| scores(seed, i)).collect();
        first += n as u64;
        let x = drawn.iter().flat_map(|(factors, _)| *factors);
        let y = drawn.iter().flat_map(|(_, u)| {
            let pairs = u.iter().zip(&thresholds);
            pairs.map(|(u, t)| f64::from(u8::from(u > t)))
        });
        Part {
            x: Columns::from_iterator(8, n, x),
            y: Columns::from_iterator(ATTRIBUTES, n, y),
        }
    });
    let bayes = bayes_error(&test.x, &thresholds);
    Examples {
        source: "synthetic attributes from 8 factors".into(),
        train,
        validation,
        test,
        bayes: Some(bayes),
    }
}

/// Mean over the factors `f` `[8, n]` of sum_k p_k (1 - p_k), p_k the probability of attribute k.
fn bayes_error(f: &Columns, thresholds: &[f64; ATTRIBUTES]) -> f64 {
    let of_one = |k: usize, factors: &[f64]| {
        let law = loadings(k);
        let mean: f64 = law.iter().zip(factors).map(|(l, f)| l * f).sum();
        let rest = 1.0 - law.iter().map(|l| l * l).sum::<f64>();
        let p = normal::cdf((mean - thresholds[k]) / rest.max(1e-12).sqrt());
        p * (1.0 - p)
    };
    let errors = f.column_iter().map(|f| {
        let f: Vec<f64> = f.iter().copied().collect();
        (0..ATTRIBUTES).map(|k| of_one(k, &f)).sum::<f64>()
    });
    errors.sum::<f64>() / f.ncols() as f64
}

/// z with Phi(z) = p, by bisection.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if normal::cdf(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// CelebA at 32x32 from `data`, $GMMK_DATA or ./data, packed first where that was not done; `None`
/// where there is none and `data` is not given.
///
/// # Errors
/// `data` holds no CelebA, or what is there cannot be read.
pub fn find_celeba(data: Option<&Path>) -> Result<Option<Packed>, DataError> {
    let Some(folder) = locate(data, DataSet::Celeba)? else {
        return Ok(None);
    };
    let source = Celeba::open(&folder)?;
    let quietly = &mut |_: Progress| {};
    open_or_pack(&source, SIDE, &default_cache_dir()?, quietly).map(Some)
}

/// Real attributes from the first 128 principal components of the pictures, each of unit variance. The
/// parts are those of the data set; one without a test set lends its held-out pictures for it, and the
/// last eighth of its training pictures validates. `most` limits the three parts.
pub fn celeba(packed: &Packed, most: [usize; 3], seed: u64) -> Examples {
    let (train, held_out) = (packed.train_indices(), packed.held_out_indices());
    let parts = match packed.test_indices() {
        [] => {
            let (train, validation) = train.split_at(train.len() - train.len() / VALIDATION);
            [train, validation, held_out]
        }
        test => [train, held_out, test],
    };
    let [train, validation, test] = [0, 1, 2].map(|i| &parts[i][..parts[i].len().min(most[i])]);
    let learnt = pixels(packed, &train[..train.len().min(PCA_PICTURES)]);
    let pca = Pca::new(&learnt, COMPONENTS, seed);
    let scores = pca.scores(&learnt);
    let deviation: Vec<f64> = scores
        .row_iter()
        .map(|row| (row.norm_squared() / row.len() as f64).sqrt().max(1e-12))
        .collect();
    let part = |indices: &[u32]| {
        // In pieces: pixels take 24 times the memory of scores.
        let mut x = Columns::zeros(deviation.len(), indices.len());
        for (piece, first) in indices.chunks(1000).zip((0..).step_by(1000)) {
            let mut scores = pca.scores(&pixels(packed, piece));
            for (mut row, deviation) in scores.row_iter_mut().zip(&deviation) {
                row /= *deviation;
            }
            x.columns_mut(first, piece.len()).copy_from(&scores);
        }
        let labels = indices
            .iter()
            .flat_map(|&i| packed.attributes(i as usize).iter().map(|&a| f64::from(a)));
        let y = Columns::from_iterator(packed.attribute_names().len(), indices.len(), labels);
        Part { x, y }
    };
    Examples {
        source: format!(
            "attributes of real faces (CelebA, {} pictures) from {} principal components of {SIDE}x{SIDE} pictures",
            packed.len(),
            deviation.len(),
        ),
        train: part(train),
        validation: part(validation),
        test: part(test),
        bayes: None,
    }
}

/// The pictures as columns in `[0, 1]`.
fn pixels(packed: &Packed, indices: &[u32]) -> Columns {
    let values = indices
        .iter()
        .flat_map(|&i| packed.image(i as usize).iter())
        .map(|&byte| f64::from(byte) / 255.0);
    let rows = (packed.size() * packed.size() * packed.channels()) as usize;
    Columns::from_iterator(rows, indices.len(), values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::attributes::CELEBA;

    fn place(name: &str) -> usize {
        CELEBA.iter().position(|n| *n == name).unwrap()
    }

    #[test]
    fn quantiles_invert_the_distribution() {
        for p in [0.022, 0.165, 0.5, 0.958] {
            assert!((normal::cdf(quantile(p)) - p).abs() < 1e-13);
        }
    }

    /// Every marginal within four standard errors, and the sums that the paper's page gives.
    #[test]
    fn synthetic_marginals_are_the_published_ones() {
        let n = 40_000;
        let examples = synthetic(11, [n, 1, 4000]);
        let frequency = examples.train.y.column_mean();
        for (k, name) in CELEBA.iter().enumerate() {
            let m = marginal(k);
            let bound = 4.0 * (m * (1.0 - m) / n as f64).sqrt();
            assert!((frequency[k] - m).abs() < bound, "{name}: {}", frequency[k]);
        }
        assert!((frequency.sum() - 9.036).abs() < 0.05);
        let of_marginals: f64 = (0..40).map(|k| marginal(k) * (1.0 - marginal(k))).sum();
        assert!((of_marginals - 5.443).abs() < 2e-3, "{of_marginals}");
        assert!((examples.of_marginals() - of_marginals).abs() < 0.15);
        assert!(examples.bayes.unwrap() < of_marginals - 1.0);
    }

    #[test]
    fn synthetic_attributes_have_the_strongest_signs() {
        let y = synthetic(5, [20_000, 1, 1]).train.y;
        let mean = y.column_mean();
        let covariance = |a: usize, b: usize| {
            let [left, right] = [y.row(a), y.row(b)];
            let products = left.iter().zip(right.iter());
            products.map(|(a, b)| a * b).sum::<f64>() / y.ncols() as f64 - mean[a] * mean[b]
        };
        let signs = [
            (
                "Male",
                "+Goatee +Mustache +Sideburns +5_o_Clock_Shadow +Wearing_Necktie",
            ),
            (
                "Male",
                "-Heavy_Makeup -Wearing_Lipstick -Wearing_Earrings -Wavy_Hair",
            ),
            ("Young", "-Gray_Hair -Bald -Double_Chin"),
            ("Smiling", "+High_Cheekbones +Mouth_Slightly_Open"),
            ("Black_Hair", "-Blond_Hair"),
            ("No_Beard", "-Goatee -Mustache -Sideburns -5_o_Clock_Shadow"),
        ];
        for (one, others) in signs {
            for other in others.split(' ') {
                let c = covariance(place(one), place(&other[1..]));
                assert!(other.starts_with('+') == (c > 0.0), "{one} {other}: {c}");
                assert!(c.abs() > 3e-3, "{one} {other}: {c}");
            }
        }
    }
}
