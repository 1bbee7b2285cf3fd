//! What a picture is drawn from: its Z, and the attributes under which its noise is predicted.
//!
//! A prediction may be mixed of several, each under attributes of its own (classifier-free guidance,
//! Ho and Salimans 2022): eps = sum of w_c eps_c with weights that sum to 1. One batched pass of the
//! network makes them all.

/// One prediction of a mix.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Its weight.
    pub weight: f32,
    /// Level of each attribute: 0 off, 1 on, anything between and beyond.
    pub levels: Vec<f32>,
}

/// What one picture is drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The predictions that are mixed, one at least; the first is the picture's own.
    pub conditions: Vec<Condition>,
    /// Number of its Z: of a fresh one, or the row of the picture that owns it; see
    /// [`Latents`](super::generate::Latents).
    pub latent: u64,
}

fn levels(attributes: &[u8]) -> Vec<f32> {
    attributes.iter().map(|&a| a.into()).collect()
}

impl Request {
    /// A picture with these attributes, 0 or 1.
    pub fn new(attributes: &[u8], latent: u64) -> Self {
        let own = Condition {
            weight: 1.0,
            levels: levels(attributes),
        };
        Self {
            conditions: vec![own],
            latent,
        }
    }

    /// The attributes of the picture itself, on (1) from the middle up.
    pub fn attributes(&self) -> impl Iterator<Item = u8> + '_ {
        let own = self.conditions.first().map_or(&[][..], |c| &c.levels);
        own.iter().map(|&level| u8::from(level >= 0.5))
    }

    /// The difference to the picture with the attributes `base` taken `strength` times:
    /// eps = eps_base + strength (eps - eps_base).
    pub fn against(self, base: &[u8], strength: f32) -> Self {
        self.mixed(levels(base), strength)
    }

    /// The same against no attributes at all (null tokens): classifier-free guidance of weight `w`.
    pub fn guided(self, w: f32) -> Self {
        let attributes = self.conditions.first().map_or(0, |c| c.levels.len());
        self.mixed(vec![0.0; attributes], w)
    }

    /// Predictions of weight 0 are left out: at 1 nothing changes, at 0 the base alone is left.
    fn mixed(mut self, base: Vec<f32>, weight: f32) -> Self {
        for condition in &mut self.conditions {
            condition.weight *= weight;
        }
        let base = Condition {
            weight: 1.0 - weight,
            levels: base,
        };
        self.conditions.push(base);
        self.conditions.retain(|c| c.weight != 0.0);
        self
    }

    /// The picture `share` of the way from `self` to `other`, in the levels of its attributes, with the
    /// Z of `self`. The ends are the two requests' pictures themselves. Mixes of as many predictions each.
    pub fn towards(&self, other: &Self, share: f32) -> Self {
        let between = |a: f32, b: f32| (1.0 - share) * a + share * b;
        let pairs = self.conditions.iter().zip(&other.conditions);
        let conditions = pairs.map(|(a, b)| Condition {
            weight: between(a.weight, b.weight),
            levels: a
                .levels
                .iter()
                .zip(&b.levels)
                .map(|(&a, &b)| between(a, b))
                .collect(),
        });
        Self {
            conditions: conditions.collect(),
            latent: self.latent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(request: &Request) -> Vec<(f32, f32)> {
        let each = request.conditions.iter();
        each.map(|c| (c.weight, c.levels[0])).collect()
    }

    #[test]
    fn weights_sum_to_one_and_zeros_are_left_out() {
        let own = || Request::new(&[1, 0], 3);
        assert_eq!(own().guided(1.0), own());
        assert_eq!(own().guided(0.0), Request::new(&[0, 0], 3));
        assert_eq!(weights(&own().guided(3.0)), [(3.0, 1.0), (-2.0, 0.0)]);
        assert_eq!(own().against(&[0, 0], 1.0), own());
        assert_eq!(own().against(&[0, 1], 0.0), Request::new(&[0, 1], 3));
        let both = own().against(&[0, 1], 2.0).guided(1.5);
        assert_eq!(weights(&both), [(3.0, 1.0), (-1.5, 0.0), (-0.5, 0.0)]);
        assert_eq!(both.conditions.iter().map(|c| c.weight).sum::<f32>(), 1.0);
    }

    #[test]
    fn the_ends_of_a_way_are_its_requests() {
        let (a, b) = (Request::new(&[1, 0, 1], 3), Request::new(&[0, 1, 1], 3));
        assert_eq!(a.towards(&b, 0.0), a);
        assert_eq!(a.towards(&b, 1.0), b);
        assert_eq!(a.towards(&b, 0.25).conditions[0].levels, [0.75, 0.25, 1.0]);
    }
}
