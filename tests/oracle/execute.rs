//! A program on the tape: recorded with a loss and its gradients, and run on poisoned memory.

use super::compare::same_bits;
use super::program::{EPS, Id, NormIds, Pre, Program, Residue, Step};
use gmmk::device::Device;
use gmmk::device::pool::Pool;
use gmmk::ops::add;
use gmmk::ops::attention::attention;
use gmmk::ops::concat::{concat, reshape};
use gmmk::ops::conv2d::{self, Algorithm, conv2d};
use gmmk::ops::group_norm::group_norm;
use gmmk::ops::linear::{self, Weights, linear};
use gmmk::ops::mse::mse;
use gmmk::ops::norm_pool::{norm_act, norm_pool};
use gmmk::ops::prologue::NormVars;
use gmmk::tape::executable::Executable;
use gmmk::tape::state::State;
use gmmk::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Numbers after a run.
#[derive(Clone)]
pub struct Results {
    /// Of each output of the program.
    pub outputs: Vec<Vec<f32>>,
    /// Mean squared error of each output.
    pub losses: Vec<f32>,
    /// Of each leaf.
    pub gradients: Vec<Vec<f32>>,
}

impl Results {
    /// Complains unless every bit is the same.
    pub fn same_bits(&self, other: &Self) -> Result<(), String> {
        let all = |r: &Self| {
            [
                r.outputs.clone(),
                vec![r.losses.clone()],
                r.gradients.clone(),
            ]
            .concat()
        };
        for (i, (a, b)) in all(self).iter().zip(&all(other)).enumerate() {
            same_bits(a, b).map_err(|e| format!("tensor {i}: {e}"))?;
        }
        Ok(())
    }
}

/// The pool of `threads` workers that all tests share.
pub fn pool(threads: usize) -> Arc<Pool> {
    static POOLS: Mutex<Vec<(usize, Arc<Pool>)>> = Mutex::new(Vec::new());
    let mut pools = POOLS.lock().unwrap();
    if let Some((_, pool)) = pools.iter().find(|p| p.0 == threads) {
        return pool.clone();
    }
    let pool = Arc::new(Pool::new(threads).unwrap());
    pools.push((threads, pool.clone()));
    pool
}

/// The tape of a program, with what a test reads back.
struct Recorded {
    tape: Tape,
    values: Vec<Var>,
    targets: Vec<Var>,
    losses: Vec<Var>,
    gradients: HashMap<Var, Var>,
}

fn norm_vars(tape: &mut Tape, v: &[Var], x: Var, n: NormIds) -> Result<NormVars, TapeError> {
    let scale_shift = n.scale_shift.map(|id| v[id]);
    group_norm(
        tape,
        x,
        (n.groups, EPS),
        [v[n.gamma], v[n.beta]],
        scale_shift,
    )
}

fn prologue(
    tape: &mut Tape,
    v: &[Var],
    x: Id,
    pre: Pre,
) -> Result<(Option<NormVars>, bool), TapeError> {
    let norm = pre.norm.map(|n| norm_vars(tape, v, v[x], n)).transpose()?;
    Ok((norm, pre.silu))
}

/// Records one step; returns its outputs.
fn record(
    tape: &mut Tape,
    v: &[Var],
    step: &Step,
    algorithm: Algorithm,
) -> Result<Vec<Var>, TapeError> {
    match step {
        Step::Conv { .. } => record_conv(tape, v, step, algorithm),
        Step::Linear {
            x,
            sets,
            pre,
            residual,
        } => {
            let (norm, silu) = prologue(tape, v, *x, *pre)?;
            let sets: Vec<Weights> = sets
                .iter()
                .map(|&[w, b]| Weights { w: v[w], b: v[b] })
                .collect();
            let extras = linear::Extras {
                norm: norm.as_ref(),
                silu,
                residual: residual.map(|r| v[r]),
            };
            linear(tape, v[*x], &sets, extras)
        }
        Step::Norm { x, norm, silu } => {
            let vars = norm_vars(tape, v, v[*x], *norm)?;
            Ok(vec![norm_act(tape, v[*x], &vars, *silu)?])
        }
        Step::NormPool { x, norm } => {
            let vars = norm_vars(tape, v, v[*x], *norm)?;
            Ok(norm_pool(tape, v[*x], &vars)?.to_vec())
        }
        Step::Attention {
            q,
            k,
            v: values,
            head,
        } => Ok(vec![attention(tape, [v[*q], v[*k], v[*values]], *head)?]),
        Step::Concat { axis, parts } => {
            let parts: Vec<Var> = parts.iter().map(|&p| v[p]).collect();
            Ok(vec![concat(tape, *axis, &parts)?])
        }
        Step::Reshape { x, shape } => Ok(vec![reshape(tape, v[*x], shape)?]),
    }
}

fn record_conv(
    tape: &mut Tape,
    v: &[Var],
    step: &Step,
    algorithm: Algorithm,
) -> Result<Vec<Var>, TapeError> {
    let Step::Conv {
        x,
        w,
        b,
        pre,
        upsample,
        residue,
    } = step
    else {
        return Ok(Vec::new());
    };
    let (norm, silu) = prologue(tape, v, *x, *pre)?;
    let residual = match *residue {
        Residue::None => None,
        Residue::Plain(r) => Some(conv2d::Residual::Plain(v[r])),
        Residue::Doubled(r) => Some(conv2d::Residual::Doubled(v[r])),
        Residue::Shortcut { from, w, b } => {
            let weights = Weights { w: v[w], b: v[b] };
            Some(conv2d::Residual::Shortcut(v[from], weights))
        }
    };
    let extras = conv2d::Extras {
        norm: norm.as_ref(),
        silu,
        upsample: *upsample,
        residual,
        algorithm,
    };
    let weights = Weights { w: v[*w], b: v[*b] };
    Ok(vec![conv2d(tape, v[*x], weights, extras)?])
}

/// Places of the parameters in their arenas, with unused room between them, and the arenas' size.
fn offsets(program: &Program) -> (Vec<usize>, usize) {
    // Of every other program the windows begin where a model's do, and tensor cores can read them; the
    // others' begin anywhere.
    let aligned = program.label.len().is_multiple_of(2);
    let mut next = if aligned { 16 } else { 3 };
    let starts = program.leaves.iter().map(|leaf| {
        let at = next;
        if leaf.param {
            next += leaf.values.len() + 5;
        }
        if aligned {
            next = next.next_multiple_of(16);
        }
        at
    });
    (starts.collect(), next)
}

fn record_all(program: &Program) -> Result<Recorded, TapeError> {
    let mut tape = Tape::new();
    let (offsets, _) = offsets(program);
    let mut values = Vec::new();
    for (i, (leaf, &offset)) in program.leaves.iter().zip(&offsets).enumerate() {
        let (name, ty) = (format!("leaf {i}"), TensorType::f32(&leaf.shape));
        let var = if leaf.param {
            tape.state(&name, ty, Arena::Params, offset)
        } else {
            tape.input(&name, ty)
        };
        tape.want_grad(var);
        values.push(var);
    }
    for (i, step) in program.steps.iter().enumerate() {
        let outputs = tape.scope(&format!("step {i}"), |tape| {
            record(tape, &values, step, program.algorithm)
        })?;
        values.extend(outputs);
    }
    let (mut targets, mut losses) = (Vec::new(), Vec::new());
    for &output in &program.outputs {
        tape.keep(values[output]);
        let ty = tape.ty(values[output]).clone();
        let target = tape.input("target", ty);
        let [loss, _] = mse(&mut tape, values[output], target)?;
        tape.keep(loss);
        targets.push(target);
        losses.push(loss);
    }
    let gradients = tape.backward(&losses, add::sum)?;
    Ok(Recorded {
        tape,
        values,
        targets,
        losses,
        gradients,
    })
}

/// Runs `program` twice on `device`; complains if the two runs differ.
pub fn execute(program: &Program, targets: &[Vec<f32>], device: Device) -> Result<Results, String> {
    let recorded = record_all(program).map_err(|e| e.to_string())?;
    let shapes = recorded
        .values
        .iter()
        .map(|&v| recorded.tape.ty(v).shape.clone());
    if !shapes.eq(program.shapes.iter().cloned()) {
        return Err("the shape rules disagree with the oracle's".into());
    }
    let gradients = recorded.gradients;
    let mut executable = Executable::new(recorded.tape, device).map_err(|e| e.to_string())?;
    let (offsets, elements) = offsets(program);
    let mut state = State::default();
    for arena in [Arena::Params, Arena::Grads] {
        state.allocate(arena, elements).map_err(|e| e.to_string())?;
        state.get_mut::<f32>(arena).fill(f32::NAN);
    }
    for (leaf, &at) in program.leaves.iter().zip(&offsets).filter(|l| l.0.param) {
        state.get_mut(Arena::Params)[at..at + leaf.values.len()].copy_from_slice(&leaf.values);
    }
    let mut runs = Vec::new();
    for _ in 0..2 {
        executable.poison().map_err(|e| e.to_string())?;
        state.get_mut::<f32>(Arena::Grads).fill(f32::NAN);
        for (leaf, &var) in program.leaves.iter().zip(&recorded.values) {
            if !leaf.param {
                executable
                    .write(var, &leaf.values)
                    .map_err(|e| e.to_string())?;
            }
        }
        for (target, &var) in targets.iter().zip(&recorded.targets) {
            executable.write(var, target).map_err(|e| e.to_string())?;
        }
        executable
            .run(&mut state, Arena::Params)
            .map_err(|e| e.to_string())?;
        state.fetch().map_err(|e| e.to_string())?;
        let gradient = |i: usize| {
            let (leaf, at) = (&program.leaves[i], offsets[i]);
            if leaf.param {
                state.get(Arena::Grads)[at..at + leaf.values.len()].to_vec()
            } else {
                executable.read(gradients[&recorded.values[i]]).unwrap()
            }
        };
        let read = |vars: &[Var]| {
            vars.iter()
                .map(|&v| executable.read(v).unwrap())
                .collect::<Vec<_>>()
        };
        let outputs: Vec<Var> = program
            .outputs
            .iter()
            .map(|&o| recorded.values[o])
            .collect();
        runs.push(Results {
            outputs: read(&outputs),
            losses: read(&recorded.losses).concat(),
            gradients: (0..program.leaves.len()).map(gradient).collect(),
        });
    }
    runs[0]
        .same_bits(&runs[1])
        .map_err(|e| format!("second run: {e}"))?;
    untouched(&state, program, &offsets)?;
    Ok(runs.swap_remove(0))
}

/// Complains if a gradient was written outside its window.
fn untouched(state: &State, program: &Program, offsets: &[usize]) -> Result<(), String> {
    let mut grads = state.get::<f32>(Arena::Grads).to_vec();
    for (leaf, &at) in program.leaves.iter().zip(offsets).filter(|l| l.0.param) {
        grads[at..at + leaf.values.len()].fill(f32::NAN);
    }
    match grads.iter().position(|g| !g.is_nan()) {
        None => Ok(()),
        Some(i) => Err(format!("gradient arena: element {i} belongs to nobody")),
    }
}
