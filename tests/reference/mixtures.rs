//! The ops of mixtures, distances, NGMG and its losses.

use super::{Computed, Fallible, Inputs};
use gmmk::gmm::algorithm1::{Stepper, Update};
use gmmk::gmm::distance::{self, Pair};
use gmmk::gmm::entropy::{EntropyLoss, EntropySpec};
use gmmk::gmm::expansion::{Mode, expand_grid};
use gmmk::gmm::inverse::eigenvalues;
use gmmk::gmm::mixture::Mixture;
use gmmk::gmm::ngmg::{Reach, negative_part, ngmg};
use gmmk::gmm::wasserstein::cdf_integrals;

pub fn expansion(op: &str, inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let shape: Vec<usize> = match op {
        "expand_1d" => vec![inputs.whole("n")? as usize],
        _ => inputs.wholes("shape")?,
    };
    let mode = match inputs.name("mode")? {
        "em" => Mode::Em(inputs.whole("iters")? as usize),
        name => name.parse().map_err(|e| format!("{e}"))?,
    };
    let r = inputs.float("sigma_rel")?;
    let found = expand_grid(&inputs.floats("x")?, &shape, None, r, mode);
    let mixture = found.map_err(|e| e.to_string())?.mixture;
    let sigma = &mixture.sigma()[..shape.len()];
    Ok(vec![
        Computed::exact("mu", mixture.mu().to_vec()),
        Computed::exact("sigma", sigma.to_vec()),
        Computed::exact("pi", mixture.pi().to_vec()),
    ])
}

pub fn gmm_eval(inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let (mu, x) = (inputs.floats("mu")?, inputs.floats("x")?);
    let mixture = Mixture::new(&inputs.floats("pi")?, &mu, &inputs.sigmas(mu.len())?);
    let mixture = mixture.map_err(|e| e.to_string())?;
    let values = [
        mixture.density(&x),
        mixture.cdf(&x),
        mixture.log_density(&x),
    ];
    let values = ["pdf", "cdf", "logpdf"].into_iter().zip(values);
    let computed = |(name, values): (_, Result<Vec<f64>, _>)| {
        values.map(|values| Computed::exact(name, values))
    };
    let values: Result<Vec<_>, _> = values.map(computed).collect();
    values.map_err(|e| e.to_string())
}

pub fn divergence(op: &str, inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let named = |values: Vec<(&'static str, Result<f64, distance::DistanceError>)>| {
        let computed = values
            .into_iter()
            .map(|(name, value)| value.map(|value| Computed::exact(name, [value])));
        let computed: Result<Vec<_>, _> = computed.collect();
        computed.map_err(|e| e.to_string())
    };
    if op == "div_pi" {
        let (p, q) = (inputs.floats("p")?, inputs.floats("q")?);
        return named(vec![
            ("kl", distance::kl(&p, &q)),
            ("kl_rev", distance::kl(&q, &p)),
            ("js", distance::js(&p, &q)),
            ("tv", distance::tv(&p, &q)),
        ]);
    }
    let mu = inputs.floats("mu")?;
    let sigma = inputs.sigmas(mu.len())?;
    let pair = Pair::new(&inputs.floats("pi1")?, &inputs.floats("pi2")?, &mu, &sigma);
    let pair = pair.map_err(|e| e.to_string())?;
    if op == "div_density" {
        return named(vec![
            ("kl", pair.kl()),
            ("js", pair.js()),
            ("tv", pair.tv()),
        ]);
    }
    let support = <[f64; 2]>::try_from(inputs.floats("support")?);
    let support = support.map_err(|s| format!("support of {} numbers", s.len()))?;
    let mut values = named(vec![
        ("w1_exact", pair.w1_exact()),
        ("w1_signed_line", Ok(pair.w1_signed())),
        ("w1_signed_support", pair.w1_signed_on(support)),
        ("w1_grid", Ok(pair.w1_grid())),
    ])?;
    let integrals = cdf_integrals(&mu, &sigma, support).map_err(|e| e.to_string())?;
    values.push(Computed::exact("a_n", integrals));
    Ok(values)
}

pub fn kernel(op: &str, inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let kernel = inputs.kernel()?;
    if op == "kernel" {
        let matrix = kernel.matrix().map_err(|e| e.to_string())?;
        return Ok(vec![Computed::exact("matrix", matrix)]);
    }
    if op == "kernel_min_abs_eig" {
        let values = eigenvalues(&kernel).map_err(|e| e.to_string())?;
        let smallest = values.iter().fold(f64::INFINITY, |a, v| a.min(v.abs()));
        return Ok(vec![Computed::exact("min_abs_eig", [smallest])]);
    }
    let (current, target) = (inputs.floats("current")?, inputs.floats("target")?);
    let l = negative_part(&current, &target).map_err(|e| e.to_string())?;
    let found = ngmg(&kernel, &current, &target).map_err(|e| e.to_string())?;
    Ok(vec![
        Computed::exact("sum_l", [l.iter().sum::<f64>()]),
        Computed::exact("l", l),
        Computed::exact("ngmg", found),
        Computed::exact("bound_inf", [kernel.bounds()[0]]),
    ])
}

pub fn algorithm1(op: &str, inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let update = match inputs.name("rule")? {
        "one_sided" => Update::OneSided,
        "balanced" => Update::Balanced {
            lambda: inputs.float("lambda")?,
        },
        other => return Err(format!("rule {other}")),
    };
    let kernel = inputs.kernel()?;
    let stepper = Stepper::new(&kernel, update, inputs.float("eta")?);
    let mut stepper = stepper.map_err(|e| e.to_string())?;
    let (mut current, target) = (inputs.floats("current")?, inputs.floats("target")?);
    let mut tv = vec![distance::tv(&current, &target).map_err(|e| e.to_string())?];
    let mut iterates = Vec::new();
    for step in 1..=inputs.whole("steps")? {
        let stepped = stepper.step(&mut current, &target);
        tv.push(stepped.map_err(|e| e.to_string())?);
        let name = match step {
            1 => "pi_step1",
            2 => "pi_step2",
            10 => "pi_step10",
            _ => continue,
        };
        iterates.push(Computed::exact(name, current.clone()));
    }
    if op == "alg1_curve" {
        let at: Vec<usize> = inputs.wholes("at")?;
        return Ok(vec![Computed::exact(
            "tv_at",
            at.into_iter().map(|k| tv[k]),
        )]);
    }
    iterates.push(Computed::exact("tv", tv));
    Ok(iterates)
}

pub fn entropy(inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let (norm, diagonal) = inputs.shape()?;
    let spec = EntropySpec {
        variant: inputs
            .name("variant")?
            .parse()
            .map_err(|e| format!("{e}"))?,
        sigma: inputs.float("sigma")?,
        norm,
        diagonal,
        floor: inputs.float("floor")?,
        gain: inputs.float("gain")?,
        reach: Reach::All,
    };
    let (logits, labels) = (inputs.floats("logits")?, inputs.floats("labels")?);
    let rows = inputs.get("logits")?.as_array().map_or(0, Vec::len);
    let loss = EntropyLoss::new(spec, logits.len() / rows.max(1)).map_err(|e| e.to_string())?;
    let mut grad = vec![f64::NAN; logits.len()];
    let value = loss.evaluate(&logits, &labels, &mut grad, &mut loss.workspace());
    Ok(vec![
        Computed::exact("loss", [value.map_err(|e| e.to_string())?]),
        Computed::exact("grad", grad),
    ])
}
