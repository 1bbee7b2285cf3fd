//! Attributes asked for on the command line: "Smiling,Young,-Male".

use crate::rng::{Philox, Stream};

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No attribute has this name.
    #[error("unknown attribute `{name}`: {}", suggestion(.similar.as_deref(), .known))]
    Unknown {
        /// As it was written.
        name: String,
        /// The known name that resembles it most, if any does.
        similar: Option<String>,
        /// All names.
        known: Vec<String>,
    },
    /// An attribute is asked for and forbidden at once.
    #[error("`{name}` is asked for both as {name} and as -{name}: keep one of them")]
    Contradiction {
        /// Name of the attribute.
        name: String,
    },
    /// The attributes are classes, and the request does not name exactly one.
    #[error("expected exactly one class name, found `{found}`: choose one of {}", .known.join(", "))]
    OneClass {
        /// The request.
        found: String,
        /// All class names.
        known: Vec<String>,
    },
    /// Rows do not fit the request.
    #[error(
        "expected rows of {expected} attributes and at least one of them, found {found} values"
    )]
    Rows {
        /// Attributes per row.
        expected: usize,
        /// Values given.
        found: usize,
    },
}

fn suggestion(similar: Option<&str>, known: &[String]) -> String {
    match similar {
        Some(similar) => format!("did you mean {similar}?"),
        None => format!("the names are {}", known.join(", ")),
    }
}

/// Parses a comma-separated list of attributes: a name asks for 1, a name behind a minus for 0.
/// Capitals do not matter, spaces and underscores are equal.
///
/// With `one_hot` the attributes are classes: exactly one name must be given, and all others become 0.
/// Returns one entry per name; None where nothing is asked.
///
/// # Errors
/// [`RequestError`], with the most similar name for a misspelt one.
pub fn parse_request(
    text: &str,
    names: &[String],
    one_hot: bool,
) -> Result<Vec<Option<bool>>, RequestError> {
    let mut request = vec![None; names.len()];
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let (value, name) = match item.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, item),
        };
        let k = find(name, names)?;
        if request[k].is_some_and(|earlier| earlier != value) {
            return Err(RequestError::Contradiction {
                name: names[k].clone(),
            });
        }
        request[k] = Some(value);
    }
    if !one_hot {
        return Ok(request);
    }
    let asked = request.iter().filter(|value| **value == Some(true)).count();
    if asked != 1 || request.contains(&Some(false)) {
        return Err(RequestError::OneClass {
            found: text.to_owned(),
            known: names.to_vec(),
        });
    }
    Ok(request
        .into_iter()
        .map(|value| Some(value.is_some()))
        .collect())
}

fn find(name: &str, names: &[String]) -> Result<usize, RequestError> {
    let wanted = normalised(name);
    if let Some(k) = names.iter().position(|known| normalised(known) == wanted) {
        return Ok(k);
    }
    let similar = names
        .iter()
        .map(|known| {
            (
                strsim::damerau_levenshtein(&wanted, &normalised(known)),
                known,
            )
        })
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, known)| distance <= (known.chars().count() / 3).max(1))
        .map(|(_, known)| known.clone());
    Err(RequestError::Unknown {
        name: name.trim().to_owned(),
        similar,
        known: names.to_vec(),
    })
}

/// Lower case, words joined by single underscores.
pub(super) fn normalised(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| c.is_whitespace() || c == '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join("_")
}

/// The rows that may lend a sample the attributes that were not asked for.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    request: Vec<Option<bool>>,
    rows: &'a [u8],
    chosen: Vec<u32>,
    agreeing: usize,
    asked: usize,
}

/// The attributes of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Number of the row that was drawn.
    pub row: usize,
    /// Its K attributes with the request on top, each 0 or 1.
    pub attributes: Vec<u8>,
    /// Attributes whose value in the row the request changed; empty where the row agrees.
    pub overridden: Vec<usize>,
}

impl<'a> Candidates<'a> {
    /// Finds the rows of `rows` (rows x K, each 0 or 1) that agree with most of `request` (K).
    ///
    /// # Errors
    /// [`RequestError::Rows`] when `rows` is empty or no whole number of rows.
    pub fn new(request: &[Option<bool>], rows: &'a [u8]) -> Result<Self, RequestError> {
        let k = request.len();
        if k == 0 || rows.is_empty() || !rows.len().is_multiple_of(k) {
            return Err(RequestError::Rows {
                expected: k,
                found: rows.len(),
            });
        }
        let agreements: Vec<usize> = rows
            .chunks_exact(k)
            .map(|row| {
                request
                    .iter()
                    .zip(row)
                    .filter(|&(asked, &value)| *asked == Some(value == 1))
                    .count()
            })
            .collect();
        let agreeing = agreements.iter().copied().max().unwrap_or(0);
        Ok(Self {
            request: request.to_vec(),
            rows,
            chosen: (0_u32..)
                .zip(agreements)
                .filter(|&(_, n)| n == agreeing)
                .map(|(row, _)| row)
                .collect(),
            agreeing,
            asked: request.iter().flatten().count(),
        })
    }

    /// Whether the rows agree with everything that was asked; else [`Candidates::pick`] overrides.
    pub fn agree(&self) -> bool {
        self.agreeing == self.asked
    }

    /// How many rows [`Candidates::pick`] draws from.
    pub fn count(&self) -> usize {
        self.chosen.len()
    }

    /// How many of the attributes asked for the rows have as asked, and how many were asked for.
    pub fn agreement(&self) -> (usize, usize) {
        (self.agreeing, self.asked)
    }

    /// The attributes of sample number `sample`: one of the rows, drawn by Philox stream
    /// [`Stream::SampleRow`] (index = sample, block 0), with the request on top.
    pub fn pick(&self, seed: u64, sample: u64) -> Picked {
        let drawn = Philox::new(seed, Stream::SampleRow, sample).below(0, self.chosen.len() as u32);
        let row = self.chosen[drawn as usize] as usize;
        let k = self.request.len();
        let mut attributes = self.rows[row * k..(row + 1) * k].to_vec();
        let mut overridden = Vec::new();
        for (attribute, asked) in self.request.iter().enumerate() {
            let Some(value) = asked.map(u8::from) else {
                continue;
            };
            if attributes[attribute] != value {
                attributes[attribute] = value;
                overridden.push(attribute);
            }
        }
        Picked {
            row,
            attributes,
            overridden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::attributes::CELEBA;

    fn celeba() -> Vec<String> {
        CELEBA.map(str::to_owned).to_vec()
    }

    fn position(name: &str) -> usize {
        CELEBA.iter().position(|&known| known == name).unwrap()
    }

    #[test]
    fn names_in_any_case_with_spaces_or_underscores() {
        let request = parse_request(
            " smiling, -MALE ,5 o clock_Shadow,, -  blond  hair",
            &celeba(),
            false,
        )
        .unwrap();
        assert_eq!(request[position("Smiling")], Some(true));
        assert_eq!(request[position("Male")], Some(false));
        assert_eq!(request[position("5_o_Clock_Shadow")], Some(true));
        assert_eq!(request[position("Blond_Hair")], Some(false));
        assert_eq!(request.iter().flatten().count(), 4);
        assert!(
            parse_request("", &celeba(), false)
                .unwrap()
                .iter()
                .all(Option::is_none)
        );
    }

    #[test]
    fn misspelt_names_get_a_suggestion() {
        let message = |text| {
            parse_request(text, &celeba(), false)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message("-Smilng"),
            "unknown attribute `Smilng`: did you mean Smiling?"
        );
        assert_eq!(
            message("eye glasses"),
            "unknown attribute `eye glasses`: did you mean Eyeglasses?"
        );
        let text = message("helicopter");
        assert!(
            text.contains("the names are 5_o_Clock_Shadow, ") && text.ends_with("Young"),
            "{text}"
        );
    }

    #[test]
    fn contradictions_are_errors_and_repetitions_are_not() {
        let error = parse_request("Smiling,-smiling", &celeba(), false).unwrap_err();
        assert_eq!(
            error,
            RequestError::Contradiction {
                name: "Smiling".to_owned()
            }
        );
        assert!(parse_request("Smiling,smiling", &celeba(), false).is_ok());
    }

    #[test]
    fn classes_come_one_at_a_time() {
        let names: Vec<String> = ["cat", "dog", "ship"].map(str::to_owned).to_vec();
        let request = parse_request("Dog", &names, true).unwrap();
        assert_eq!(request, [Some(false), Some(true), Some(false)]);
        for text in ["", "cat,dog", "-cat", "cat,-dog"] {
            let error = parse_request(text, &names, true).unwrap_err();
            assert!(matches!(&error, RequestError::OneClass { .. }), "{error}");
            assert!(error.to_string().contains("cat, dog, ship"));
        }
    }

    #[test]
    fn rows_that_agree_are_drawn_evenly() {
        let rows = [1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1];
        let candidates = Candidates::new(&[Some(true), None, None], &rows).unwrap();
        assert!(candidates.agree() && candidates.count() == 3);
        let mut drawn = [0; 4];
        for sample in 0..3000 {
            let picked = candidates.pick(7, sample);
            assert_eq!(picked, candidates.pick(7, sample));
            assert_eq!(picked.attributes, rows[3 * picked.row..3 * picked.row + 3]);
            assert!(picked.overridden.is_empty());
            drawn[picked.row] += 1;
        }
        assert_eq!(drawn[2], 0);
        assert!(
            [0, 1, 3]
                .iter()
                .all(|&row| (900..1100).contains(&drawn[row])),
            "{drawn:?}"
        );
    }

    #[test]
    fn where_no_row_agrees_the_nearest_is_changed_and_told() {
        let rows = [0, 0, 1, 1, 0, 1, 0, 0, 0];
        let candidates = Candidates::new(&[Some(true), Some(true), None], &rows).unwrap();
        assert!(!candidates.agree());
        assert_eq!((candidates.count(), candidates.agreement()), (1, (1, 2)));
        let picked = candidates.pick(1, 0);
        assert_eq!((picked.row, picked.overridden), (1, vec![1]));
        assert_eq!(picked.attributes, [1, 1, 1]);
        assert!(Candidates::new(&[None, None], &[]).is_err());
        assert!(Candidates::new(&[None, None], &[0; 3]).is_err());
    }
}
