//! The mathematics against reference vectors computed elsewhere in float64.
//!
//! `tests/reference/paper.json` holds `{schema, set, dtype, note, cases: [{id, op, inputs, expected,
//! tol: {f64: [rtol, atol], f32: [rtol, atol]}}]}`; a case passes when every number satisfies
//! `|got - want| <= atol + rtol |want|`. The f64 code is held to the first tolerance, the f32 code,
//! where there is one, to the second. `GMMK_REFERENCE=FILE` reads another file of this form.

use gmmk::diffusion::Real;
use gmmk::diffusion::sampler::{Sampler, SamplerPlan};
use gmmk::diffusion::schedule::{Schedule, ScheduleSpec};
use gmmk::gmm::latent::{LatentDraw, LatentMixture, feature_code};
use gmmk::gmm::ngmg::{Diagonal, Kernel, KernelSpec, Norm, Reach};
use gmmk::rng::{Philox, Stream, philox4x32_10, timestep};
use serde_json::Value;

#[path = "reference/dpm.rs"]
mod dpm;
#[path = "reference/mixtures.rs"]
mod mixtures;

type Fallible<T> = Result<T, String>;

/// What the program computed for one case: named numbers, in f64 and, where it has one, in f32.
struct Computed {
    name: &'static str,
    f64: Vec<f64>,
    f32: Option<Vec<f64>>,
}

impl Computed {
    fn exact(name: &'static str, values: impl IntoIterator<Item = impl Into<f64>>) -> Self {
        Self {
            name,
            f64: values.into_iter().map(Into::into).collect(),
            f32: None,
        }
    }

    fn both(name: &'static str, wide: Vec<f64>, narrow: &[f32]) -> Self {
        Self {
            name,
            f64: wide,
            f32: Some(narrow.iter().map(|&x| x.into()).collect()),
        }
    }
}

/// An op's inputs, read with errors that name the key.
struct Inputs<'a>(&'a Value);

impl Inputs<'_> {
    fn get(&self, key: &str) -> Fallible<&Value> {
        self.0.get(key).ok_or(format!("input `{key}` is missing"))
    }

    fn float(&self, key: &str) -> Fallible<f64> {
        let value = self.get(key)?;
        value.as_f64().ok_or(format!("input `{key}` is {value}"))
    }

    fn whole(&self, key: &str) -> Fallible<u64> {
        let value = self.get(key)?;
        value.as_u64().ok_or(format!("input `{key}` is {value}"))
    }

    fn floats(&self, key: &str) -> Fallible<Vec<f64>> {
        flatten(self.get(key)?).ok_or(format!("input `{key}` is not a list of numbers"))
    }

    fn wholes<T: TryFrom<u64>>(&self, key: &str) -> Fallible<Vec<T>> {
        let list = self.get(key)?.as_array();
        let numbers = list.and_then(|list| {
            list.iter()
                .map(|v| v.as_u64().and_then(|v| T::try_from(v).ok()))
                .collect()
        });
        numbers.ok_or(format!("input `{key}` is not a list of whole numbers"))
    }

    fn words<const N: usize>(&self, key: &str) -> Fallible<[u32; N]> {
        let words = self.wholes(key)?;
        <[u32; N]>::try_from(words).map_err(|w| format!("input `{key}` has {} words", w.len()))
    }

    fn stream(&self) -> Fallible<Stream> {
        match self.whole("stream")? {
            0 => Ok(Stream::LatentFixed),
            1 => Ok(Stream::LatentFresh),
            2 => Ok(Stream::Noise),
            other => Err(format!("input `stream` is {other}")),
        }
    }

    fn draw(&self) -> Fallible<LatentDraw> {
        Ok(LatentDraw {
            seed: self.whole("seed")?,
            stream: self.stream()?,
            index: self.whole("index")?,
        })
    }

    fn name(&self, key: &str) -> Fallible<&str> {
        let value = self.get(key)?;
        value.as_str().ok_or(format!("input `{key}` is {value}"))
    }

    /// A standard deviation for each of `n` components, from one number or a list.
    fn sigmas(&self, n: usize) -> Fallible<Vec<f64>> {
        match self.get("sigma")? {
            Value::Array(_) => self.floats("sigma"),
            _ => Ok(vec![self.float("sigma")?; n]),
        }
    }

    fn shape(&self) -> Fallible<(Norm, Diagonal)> {
        let norm = match self.name("norm")? {
            "density" => Norm::Density,
            "unit" => Norm::Unit,
            "mass" => Norm::Mass,
            "row" => Norm::Row,
            other => return Err(format!("norm {other}")),
        };
        match self.name("diag")? {
            "zero" => Ok((norm, Diagonal::Zero)),
            "keep" => Ok((norm, Diagonal::Keep)),
            other => Err(format!("diag {other}")),
        }
    }

    fn kernel(&self) -> Fallible<Kernel> {
        let (norm, diagonal) = self.shape()?;
        let spec = KernelSpec {
            sigma: self.float("sigma")?,
            norm,
            diagonal,
            reach: Reach::All,
        };
        let kernel = match self.0.get("n") {
            Some(_) => Kernel::grid(self.whole("n")? as usize, spec),
            None => Kernel::line(&self.floats("mu")?, spec),
        };
        kernel.map_err(|e| e.to_string())
    }

    fn schedule(&self) -> Fallible<Schedule> {
        let t_max = u32::try_from(self.whole("t_max")?).map_err(|e| e.to_string())?;
        let first = self.float("beta0")?;
        let spec = match self.get("kind")?.as_str() {
            Some("constant") => ScheduleSpec::Constant { beta: first, t_max },
            Some("linear") => ScheduleSpec::Linear {
                first,
                last: self.float("beta1")?,
                t_max,
            },
            other => return Err(format!("schedule kind {other:?}")),
        };
        Schedule::new(spec).map_err(|e| e.to_string())
    }
}

/// Numbers of a nested list in order; "inf" is infinity and null is NaN (undefined).
fn flatten(value: &Value) -> Option<Vec<f64>> {
    Some(match value {
        Value::Null => vec![f64::NAN],
        Value::Number(n) => vec![n.as_f64()?],
        Value::String(s) if s == "inf" => vec![f64::INFINITY],
        Value::Array(list) => {
            let parts: Option<Vec<_>> = list.iter().map(flatten).collect();
            parts?.concat()
        }
        _ => return None,
    })
}

fn narrow(wide: &[f64]) -> Vec<f32> {
    wide.iter().map(|&x| x as f32).collect()
}

fn random(op: &str, inputs: &Inputs) -> Fallible<Vec<Computed>> {
    if op == "philox" {
        let words = philox4x32_10(inputs.words("counter")?, inputs.words("key")?);
        return Ok(vec![Computed::exact("out", words)]);
    }
    let (seed, index) = (inputs.whole("seed")?, inputs.whole("index")?);
    if op == "timestep" {
        let t_max = inputs.wholes::<u32>("t_max")?;
        let t = t_max.into_iter().map(|t| timestep(seed, index, t));
        return Ok(vec![Computed::exact("t", t)]);
    }
    let count = inputs.whole("count")? as usize;
    let philox = Philox::new(seed, inputs.stream()?, index);
    let blocks = count.div_ceil(4) as u32;
    let mut wide: Vec<f64> = (0..blocks).flat_map(|b| philox.normals4(b)).collect();
    wide.truncate(count);
    let mut narrow = vec![0.0; count];
    philox.fill_normals(&mut narrow);
    Ok(vec![Computed::both("out", wide, &narrow)])
}

fn latent(op: &str, inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let mixture = LatentMixture::equal(&inputs.floats("mu")?, inputs.float("sigma")?)
        .map_err(|e| e.to_string())?;
    let (k, n) = (inputs.whole("k")? as usize, inputs.whole("n")? as usize);
    let attributes: Vec<u8> = inputs.wholes("a")?;
    let draw = inputs.draw()?;
    let mut out = vec![f64::NAN; k * n];
    if op == "latent" {
        let filled = mixture.fill(draw, &attributes, n, &mut out);
        filled.map_err(|e| e.to_string())?;
        return Ok(vec![Computed::exact("z", out)]);
    }
    let gamma = inputs.float("code_scale")?;
    let filled = mixture.fill_tokens(draw, &attributes, n, gamma, &mut out);
    filled.map_err(|e| e.to_string())?;
    let code = (0..k).flat_map(|k| (0..n).map(move |n| feature_code(k as u64, n)));
    Ok(vec![
        Computed::exact("code", code),
        Computed::exact("tokens", out),
    ])
}

fn schedule(inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let schedule = inputs.schedule()?;
    let at: Vec<u32> = inputs.wholes("at")?;
    let table = |table: &[f64]| -> Vec<f64> { at.iter().map(|&t| table[t as usize]).collect() };
    Ok(vec![
        Computed::exact("beta", table(schedule.beta())),
        Computed::exact("alpha_bar", table(schedule.alpha_bar())),
        Computed::exact(
            "snr",
            at.iter().map(|&t| schedule.snr(t).unwrap_or(f64::NAN)),
        ),
    ])
}

fn noised<F: Real>(s: &Schedule, t: u32, x0: &[F], eps: &[F]) -> Fallible<Vec<F>> {
    let mut out = x0.to_vec();
    s.q_sample(t, x0, eps, &mut out)
        .map_err(|e| e.to_string())?;
    Ok(out)
}

fn q_sample(inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let schedule = inputs.schedule()?;
    let t = inputs.whole("t")? as u32;
    let (x0, eps) = (inputs.floats("x0")?, inputs.floats("eps")?);
    let wide = noised(&schedule, t, &x0, &eps)?;
    let small = noised(&schedule, t, &narrow(&x0), &narrow(&eps))?;
    Ok(vec![Computed::both("x_t", wide, &small)])
}

fn sampler_step(inputs: &Inputs) -> Fallible<Vec<Computed>> {
    let schedule = inputs.schedule()?;
    let mut sampler: Sampler = match inputs.get("method")?.as_str() {
        Some(name) => name.parse().map_err(|e| format!("{e}"))?,
        None => return Err("input `method` is not a name".into()),
    };
    if let Sampler::Ddim { eta } = &mut sampler {
        *eta = inputs.float("eta")?;
    }
    let clip = inputs.get("clip")?.as_f64();
    let plan = SamplerPlan::new(&schedule, sampler, schedule.t_max(), clip);
    let plan = plan.map_err(|e| e.to_string())?;
    let t = inputs.whole("t")? as u32;
    let step = plan.steps().iter().find(|s| s.t == t);
    let step = step.ok_or(format!("the plan has no step t = {t}"))?;
    let [x, e, z] = [
        inputs.floats("x_t")?,
        inputs.floats("eps_hat")?,
        inputs.floats("z")?,
    ];
    let all = || x.iter().zip(&e).zip(&z);
    let (x0, prev): (Vec<f64>, Vec<f64>) = all()
        .map(|((&x, &e), &z)| step.element(clip, x, e, [z, 0.0]))
        .unzip();
    let (x0_small, prev_small): (Vec<f32>, Vec<f32>) = all()
        .map(|((&x, &e), &z)| step.element(clip, x as f32, e as f32, [z as f32, 0.0]))
        .unzip();
    Ok(vec![
        Computed::both("x0_hat", x0, &x0_small),
        Computed::both("x_prev", prev, &prev_small),
    ])
}

/// `None`: the program has no such op.
fn compute(op: &str, inputs: &Inputs) -> Option<Fallible<Vec<Computed>>> {
    Some(match op {
        "philox" | "timestep" | "normals" => random(op, inputs),
        "latent" | "tokens" => latent(op, inputs),
        "schedule" => schedule(inputs),
        "q_sample" => q_sample(inputs),
        "sampler_step" => sampler_step(inputs),
        "expand_1d" | "expand_nd" => mixtures::expansion(op, inputs),
        "gmm_eval" => mixtures::gmm_eval(inputs),
        "w1" | "div_pi" | "div_density" => mixtures::divergence(op, inputs),
        "kernel" | "kernel_min_abs_eig" | "ngmg" => mixtures::kernel(op, inputs),
        "alg1" | "alg1_curve" => mixtures::algorithm1(op, inputs),
        "entropy" => mixtures::entropy(inputs),
        _ => return None,
    })
}

fn close(got: f64, want: f64, [rtol, atol]: [f64; 2]) -> bool {
    // Undefined agrees with undefined and an infinity with itself only.
    (got.is_nan() && want.is_nan()) || got == want || (got - want).abs() <= atol + rtol * want.abs()
}

fn compare(what: &str, got: &[f64], want: &[f64], tol: [f64; 2]) -> Fallible<()> {
    if got.len() != want.len() {
        return Err(format!(
            "{what}: {} numbers, expected {}",
            got.len(),
            want.len()
        ));
    }
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        if !close(g, w, tol) {
            return Err(format!(
                "{what}[{i}] = {g:e}, expected {w:e} within {tol:?}"
            ));
        }
    }
    Ok(())
}

fn tolerance(case: &Value, precision: &str) -> Fallible<[f64; 2]> {
    let pair = case.pointer(&format!("/tol/{precision}")).and_then(flatten);
    pair.and_then(|p| p.try_into().ok())
        .ok_or(format!("tol.{precision} is not [rtol, atol]"))
}

/// Compares one case; the number of comparisons made. `Ok(None)`: no such op.
fn check(case: &Value) -> Fallible<Option<usize>> {
    let (Some(op), Some(inputs)) = (case["op"].as_str(), case.get("inputs")) else {
        return Err("`op` or `inputs` is missing".into());
    };
    let Some(computed) = compute(op, &Inputs(inputs)) else {
        return Ok(None);
    };
    let computed = computed?;
    let Some(expected) = case["expected"].as_object() else {
        return Err("`expected` is missing".into());
    };
    let (f64_tol, f32_tol) = (tolerance(case, "f64")?, tolerance(case, "f32")?);
    let mut compared = 0;
    for (name, want) in expected {
        let want = flatten(want).ok_or(format!("expected `{name}` is not numbers"))?;
        let got = computed.iter().find(|c| c.name == name);
        let got = got.ok_or(format!("the program does not compute `{name}`"))?;
        compare(&format!("{name} (f64)"), &got.f64, &want, f64_tol)?;
        compared += 1;
        if let Some(small) = &got.f32 {
            compare(&format!("{name} (f32)"), small, &want, f32_tol)?;
            compared += 1;
        }
    }
    if compared == 0 {
        return Err("`expected` is empty".into());
    }
    Ok(Some(compared))
}

/// All failures of a file, and the number of comparisons made.
fn check_file(document: &Value) -> (Vec<String>, usize) {
    let Some(cases) = document["cases"].as_array() else {
        return (vec!["the file has no list `cases`".into()], 0);
    };
    let (mut failures, mut unknown, mut compared) = (Vec::new(), Vec::new(), 0);
    for case in cases {
        match check(case) {
            Ok(Some(n)) => compared += n,
            Ok(None) => unknown.push(case["op"].as_str().unwrap_or("?").to_owned()),
            Err(e) => failures.push(format!("{}: {e}", case["id"])),
        }
    }
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        failures.push(format!(
            "the program does not have the ops {}",
            unknown.join(", ")
        ));
    }
    if document["schema"].as_u64() != Some(1) {
        failures.push(format!("schema is {}, expected 1", document["schema"]));
    }
    (failures, compared)
}

fn built_in() -> Value {
    serde_json::from_str(include_str!("reference/paper.json")).expect("paper.json is JSON")
}

#[test]
fn agrees_with_the_reference() {
    let document = match std::env::var_os("GMMK_REFERENCE") {
        None => built_in(),
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("GMMK_REFERENCE={}: {e}", path.display()));
            serde_json::from_str(&text)
                .unwrap_or_else(|e| panic!("GMMK_REFERENCE={}: {e}", path.display()))
        }
    };
    let (failures, compared) = check_file(&document);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > 0, "the file holds no case");
    println!("{compared} comparisons");
}

/// Moves one number of `value` by more than its tolerance; all numbers in turn.
fn plant(value: &mut Value, place: &mut usize, tol: [f64; 2]) -> bool {
    match value {
        Value::Array(list) => list.iter_mut().any(|v| plant(v, place, tol)),
        _ if *place > 0 => {
            *place -= 1;
            false
        }
        Value::Number(n) => {
            let x = n.as_f64().unwrap_or(0.0);
            *value = (x + 2.0 * (tol[1] + tol[0] * x.abs()) + 1e-9 * (1.0 + x.abs())).into();
            true
        }
        other => {
            *other = 0.5.into();
            true
        }
    }
}

/// The test above is worth something only if every single expected number can make it fail.
#[test]
fn every_planted_error_is_found() {
    let document = built_in();
    let mut planted = 0;
    for case in document["cases"].as_array().unwrap() {
        let tol = tolerance(case, "f64").unwrap();
        for name in case["expected"].as_object().unwrap().keys() {
            for place in 0..flatten(&case["expected"][name]).unwrap().len() {
                let mut wrong = case.clone();
                assert!(plant(&mut wrong["expected"][name], &mut place.clone(), tol));
                let found = check(&wrong);
                assert!(found.is_err(), "{}: {name}[{place}] {found:?}", case["id"]);
                planted += 1;
            }
            let mut short = case.clone();
            short["expected"][name] = Value::Array(vec![]);
            assert!(check(&short).is_err(), "{}: {name} missing", case["id"]);
        }
    }
    assert!(planted > 1000, "{planted}");
}

/// The f32 comparisons by themselves: with the f64 tolerance wide open they still fail.
#[test]
fn f32_errors_are_found() {
    let document = built_in();
    let mut narrow_ops = std::collections::BTreeSet::new();
    for case in document["cases"].as_array().unwrap() {
        let mut wrong = case.clone();
        wrong["tol"]["f64"] = serde_json::json!([1e9, 1e9]);
        let tol = tolerance(case, "f32").unwrap();
        for name in case["expected"].as_object().unwrap().keys() {
            let mut wrong = wrong.clone();
            // The second number: the first signal-to-noise ratio is undefined, never close to any.
            plant(&mut wrong["expected"][name], &mut 1, tol.map(|t| 3.0 * t));
            if check(&wrong).is_err() {
                narrow_ops.insert(case["op"].as_str().unwrap().to_owned());
            }
        }
    }
    let found: Vec<_> = narrow_ops.iter().map(String::as_str).collect();
    assert_eq!(found, ["normals", "q_sample", "sampler_step"]);
}

#[test]
fn unknown_ops_are_listed() {
    let mut document = built_in();
    document["cases"][0]["op"] = "warp".into();
    document["cases"][1]["op"] = "weave".into();
    let (failures, _) = check_file(&document);
    assert_eq!(failures, ["the program does not have the ops warp, weave"]);
}
